"""The answer of a turn: the one fold of its events, and the forms in which an answer is stored.

answer = Answer()
for event in turn: answer.add(event, at_s)
answer.words, answer.end, answer.problem
answer.content(conversation_id)          what the record holds of it; read by `words_of`
answer.facts(..)                         what a conversation keeps beside the words; read by `facts_of`
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from appliance.audit.details.codec import ALWAYS, SPREAD, Details, UnreadableDetails, read_first, spread_without
from appliance.audit.details.indexed import INDEX_VERSION
from appliance.audit.details.turns import AnswerDetails, FinishedAnswer, TurnFailure, UnfinishedAnswer
from appliance.audit.event import Content
from appliance.database.tables import storable
from appliance.turns.events import (
    ENDINGS,
    FAILURES,
    AnswerDelta,
    Done,
    Failed,
    FailureCode,
    ReasoningDelta,
    Started,
    TokenLogprob,
    ToolCallDelta,
    TurnEvent,
)
from appliance.turns.request import Effort, ToolCall


@dataclass(frozen=True)
class Words:
    """What an answer says: its text, the reasoning before it, and the calls at its end."""

    text: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Stretch:
    """Reasoning or text that was said without anything else between. ``tokens`` as in `AnswerDelta`."""

    kind: Literal["reasoning", "text"]
    text: str
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class About:
    """What made an answer."""

    model: str
    release: str
    effort: Effort


@dataclass(frozen=True)
class Part:
    """One turn of an answer that several turns have written. The events are numbers in the record."""

    turn: str | None = None
    prompt_event: int | None = None
    event: int | None = None


@dataclass(frozen=True, kw_only=True)
class Facts(Details):
    """What a conversation keeps of an answer beside its words.

    ``prompt_event`` and ``event`` are numbers in the record. ``about`` and ``done`` are None for an answer that was
    interrupted; ``done`` leaves out the sampled tokens. Where an answer that was cut off was continued, all of these
    are about its last part, and ``earlier`` names the parts before it.
    """

    about: About | None = field(default=None, metadata=SPREAD)
    turn: str | None = None
    prompt_event: int | None = field(default=None, metadata=ALWAYS)
    event: int | None = field(default=None, metadata=ALWAYS)
    thought_s: float | None = None
    done: Done | None = field(default=None, metadata=spread_without("token_ids"))
    failure: FailureCode | None = None
    problem: str | None = None  # what happened, what was kept, what to do; None for a complete answer
    earlier: tuple[Part, ...] = ()
    imported: str | None = None  # who claims to have written it; None: this appliance did

    @property
    def is_cut_off(self) -> bool:
        """Whether the model can have more to say: it was stopped, failed, or reached its greatest length."""
        return self.failure is not None or (self.done is not None and self.done.finish_reason in ENDINGS)

    def after(self, before: Facts) -> Facts:
        """The facts of an answer of which these are the last part's."""
        part = Part(before.turn, before.prompt_event, before.event)
        thought_s = before.thought_s if self.thought_s is None else self.thought_s
        return replace(self, earlier=(*before.earlier, part), thought_s=thought_s)


def facts_of(stored: object) -> Facts | UnreadableDetails:
    """The facts that were stored, by this release or an earlier one."""
    return read_first((Facts,), stored)


def words_of(content: Content) -> Words | None:
    """The words of an answer's event in the record; None where the event is no answer that the appliance recorded."""
    details = content.details
    if not isinstance(details, AnswerDetails):
        return None
    return Words(content.text, details.reasoning, details.tool_calls)


def end_of(content: Content) -> Done | Failed | None:
    """How an answer ended, according to its event in the record; None where the asker had left before the end."""
    match content.details:
        case FinishedAnswer(done=done):
            return done
        case UnfinishedAnswer(failure=TurnFailure(code=code, message=message, retry_after_s=retry_after_s)):
            return next((Failed(known, message, retry_after_s) for known in FAILURES if known == code), None)
    return None


class Answer:
    """What a turn has said so far."""

    def __init__(self) -> None:
        self.end: Done | Failed | None = None
        self.started: Started | None = None
        self._parts: list[_Stretch | _Call] = []  # in the order in which they began
        self._thinking_since_s: float | None = None
        self.thought_s: float | None = None  # from the first word of the reasoning to the first after it

    def add(self, event: TurnEvent, at_s: float = 0.0) -> None:
        """Add one event that came at `at_s`, on any clock."""
        match event:
            case ReasoningDelta():
                self._say("reasoning", event.text)
                if self._thinking_since_s is None:
                    self._thinking_since_s = at_s
            case AnswerDelta():
                self._say("text", event.text, event.tokens)
                self._finish_thinking(at_s)
            case ToolCallDelta():
                self._call(event).arguments.append(event.arguments)
                self._finish_thinking(at_s)
            case Started():
                self.started = event
            case Done() | Failed():
                self.end = event
                self._finish_thinking(at_s)

    @property
    def words(self) -> Words:
        """Everything that has come so far."""
        stretches = [part for part in self._parts if isinstance(part, _Stretch)]
        text = (piece for part in stretches if part.kind == "text" for piece in part.pieces)
        reasoning = (piece for part in stretches if part.kind == "reasoning" for piece in part.pieces)
        calls = sorted((part for part in self._parts if isinstance(part, _Call)), key=lambda call: call.index)
        return Words("".join(text), "".join(reasoning), tuple(call.whole for call in calls))

    @property
    def parts(self) -> tuple[Stretch | ToolCall, ...]:
        """The same in the order in which it came: a model can go on to reason after it has said something."""
        return tuple(part.whole for part in self._parts)

    @property
    def part_count(self) -> int:
        return len(self._parts)

    def part(self, place: int) -> Stretch | ToolCall:
        """One of the parts, without drawing the others up."""
        return self._parts[place].whole

    @property
    def tokens(self) -> tuple[TokenLogprob, ...]:
        """The tokens of the text, if the request asked for log probabilities. The record does not hold them: a replay
        computes them again."""
        return tuple(token for part in self._parts if isinstance(part, _Stretch) for token in part.tokens)

    @property
    def is_complete(self) -> bool:
        return isinstance(self.end, Done) and self.end.finish_reason not in ENDINGS and self.end.notice is None

    @property
    def problem(self) -> str | None:
        """What a person is told about an incomplete answer."""
        match self.end:
            case Failed():
                return FAILURES[self.end.code].words
            case Done():
                return self.end.notice or ENDINGS.get(self.end.finish_reason)
        return ENDINGS["cancelled"]

    def facts(self, about: About | None, *, turn: str, prompt_event: int | None, event: int | None) -> Facts:
        """What a conversation keeps beside the words; the events are numbers in the record, None if not recorded."""
        end = self.end
        return Facts(
            about=about, turn=turn, prompt_event=prompt_event, event=event,
            thought_s=None if self.thought_s is None else round(self.thought_s, 1),
            done=replace(end, token_ids=()) if isinstance(end, Done) else None,
            failure=end.code if isinstance(end, Failed) else None,
            problem=self.problem,
        )  # fmt: skip

    def content(self, conversation_id: str | None) -> Content:
        """What the record holds. A model can write text that cannot be stored; then only ``token_ids`` are exact."""
        words = self.words
        calls = tuple(ToolCall(storable(c.id), storable(c.name), storable(c.arguments)) for c in words.calls)
        return Content(storable(words.text), self._details(conversation_id, storable(words.reasoning), calls))

    def _details(self, conversation: str | None, reasoning: str, calls: tuple[ToolCall, ...]) -> AnswerDetails:
        end, started = self.end, self.started
        arithmetic = None if started is None else started.arithmetic
        if isinstance(end, Done):
            return FinishedAnswer(
                conversation=conversation, reasoning=reasoning, tool_calls=calls, done=end, index=INDEX_VERSION,
                arithmetic=arithmetic,
            )  # fmt: skip
        failure = None
        if end is not None:
            failure = TurnFailure(code=end.code, message=end.message, retry_after_s=end.retry_after_s)
        prompt_tokens = None if started is None else started.prompt_tokens
        return UnfinishedAnswer(
            conversation=conversation, reasoning=reasoning, tool_calls=calls, prompt_tokens=prompt_tokens,
            failure=failure, index=INDEX_VERSION, arithmetic=arithmetic,
        )  # fmt: skip

    def _say(self, kind: Literal["reasoning", "text"], piece: str, tokens: tuple[TokenLogprob, ...] = ()) -> None:
        if not piece:  # no token ends in it either: each has a byte of the text
            return
        last = self._parts[-1] if self._parts else None
        if not (isinstance(last, _Stretch) and last.kind == kind):
            last = _Stretch(kind, [], [])
            self._parts.append(last)
        last.pieces.append(piece)
        last.tokens.extend(tokens)

    def _call(self, event: ToolCallDelta) -> _Call:
        known = (part for part in self._parts if isinstance(part, _Call) and part.index == event.index)
        call = next(known, None)
        if call is None:
            call = _Call(event.index, event.id, event.name or "", [])
            self._parts.append(call)
        return call

    def _finish_thinking(self, at_s: float) -> None:
        if self._thinking_since_s is not None and self.thought_s is None:
            self.thought_s = at_s - self._thinking_since_s


@dataclass
class _Stretch:
    """A stretch while it is being written."""

    kind: Literal["reasoning", "text"]
    pieces: list[str]
    tokens: list[TokenLogprob]

    @property
    def whole(self) -> Stretch:
        return Stretch(self.kind, "".join(self.pieces), tuple(self.tokens))


@dataclass
class _Call:
    """A call while it is being written."""

    index: int
    id: str
    name: str
    arguments: list[str]

    @property
    def whole(self) -> ToolCall:
        return ToolCall(self.id, self.name, "".join(self.arguments))
