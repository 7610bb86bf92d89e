"""What a turn gives to the reader: answer, reasoning and calls as events, and a sentence where there is neither answer
nor call. Messages of one kind are set apart by a blank line, so that no two sentences run together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from appliance.engine.stop_texts import StopTexts
from appliance.turns.events import AnswerDelta, ReasoningDelta, ToolCallDelta

Delta = ReasoningDelta | AnswerDelta | ToolCallDelta

_BREAK = "\n\n"
_MAX_NAME_CHARS = 64


class TurnOutput:
    """Gathers the events of one turn; ``take`` hands over those since the last time.

    ``called``: there was a call of an offered function. ``stop_text``: the stop text that has ended the
    answer.
    """

    def __init__(self, turn_id: str, stop: Sequence[str]) -> None:
        self.called = False
        self._turn_id = turn_id
        self._stop = StopTexts(stop)
        self._deltas: list[Delta] = []
        self._message = 0  # number of the present message
        self._said: int | None = None  # the last message with words for the reader
        self._thought: int | None = None  # the last message with reasoning
        self._is_visible = False  # the answer has more than blanks
        self._calls = 0
        self._lost: str | None = None  # a lost call that nothing has followed; the name as the model wrote it

    @property
    def stop_text(self) -> str | None:
        return self._stop.hit

    @property
    def has_lost_call(self) -> bool:
        return self._lost is not None

    @property
    def notice(self) -> str | None:
        """One sentence for a turn that brought neither answer nor call, or ended in a call of nothing."""
        if self.stop_text is not None or self.called:
            return None
        if self._lost:
            return f'The model called "{self._lost}", a function that was not offered to it, so nothing was called.'
        if self._lost is not None:
            return "The model wrote a call without the name of a function, so nothing was called."
        if self._is_visible:
            return None
        if self._thought is not None:
            return "The model ended its turn without an answer; it only wrote down its reasoning."
        return "The model ended its turn without an answer."

    def take(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def begin_message(self) -> None:
        """From now on, pieces belong to another message."""
        self._message += 1

    def go_on_from(self, text: str) -> None:
        """The answer began with this text, which its reader has."""
        self._is_visible = bool(text.strip())
        self._said = self._message if text else None

    def end_message(self) -> None:
        """A message ends here. No stop text reaches across messages."""
        self._show(self._stop.flush())

    def say(self, text: str) -> None:
        """A piece of the answer."""
        self._lost = None
        self._show(self._stop.push(text))

    def think(self, text: str) -> None:
        """A piece of the reasoning."""
        if text:
            broken = self._thought not in (None, self._message)
            self._thought = self._message
            self._deltas.append(ReasoningDelta(_BREAK + text if broken else text))

    def open_call(self, name: str) -> None:
        """A call of an offered function begins."""
        self._lost, self.called = None, True
        self._calls += 1
        self._deltas.append(ToolCallDelta(self._calls - 1, self._call_id(), name, ""))

    def add_arguments(self, text: str) -> None:
        """A piece of the arguments of the call that was opened last."""
        if text:
            self._deltas.append(ToolCallDelta(self._calls - 1, self._call_id(), None, text))

    def lose_call(self, name: str) -> None:
        """A call that cannot be handed over begins: of a function that was not offered, or of none (an empty name)."""
        self._lost = name[:_MAX_NAME_CHARS]

    def _show(self, text: str) -> None:
        if text:
            broken = self._said not in (None, self._message)
            self._said = self._message
            self._is_visible |= not text.isspace()
            self._deltas.append(AnswerDelta(_BREAK + text if broken else text))

    def _call_id(self) -> str:
        """Unique to turn and call, and the same again when the turn is replayed."""
        return "call_" + hashlib.sha256(f"{self._turn_id}/{self._calls}".encode()).hexdigest()[:24]
