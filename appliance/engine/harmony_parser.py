"""Token ids in, events out: reads the model's Harmony as it streams, and never raises on what the model wrote.

The model continues ``<|start|>assistant``, so the first tokens are the rest of a header:

    <|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..<|return|>

docs/harmony.md has the rules: what the model wrote, and what becomes of it. If a text alone does not show what it is,
it is held until the end of its message shows it. The events do not depend on how the text was cut into tokens.

The library's own StreamableParser is not used: it raises on malformed headers and cannot take up again afterwards.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from enum import Enum, auto

from appliance.engine.harmony import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    END_OF_TEXT,
    MESSAGE,
    RETURN,
    ROLE,
    START,
    Vocabulary,
)
from appliance.engine.harmony_header import Header, read_header
from appliance.engine.harmony_message import Kind, PartialMessage, is_json, is_sound_end, kind_of
from appliance.engine.harmony_output import Delta, TurnOutput
from appliance.turns.events import FinishReason

__all__ = ["Delta", "HarmonyParser"]

_ENDS = (END, RETURN, CALL, END_OF_TEXT)
_MAX_HEADER_CHARS = 256  # the longest sound header has a channel, a recipient of 74 characters and a content type
_RECIPIENT_BEGINS = "to="
_CALL_BEGINS = ("{", "[", _RECIPIENT_BEGINS)


class _State(Enum):
    BETWEEN = auto()  # after a message; <|start|> is due
    HEADER = auto()  # after <|start|>; <|message|> is due
    CONTENT = auto()  # after <|message|>


class HarmonyParser:
    """One turn's parser: ``push`` tokens until ``finished`` is set or there are no more, then ``flush``.

    ``finished`` is set by the token that ends the turn; ``malformed`` once anything had to be put right; ``notice`` at
    the end of a turn that brought neither answer nor call: a sentence that says so;
    ``stop_text`` once one of the stop texts has ended the answer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        turn_id: str,
        functions: Collection[str] = (),
        stop: Sequence[str] = (),
        begun: str | None = None,
    ) -> None:
        """
        Args:
            functions: names the model may call.
            stop: texts that end the answer and do not belong to it.
            begun: the prompt ends inside a final message with this text, which is not given out again. None: it ends
                with the role.
        """
        self.finished: FinishReason | None = None
        self.malformed = False
        self.reasoning_tokens = 0
        self._vocabulary = vocabulary
        self._functions = frozenset(functions)
        self._output = TurnOutput(turn_id, stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = _State.HEADER
        self._segments = [ROLE]  # the present header, cut at each <|channel|>; the prompt ends with the role
        self._started = True  # the header began with <|start|>
        self._message: PartialMessage | None = None  # the present one; in a header, the one that it interrupted
        self._unclaimed: PartialMessage | None = None  # complete; the answer if no other message follows
        self._answered = False  # a final message has come
        self._ended_early = False  # the turn's end came before any answer or call
        self._must_begin = False  # after that, only another message counts
        if begun is not None:
            self._segments.append("final")
            self._open_message(self._header(complete=True))
            self._output.go_on_from(begun)

    @property
    def is_in_text(self) -> bool:
        """Whether the next ordinary token is text of a message."""
        return self._state is _State.CONTENT

    @property
    def notice(self) -> str | None:
        return self._output.notice if self.finished == "stop" else None

    @property
    def stop_text(self) -> str | None:
        return self._output.stop_text

    def push(self, token: int) -> list[Delta]:
        """Take one sampled token; the value is what it makes known."""
        if self.finished is not None:
            raise RuntimeError("internal error: a token after the end of the turn")
        piece = self._vocabulary.token_bytes(token)
        if self._must_begin and token not in (START, CHANNEL):
            self._finish()
        elif piece is None:
            self._special(token)
        else:
            self._text(self._utf8.decode(piece))
            if self._state is _State.CONTENT and self._message is not None:
                self._message.tokens += 1
        if self._output.stop_text is not None and self.finished is None:
            self.finished = "stop"
        return self._output.take()

    def flush(self) -> list[Delta]:
        """Close what is open; what was held back becomes known."""
        self._text(self._utf8.decode(b"", final=True))
        if self.finished is None and self._state is _State.BETWEEN and (self._must_begin or self._is_over()):
            self._finish()
        if self.finished is None and self._state is _State.HEADER:
            self._abandon_header(cut_off=True)
        self._close(None)
        self._claim()
        return self._output.take()

    def _special(self, token: int) -> None:
        if token in (START, CHANNEL, MESSAGE, *_ENDS):
            self._text(self._utf8.decode(b"", final=True))
        if token == START:
            self._begin_header("", started=True)
        elif token == CHANNEL:
            self._channel()
        elif token == MESSAGE and self._state is not _State.CONTENT:
            self.malformed |= self._state is _State.BETWEEN
            self._open_message(self._header(complete=True))
        elif token == CONSTRAIN and self._state is _State.HEADER:
            self._segments[-1] += " "
        elif token in _ENDS:
            self._end(token)
        else:
            self.malformed = True

    def _text(self, text: str) -> None:
        if not text:
            return
        if self._state is _State.BETWEEN:
            self._begin_header("", started=False)
        if self._state is _State.HEADER:
            room = max(_MAX_HEADER_CHARS - sum(map(len, self._segments)), 0)
            self._segments[-1] += text[:room]
            text = text[room:]
            if text:
                self._abandon_header(overlong=True)
        if text and self.finished is None:
            self._content(text)

    # Headers

    def _begin_header(self, *segments: str, started: bool) -> None:
        """Begin a header, which ends the one before. The message in which it begins may still turn out to go on."""
        self.malformed |= not started or self._state is not _State.BETWEEN
        if self._state is _State.HEADER:
            self._abandon_header()
        if self.finished is None:
            self._state, self._segments, self._started, self._must_begin = _State.HEADER, [*segments], started, False

    def _channel(self) -> None:
        header = self._header()
        if self._state is _State.HEADER and (header.function is not None or not header.has_text):
            self._segments.append("")
        else:
            self._begin_header("", "", started=False)

    def _header(self, *, complete: bool = False) -> Header:
        segments = self._segments if self._state is _State.HEADER else [""]
        return read_header(segments, started=self._started, complete=complete, functions=self._functions)

    def _abandon_header(self, *, overlong: bool = False, cut_off: bool = False) -> None:
        """No <|message|> came: text that is no part of a header is content."""
        header = self._header()
        self._state = _State.BETWEEN if self._message is None else _State.CONTENT
        if header.is_foreign:
            self.malformed = True
            self._finish()
        elif cut_off and header.may_go_on:
            return
        elif self._message is not None and header.is_empty:  # a special token inside a text
            self.malformed = True
            self._content("".join(self._segments))
        elif header.has_text or overlong:
            self._open_message(header)
            self._content(header.rest.lstrip() if header.recipient is not None else header.rest)

    def _open_message(self, header: Header) -> None:
        self.malformed |= not header.is_sound
        self._state = _State.BETWEEN
        self._close(None)
        if header.is_foreign:
            self._finish()
        if self.finished is not None:
            return
        if self._unclaimed is not None:  # another message follows, so it was no answer
            self._output.begin_message()
            self._think(self._unclaimed)
            self._unclaimed = None
        self._output.begin_message()
        self._message, self._state = PartialMessage(kind_of(header), header), _State.CONTENT
        if self._message.kind is Kind.CALL and header.function is not None:
            self._output.open_call(header.function)
        elif self._message.kind is Kind.LOST_CALL:
            self._output.lose_call(header.recipient or "")

    # Contents

    def _content(self, text: str) -> None:
        message = self._message
        if message is None:
            raise RuntimeError("internal error: content without a message")
        if message.kind is Kind.PREAMBLE:
            self._preamble(message, text)
        elif message.kind is Kind.FINAL:
            self._output.say(text)
        elif message.kind in (Kind.REASONING, Kind.LOST_CALL):
            self._output.think(text)
        else:
            message.held.append(text)
            if message.kind is Kind.CALL:
                self._output.add_arguments(text)

    def _preamble(self, message: PartialMessage, text: str) -> None:
        """A preamble that begins like a call may be one that lost its recipient; its end shows which."""
        message.held.append(text)
        begin = "".join(message.held).lstrip()
        if begin.startswith(_CALL_BEGINS):
            message.kind = Kind.HELD
        elif not any(call.startswith(begin) for call in _CALL_BEGINS):
            message.kind = Kind.FINAL
        if message.kind is Kind.FINAL:
            self._output.say("".join(message.held))

    def _think(self, message: PartialMessage) -> None:
        self._output.think("".join(message.held))
        self.reasoning_tokens += message.tokens

    # Ends

    def _end(self, token: int) -> None:
        """<|end|> closes a message; the other three close the turn, if it has brought anything."""
        if self._state is _State.HEADER:
            self._end_header(token)
        message = self._message
        self.malformed |= message is None or not is_sound_end(token, message.header)
        self._close(token)
        if token == END or self.finished is not None:
            return
        if token == END_OF_TEXT or self._ended_early or self._is_over():
            self._finish()
        else:
            self._ended_early = self._must_begin = True

    def _end_header(self, token: int) -> None:
        header = self._header()
        names_call = header.function is not None if header.recipient is None else not header.has_text
        if token == CALL and names_call and not header.is_foreign:
            self._open_message(header)  # a call without arguments
        else:
            self._abandon_header()

    def _close(self, end: int | None) -> None:
        """The present message is complete; ``end`` is the token that said so, None for any other reason."""
        message, self._message = self._message, None
        self._state = _State.BETWEEN
        if message is None:
            return
        if message.kind is Kind.HELD:
            self._decide(message, end)
        elif message.kind is Kind.PREAMBLE:  # blanks
            self._output.say("".join(message.held))
        elif message.kind is Kind.CALL:
            self.malformed |= end is not None and not is_json("".join(message.held))
        elif message.kind is Kind.FINAL:
            self._answered |= message.header.channel == "final"
        else:
            self.reasoning_tokens += message.tokens
        self._output.end_message()

    def _decide(self, message: PartialMessage, end: int | None) -> None:
        """What a held message was, now that its end is known."""
        header, text = message.header, "".join(message.held)
        came_too_early = text.lstrip().startswith(_RECIPIENT_BEGINS)  # <|message|>, which stands before the recipient
        if end == CALL and header.function is None and came_too_early:
            header = read_header(["", text.lstrip()], started=False, complete=False, functions=self._functions)
            text = header.rest.lstrip()
        if end == CALL and header.function is not None:
            self._output.open_call(header.function)
            self._output.add_arguments(text)
        elif end == CALL:
            self._output.lose_call(header.recipient or "")
            self._think(message)
        elif header.doubtful:  # a function's result, invented
            self._finish()
        elif end == RETURN or header.channel is not None:
            self._output.say(text)
            self._answered |= end == RETURN or header.channel == "final"
        elif message.held:
            self._unclaimed = message

    def _is_over(self) -> bool:
        """Whether the turn has brought what a turn can bring."""
        return self._answered or self._output.called or self._output.has_lost_call or self._unclaimed is not None

    def _claim(self) -> None:
        """The last message of unknown kind is the answer, because there is no other."""
        message, self._unclaimed = self._unclaimed, None
        if message is not None:
            self._output.begin_message()
            self._output.say("".join(message.held))
            self._output.end_message()

    def _finish(self) -> None:
        if self.finished is not None:
            return
        self._close(None)
        self._claim()
        self.finished = "tool_calls" if self._output.called else "stop"
