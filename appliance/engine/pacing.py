"""The token budget of a chunk: as much of a prompt as keeps a step within the longest pause that streams may have.

What a step takes is learnt from the steps before it; nothing here measures or waits.
"""

from __future__ import annotations

_PAUSE_SHARE = 0.9  # of the longest pause that a step is meant to take; the rest is for what cannot be foreseen
_LEAST_STEP_S = 1e-4  # of which a clock can be trusted


class Pacing:
    """Sizes the chunks of prompts.

    What a step takes rises slower than its tokens, and falls slower: the size rises from one token towards what fits
    without going more than one beyond, and falls faster than time is short.
    """

    def __init__(self, longest_pause_s: float) -> None:
        self._step_s = _PAUSE_SHARE * longest_pause_s
        self._stream_s = 0.0  # for each stream, of the last step without a chunk
        self._tokens = 1.0  # that fit, as far as is known,
        self._streams = 0  # beside so many streams

    def chunk_tokens(self, streams: int) -> int:
        """Tokens to read beside so many streams; the model may take fewer."""
        more_s = max(0, streams - self._streams) * self._stream_s  # at most: together they take less
        return max(1, int(self._tokens * (self._step_s / (self._step_s + more_s)) ** 2))

    def note_chunk(self, tokens: int, streams: int, seconds: float) -> None:
        """A step with a chunk of that many tokens took so long, sampling included."""
        ratio = self._step_s / max(seconds, _LEAST_STEP_S)
        asked = self._tokens if int(self._tokens) == tokens else float(tokens)
        self._tokens, self._streams = max(1.0, asked * ratio * min(1.0, ratio)), streams

    def note_decode(self, streams: int, seconds: float) -> None:
        """A step without a chunk took so long, sampling included."""
        self._stream_s = seconds / streams
