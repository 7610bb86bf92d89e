"""Token ids in, events out: reads the model's Harmony as it streams, and never raises on what the model wrote.

The model continues ``<|start|>assistant``, so the first tokens are the rest of a header:

    <|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..<|return|>

analysis becomes ``ReasoningDelta``; final, and a preamble (commentary without recipient, which the format's guide means
for the user), ``AnswerDelta``; a message to an offered function ``ToolCallDelta``. What does not fit the format is
salvaged: text keeps flowing and ``malformed`` is set. Of what the model writes in another's name (``<|start|>user``)
nothing is kept: the turn ends there.

The library's own StreamableParser is not used: it raises on malformed headers and cannot take up again afterwards.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Collection, Sequence
from enum import Enum, auto

from appliance.engine.harmony import CALL, CHANNEL, CONSTRAIN, END, FUNCTIONS, MESSAGE, RETURN, START, Vocabulary
from appliance.turns.events import AnswerDelta, FinishReason, ReasoningDelta, ToolCallDelta

Delta = ReasoningDelta | AnswerDelta | ToolCallDelta

_END_OF_TEXT = 199999
_MAX_HEADER_CHARS = 256  # the longest sound header has a channel, a recipient of 74 characters and a content type
_CHANNELS = ("analysis", "commentary", "final")
_OTHERS = ("user", "system", "developer", "tool", FUNCTIONS)
_CHANNEL_NAME = re.compile(rf"\s*({'|'.join(_CHANNELS)})")
_RECIPIENT = re.compile(r"to=([A-Za-z0-9_.\-]*)")


class _State(Enum):
    BETWEEN = auto()  # after a message; <|start|> is due
    ROLE = auto()  # after <|start|>
    ADDRESS = auto()  # after the role; <|channel|> or to=.. is due
    CHANNEL = auto()  # after <|channel|>; <|message|> is due
    CONTENT = auto()  # after <|message|>


class _Kind(Enum):
    REASONING = auto()
    PREAMBLE = auto()
    FINAL = auto()
    CALL = auto()


class HarmonyParser:
    """One turn's parser: ``push`` tokens until ``finished`` is set or there are no more, then ``flush``.

    ``finished`` is set by the token that ends the turn; ``malformed`` once anything had to be salvaged.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, turn_id: str, functions: Collection[str] = (), stop: Sequence[str] = ()
    ) -> None:
        """``functions``: names the model may call. ``stop``: texts that end the answer and do not belong to it."""
        self.finished: FinishReason | None = None
        self.malformed = False
        self.reasoning_tokens = 0
        self._vocabulary = vocabulary
        self._turn_id = turn_id
        self._functions = frozenset(functions)
        self._stop = _StopTexts(stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = _State.ADDRESS
        self._started = True  # the header began with <|start|>
        self._address = ""  # header text between role and <|channel|>
        self._pending = ""  # header text of the present state
        self._kind = _Kind.FINAL
        self._calls = 0

    def push(self, token: int) -> list[Delta]:
        """Take one sampled token; the value is what it makes known."""
        if self.finished is not None:
            raise RuntimeError("internal error: a token after the end of the turn")
        piece = self._vocabulary.token_bytes(token)
        if piece is None:
            return self._special(token)
        if self._state is _State.BETWEEN:
            self._open_header(_State.ROLE, sound=False, started=False)
        text = self._utf8.decode(piece)
        if self._state is _State.CONTENT:
            self.reasoning_tokens += self._kind is _Kind.REASONING
            return self._content(text)
        return self._header(text)

    def flush(self) -> list[Delta]:
        """Close what is open; what was held back becomes known."""
        deltas: list[Delta] = []
        if self._state in (_State.ROLE, _State.ADDRESS, _State.CHANNEL):
            deltas = self._abandon_header()
        if self._state is _State.CONTENT:
            deltas += self._content(self._utf8.decode(b"", final=True))
            if rest := self._stop.flush():
                deltas.append(AnswerDelta(rest))
        self._state = _State.BETWEEN
        return deltas

    def _special(self, token: int) -> list[Delta]:
        state = self._state
        if token == MESSAGE and state not in (_State.CONTENT, _State.BETWEEN):
            return self._open_message()
        if token == CHANNEL and state in (_State.ROLE, _State.ADDRESS):
            self.malformed |= state is _State.ROLE
            self._address, self._pending, self._state = self._pending, "", _State.CHANNEL
            return []
        if token == CONSTRAIN and state is _State.CHANNEL:
            self._pending += " "
            return []
        if token == START:
            deltas = self.flush()
            self._open_header(_State.ROLE, sound=state is _State.BETWEEN, started=True)
            return deltas
        if token == CHANNEL:
            deltas = self.flush()
            self._open_header(_State.CHANNEL, sound=False, started=True)
            return deltas
        if token in (END, RETURN, CALL, _END_OF_TEXT):
            return self._end(token)
        self.malformed = True
        return []

    # Headers

    def _open_header(self, state: _State, *, sound: bool, started: bool) -> None:
        self.malformed |= not sound
        self._state, self._started, self._pending, self._address = state, started, "", ""
        self._utf8.reset()

    def _header(self, text: str) -> list[Delta]:
        self._pending += text
        if self._state is _State.ROLE:
            return self._role()
        if self._state is _State.ADDRESS:
            return self._addressed()
        return self._abandon_header() if len(self._pending) > _MAX_HEADER_CHARS else []

    def _role(self) -> list[Delta]:
        text = self._pending.lstrip()
        if text.startswith("assistant"):
            self._state, self._pending = _State.ADDRESS, text.removeprefix("assistant")
            return self._addressed()
        if self._started and text.startswith(_OTHERS):
            self.malformed, self._state = True, _State.BETWEEN
            self._finish()
            return []
        if any(role.startswith(text) for role in ("assistant", *(_OTHERS if self._started else ()))):
            return []
        return self._salvage(_Kind.FINAL, self._pending)

    def _addressed(self) -> list[Delta]:
        text = self._pending.lstrip()
        if _CHANNEL_NAME.match(text):  # <|channel|> was left out
            self.malformed, self._state = True, _State.CHANNEL
            return []
        if any(start.startswith(text) for start in ("to=", *_CHANNELS)):
            return []
        if text.startswith("to=") and len(text) <= _MAX_HEADER_CHARS:
            return []
        return self._salvage(_Kind.FINAL, self._pending)

    def _open_message(self) -> list[Delta]:
        """<|message|>: the header is complete."""
        channel = _CHANNEL_NAME.match(self._pending) if self._state is _State.CHANNEL else None
        recipient = _RECIPIENT.search(f"{self._address} {self._pending}")
        self.malformed |= channel is None
        self._utf8.reset()
        if recipient is not None:
            return self._open_call(recipient[1])
        kinds = {"analysis": _Kind.REASONING, "commentary": _Kind.PREAMBLE}
        self._state, self._kind = _State.CONTENT, kinds.get(channel[1] if channel else "", _Kind.FINAL)
        return []

    def _open_call(self, recipient: str) -> list[Delta]:
        """A message to a function; to any other recipient it becomes reasoning, for nobody would answer it."""
        self._state, self._kind = _State.CONTENT, _Kind.CALL
        name = recipient.removeprefix(FUNCTIONS)
        self.malformed |= name == recipient
        if name not in self._functions:
            self.malformed, self._kind = True, _Kind.REASONING
            return []
        self._calls += 1
        return [ToolCallDelta(self._calls - 1, self._call_id(), name, "")]

    def _call_id(self) -> str:
        """Unique to turn and call, and the same again when the turn is replayed."""
        return "call_" + hashlib.sha256(f"{self._turn_id}/{self._calls}".encode()).hexdigest()[:24]

    # Contents

    def _content(self, text: str) -> list[Delta]:
        if self._kind is _Kind.REASONING:
            return [ReasoningDelta(text)] if text else []
        if self._kind is _Kind.CALL:
            return [ToolCallDelta(self._calls - 1, self._call_id(), None, text)] if text else []
        shown = self._stop.push(text)
        if self._stop.hit:
            self.finished = "stop"
        return [AnswerDelta(shown)] if shown else []

    def _end(self, token: int) -> list[Delta]:
        """<|end|> closes a message, and after an answer the turn; the other three close the turn."""
        in_message = self._state is _State.CONTENT
        sound = {END: set(_Kind), RETURN: {_Kind.FINAL}, CALL: {_Kind.CALL}}.get(token, set())
        self.malformed |= not in_message or self._kind not in sound
        deltas = self.flush()
        if token != END or (in_message and self._kind is _Kind.FINAL):
            self._finish()
        return deltas

    def _finish(self) -> None:
        if self.finished is None:
            self.finished = "tool_calls" if self._calls else "stop"

    def _salvage(self, kind: _Kind, text: str) -> list[Delta]:
        """Go on as if a sound header for ``kind`` had come before ``text``."""
        self.malformed, self._state, self._kind, self._pending = True, _State.CONTENT, kind, ""
        return self._content(text)

    def _abandon_header(self) -> list[Delta]:
        """No <|message|> came: what is no part of a header, if anything, is content."""
        text = self._pending
        channel = _CHANNEL_NAME.match(text) if self._state is _State.CHANNEL else None
        if channel is None and any(start.startswith(text.strip()) for start in ("assistant", "to=", *_CHANNELS)):
            return []
        rest = _RECIPIENT.sub("", text[channel.end() :] if channel else text, count=1)
        if any(start.startswith(rest.strip()) for start in ("to=", "json", "code")):
            return []
        return self._salvage(_Kind.REASONING if channel and channel[1] == "analysis" else _Kind.FINAL, rest)


class _StopTexts:
    """Finds the first stop text in a stream of pieces; holds back what may become one."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.hit = False
        self._texts = tuple(text for text in texts if text)
        self._held = ""

    def push(self, text: str) -> str:
        """The part of the stream so far that is safe to show; nothing more after a hit."""
        if self.hit or not self._texts:
            return "" if self.hit else text
        self._held += text
        found = [at for stop in self._texts if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)], ""
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
