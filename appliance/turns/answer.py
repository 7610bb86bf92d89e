"""The answer of a turn: the one fold of its events, and the forms in which an answer is stored.

    answer = Answer()
    for event in turn: answer.add(event, at_s)
    answer.words, answer.end, answer.problem
    answer.content(conversation_id)          what the record holds of it; read by `words_of`
    answer.facts(..).details()               what a conversation keeps beside the words; read by `facts_of`

Stored answers stay readable: a reader treats every key that was added later as optional.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from appliance.audit.event import Content
from appliance.audit.words import INDEX_VERSION
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
    ToolCallDelta,
    TurnEvent,
)
from appliance.turns.request import Effort, ToolCall
from appliance.turns.typed import checked, hints_of


@dataclass(frozen=True)
class Words:
    """What an answer says: its text, the reasoning before it, and the calls at its end."""

    text: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class About:
    """What made an answer."""

    model: str
    release: str
    effort: Effort


@dataclass(frozen=True)
class Facts:
    """What a conversation keeps of an answer beside its words.

    ``prompt_event`` and ``event`` are numbers in the record. ``about`` and ``done`` are None for an answer that was
    interrupted; ``done`` is without its tokens.
    """

    about: About | None = None
    turn: str | None = None
    prompt_event: int | None = None
    event: int | None = None
    thought_s: float | None = None
    done: Done | None = None
    failure: FailureCode | None = None
    problem: str | None = None  # what happened, what was kept, what to do; None for a complete answer

    def details(self) -> dict[str, Any]:
        """As it is stored."""
        details: dict[str, Any] = {} if self.about is None else asdict(self.about)
        details |= {"prompt_event": self.prompt_event, "event": self.event}
        if self.done is not None:
            details |= {name: value for name, value in asdict(self.done).items() if name != "token_ids"}
        optional = {"turn": self.turn, "thought_s": self.thought_s, "failure": self.failure, "problem": self.problem}
        return details | {name: value for name, value in optional.items() if value is not None}


_FIGURES: Final = tuple(field.name for field in fields(Done) if field.name != "token_ids")
_FACTS: Final = ("turn", "prompt_event", "event", "thought_s", "failure", "problem")


def facts_of(details: dict[str, Any]) -> Facts:
    """The facts that were stored, by this release or an earlier one.

    Raises:
        ValueError, TypeError, KeyError: somebody else wrote them.
    """
    hints = hints_of(Facts)
    facts: dict[str, Any] = {name: checked(hints[name], details[name]) for name in _FACTS if name in details}
    if "model" in details:
        facts["about"] = checked(About, {field.name: details[field.name] for field in fields(About)})
    if "finish_reason" in details:
        facts["done"] = checked(Done, {name: details[name] for name in _FIGURES if name in details})
    return Facts(**facts)


def words_of(content: Content) -> Words:
    """The words of an answer's event in the record.

    Raises:
        ValueError, TypeError, KeyError: it is not an answer as the appliance records it.
    """
    calls = checked(tuple[ToolCall, ...], content.details["tool_calls"])
    return Words(content.text, checked(str, content.details["reasoning"]), calls)


class Answer:
    """What a turn has said so far."""

    def __init__(self) -> None:
        self.end: Done | Failed | None = None
        self.started: Started | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._thinking_since_s: float | None = None
        self.thought_s: float | None = None  # from the first word of the reasoning to the first after it

    def add(self, event: TurnEvent, at_s: float = 0.0) -> None:
        """Add one event that came at `at_s`, on any clock."""
        match event:
            case ReasoningDelta():
                self._reasoning.append(event.text)
                if self._thinking_since_s is None:
                    self._thinking_since_s = at_s
            case AnswerDelta():
                self._text.append(event.text)
                self._finish_thinking(at_s)
            case ToolCallDelta():
                call = self._calls.setdefault(event.index, _Call(event.id, event.name or "", []))
                call.arguments.append(event.arguments)
                self._finish_thinking(at_s)
            case Started():
                self.started = event
            case Done() | Failed():
                self.end = event
                self._finish_thinking(at_s)

    @property
    def words(self) -> Words:
        """Everything that has come so far."""
        calls = (self._calls[index] for index in sorted(self._calls))
        whole = tuple(ToolCall(call.id, call.name, "".join(call.arguments)) for call in calls)
        return Words("".join(self._text), "".join(self._reasoning), whole)

    @property
    def is_complete(self) -> bool:
        return isinstance(self.end, Done) and self.end.finish_reason not in ENDINGS and self.end.notice is None

    @property
    def problem(self) -> str | None:
        """What a person is told of an answer that is not complete."""
        match self.end:
            case Failed():
                return FAILURES[self.end.code].words
            case Done():
                return self.end.notice or ENDINGS.get(self.end.finish_reason)
        return ENDINGS["cancelled"]

    def facts(self, about: About, *, turn: str, prompt_event: int | None, event: int | None) -> Facts:
        """What a conversation keeps beside the words. Numbers of the two events in the record, where it has them."""
        end = self.end
        return Facts(
            about, turn, prompt_event, event,
            thought_s=None if self.thought_s is None else round(self.thought_s, 1),
            done=replace(end, token_ids=()) if isinstance(end, Done) else None,
            failure=end.code if isinstance(end, Failed) else None,
            problem=self.problem,
        )  # fmt: skip

    def content(self, conversation_id: str | None) -> Content:
        """What the record holds. A model can write what cannot be stored; then ``token_ids`` alone are exact."""
        words = self.words
        calls = [{name: storable(value) for name, value in asdict(call).items()} for call in words.calls]
        details: dict[str, Any] = {
            "conversation": conversation_id, "index": INDEX_VERSION, "reasoning": storable(words.reasoning),
            "tool_calls": calls,
        }  # fmt: skip
        return Content(storable(words.text), {**details, **self._ending()})

    def _ending(self) -> dict[str, Any]:
        prompt_tokens = None if self.started is None else self.started.prompt_tokens
        match self.end:
            case Done():
                return {**asdict(self.end), "token_ids": list(self.end.token_ids)}
            case Failed():
                return {"failure": asdict(self.end), "prompt_tokens": prompt_tokens}
        return {"prompt_tokens": prompt_tokens}

    def _finish_thinking(self, at_s: float) -> None:
        if self._thinking_since_s is not None and self.thought_s is None:
            self.thought_s = at_s - self._thinking_since_s


@dataclass
class _Call:
    """A call while it is being written."""

    id: str
    name: str
    arguments: list[str]
