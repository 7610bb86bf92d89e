"""The token budget of a chunk: as many tokens as keep a step within the longest pause that streams may have.

How long a step takes is learnt from earlier steps; nothing here measures or waits.
"""

from __future__ import annotations

# The longest step of a prompt while nobody streams. A request that comes meanwhile waits for it. At the beginning of a
# conversation the largest chunk takes less; at the end of the longest a single token may take 0.1 s.
LONE_STEP_S = 4.0
_PAUSE_SHARE = 0.9  # the share of the longest pause that a step may plan to take; the rest is a reserve
_DECODE_SHARE = 0.5  # the share of such a step that streams may take together; the rest is for a chunk
_LEAST_STEP_S = 1e-4  # shorter times are not trusted
# Once a step has taken too long, the size grows at once to this share of what fits by the last step's time,
_FREE_SHARE = 0.8
_GROWTH = 1.03  # and beyond it by so much a step.


class Pacing:
    """Sizes the chunks of prompts.

    The time of a step grows and shrinks more slowly than its number of tokens. So the size grows from one token towards
    what fits, by never more than one token beyond it, and shrinks faster than the excess of time alone would ask for.

    Steps of one size do not take one time: other programs use the memory, and tokens choose other experts. So once a
    step has taken too long, the last part of what fits is approached slowly. Where times vary by a tenth, less than
    half as many steps are then too long.
    """

    def __init__(self, longest_pause_s: float, first_tokens: int = 1) -> None:
        """``first_tokens``: how many to prefill while nothing is known."""
        self._step_s = _PAUSE_SHARE * longest_pause_s
        self._stream_s = 0.0  # time per stream of the last step without a chunk
        self._tokens = float(first_tokens)  # how many fit, as far as is known,
        self._streams = 0  # beside so many streams
        self._careful = False  # whether a step has taken too long

    def chunk_tokens(self, streams: int) -> int:
        """How many tokens to prefill beside so many streams; the model may take fewer."""
        more_s = max(0, streams - self._streams) * self._stream_s  # an upper bound: together they take less
        return max(1, int(self._tokens * (self._step_s / (self._step_s + more_s)) ** 2))

    def has_time_for(self, streams: int) -> bool:
        """Whether a step with so many streams leaves time for a chunk; False until a step of streams has been timed.

        It takes no longer than their number says, because together they take less.
        """
        return 0.0 < streams * self._stream_s <= _DECODE_SHARE * self._step_s

    def note_chunk(self, tokens: int, streams: int, seconds: float) -> None:
        """A step with a chunk of that many tokens took so long, sampling included."""
        ratio = self._step_s / max(seconds, _LEAST_STEP_S)
        asked = self._tokens if int(self._tokens) == tokens else float(tokens)
        if ratio < 1.0:
            self._careful, growth = True, ratio * ratio
        else:
            growth = min(ratio, max(_GROWTH, ratio * _FREE_SHARE)) if self._careful else ratio
        self._tokens, self._streams = max(1.0, asked * growth), streams

    def note_decode(self, streams: int, seconds: float) -> None:
        """A step without a chunk took so long, sampling included."""
        self._stream_s = seconds / streams
