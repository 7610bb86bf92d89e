"""Token ids in, events out, for a request of the form "text": the model continues a bare text, without Harmony.

It has what the scheduler uses of `appliance.engine.harmony_parser.HarmonyParser`. ``<|return|>`` or ``<|endoftext|>``
ends the text. The mask of `appliance.engine.harmony_grammar` lets the model draw no other special token.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Final

from appliance.engine.harmony import END_OF_TEXT, RETURN, Vocabulary
from appliance.engine.harmony_output import Delta, TurnOutput
from appliance.turns.events import FinishReason


class TextParser:
    """One turn's parser: ``push`` tokens until ``finished`` is set or there are no more, then ``flush``."""

    malformed: Final = False
    reasoning_tokens: Final = 0
    is_in_text: Final = True
    notice: Final[str | None] = None  # a text may end where it stands

    def __init__(self, vocabulary: Vocabulary, *, turn_id: str, stop: Sequence[str] = ()) -> None:
        """``stop``: texts that end the text and do not belong to it."""
        self.finished: FinishReason | None = None
        self._vocabulary = vocabulary
        self._output = TurnOutput(turn_id, stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def stop_text(self) -> str | None:
        return self._output.stop_text

    def push(self, token: int) -> list[Delta]:
        """Take one sampled token; the value is what it makes known."""
        if self.finished is not None:
            raise RuntimeError("internal error: a token after the end of the turn")
        piece = self._vocabulary.token_bytes(token)
        if piece is not None:
            self._output.say(self._utf8.decode(piece))
        if token in (RETURN, END_OF_TEXT) or self._output.stop_text is not None:
            self.finished = "stop"
        return self._output.take()

    def flush(self) -> list[Delta]:
        """What was held back, now that nothing follows."""
        self._output.say(self._utf8.decode(b"", final=True))
        self._output.end_message()
        return self._output.take()
