"""Finds the stop texts, at which a caller wants the answer to end, in a stream of pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Finds the stop text that is complete first, and holds back text that may become a stop text.

    ``hit``: the stop text that was found.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.hit: str | None = None
        self._texts = tuple(text for text in texts if text)
        self._held = ""

    def push(self, text: str) -> str:
        """The next part of the stream that can be shown; nothing after a hit."""
        if self.hit is not None or not self._texts:
            return text if self.hit is None else ""
        self._held += text
        # By end, then by beginning, so that the result does not depend on how the stream was cut into pieces.
        found = [(at + len(stop), at, stop) for stop in self._texts if (at := self._held.find(stop)) >= 0]
        if found:
            _, at, self.hit = min(found)
            shown, self._held = self._held[:at], ""
            return shown
        longest = max(len(stop) for stop in self._texts) - 1
        start = max(len(self._held) - longest, 0)
        while not any(stop.startswith(self._held[start:]) for stop in self._texts):
            start += 1
        shown, self._held = self._held[:start], self._held[start:]
        return shown

    def flush(self) -> str:
        """What was held back, now that the message has ended."""
        held, self._held = self._held, ""
        return held
