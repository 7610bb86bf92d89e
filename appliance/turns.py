"""The only place that runs a turn: recorded before the engine sees it, recorded before its end is announced.

A turn is two events with the turn's id as subject: ``prompt``, with everything that decides the answer, and ``answer``,
with everything that was generated, also when it was cancelled, failed, or nobody listened any more. If one of the two
cannot be recorded the turn fails with ``record_failed``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from appliance.allowance import Allowance
from appliance.audit.event import Actor, Content, NewEvent, Outcome
from appliance.audit.log import AuditLog, RecordError
from appliance.audit.words import INDEX_VERSION
from appliance.database import DatabaseError
from appliance.engine.protocol import (
    AnswerDelta,
    Done,
    Failed,
    Message,
    ReasoningDelta,
    Started,
    Tool,
    ToolCallDelta,
    TurnEvent,
    TurnRequest,
)
from appliance.presence import PresenceError
from appliance.tables import storable

__all__ = ["Actor", "Turn", "run_turn"]

_log = logging.getLogger(__name__)
_NOT_RECORDED = Failed(
    "record_failed", "The record could not be written, so this was not answered. Tell your administrator."
)
_STOPPED = Failed("engine_stopped", "The model stopped before the answer was complete.")


class Engine(Protocol):
    """What a turn needs of `engine.client.EngineClient`."""

    def turn(self, request: TurnRequest) -> AbstractContextManager[Iterator[TurnEvent]]:
        """Events of one turn; leaving the context cancels what still runs."""


class Turn(Iterator[TurnEvent]):
    """The events of one running turn; closing or dropping it cancels the turn.

    ``prompt_event`` and ``answer_event`` are the numbers in the record, set once each is durable: the answer's before
    ``Done`` or ``Failed`` is handed out.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._events = run.events()  # must not refer to this object: dropping it is to end the generator at once

    @property
    def prompt_event(self) -> int | None:
        return self._run.prompt_event

    @property
    def answer_event(self) -> int | None:
        return self._run.answer_event

    def __next__(self) -> TurnEvent:
        return next(self._events)

    def close(self) -> None:
        """Cancel what still runs; what was generated is recorded."""
        self._events.close()


def run_turn(
    record: AuditLog, engine: Engine, actor: Actor, request: TurnRequest, *, conversation_id: str | None,
    allowance: Allowance | None = None,
) -> Turn:  # fmt: skip
    """Run one turn; its events end with ``Done`` or ``Failed``. Close the result when you stop listening early.

    Args:
        allowance: of the person who asks; None leaves the turn unlimited and uncounted.
    Raises:
        RefusedError: the prompt is larger than what could be answered, or the day's allowance is spent; nothing is
            recorded and nothing is run.
    """
    if allowance is not None:
        allowance.check(actor.user_id, request)
    return Turn(_Run(record, engine, actor, request, conversation_id, allowance))


@dataclass
class _Run:
    """One turn and what has been recorded of it."""

    record: AuditLog
    engine: Engine
    actor: Actor
    request: TurnRequest
    conversation_id: str | None
    allowance: Allowance | None
    prompt_event: int | None = None
    answer_event: int | None = None

    def events(self) -> Generator[TurnEvent, None, None]:
        refusal = self.record.refusal()
        if refusal is not None:
            _log.error("turn %s: %s", self.request.id, refusal)
            yield Failed("record_failed", f"{refusal} Tell your administrator.")
            return
        try:
            process = _process_id(self.record)
            prompt = _prompt_event(self.actor, self.request, self.conversation_id, process)
            self.prompt_event = self.record.append(prompt).sequence
            self._spend(prompt)
        except (ValueError, RecursionError) as exc:
            yield Failed("bad_request", f"The request cannot be recorded: {exc}.")
            return
        except (RecordError, PresenceError):
            _log.exception("turn %s: the prompt was not recorded", self.request.id)
            yield _NOT_RECORDED
            return
        answer = _Answer()
        end: Done | Failed = _STOPPED
        try:
            with self.engine.turn(self.request) as events:
                for event in events:
                    if isinstance(event, Done | Failed):
                        end = event
                        break
                    answer.add(event)
                    yield event
            answer.end = end
        except GeneratorExit:
            answer.abandoned = True
            raise
        finally:
            self._record_answer(answer)
        yield end if self.answer_event is not None else _NOT_RECORDED

    def _record_answer(self, answer: _Answer) -> None:
        try:
            event = answer.event(self.actor, self.request.id, self.conversation_id)
            self.answer_event = self.record.append_the_end(event).sequence
            self._spend(event)
        except (RecordError, ValueError):
            _log.exception("turn %s: the answer was not recorded", self.request.id)

    def _spend(self, event: NewEvent) -> None:
        """Count an event that is recorded. A count that cannot be kept now is kept with the next."""
        if self.allowance is None:
            return
        try:
            self.allowance.spend(self.actor.user_id, event.content)
        except DatabaseError:
            _log.exception("turn %s: its bytes are not yet counted", self.request.id)


class _Answer:
    """What the engine has said so far."""

    def __init__(self) -> None:
        self.end: Done | Failed | None = None
        self.abandoned = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._prompt_tokens: int | None = None

    def add(self, event: TurnEvent) -> None:
        match event:
            case AnswerDelta():
                self._text.append(event.text)
            case ReasoningDelta():
                self._reasoning.append(event.text)
            case ToolCallDelta():
                call = self._calls.setdefault(event.index, {"id": event.id, "name": "", "arguments": ""})
                call["name"] += event.name or ""
                call["arguments"] += event.arguments
            case Started():
                self._prompt_tokens = event.prompt_tokens

    def event(self, actor: Actor, turn_id: str, conversation_id: str | None) -> NewEvent:
        """The answer event. A model can write what cannot be stored; then ``token_ids`` alone are exact."""
        reasoning = storable("".join(self._reasoning))
        calls = [{key: storable(value) for key, value in self._calls[index].items()} for index in sorted(self._calls)]
        details: dict[str, Any] = {
            "conversation": conversation_id, "index": INDEX_VERSION, "reasoning": reasoning, "tool_calls": calls
        }  # fmt: skip
        content = Content(storable("".join(self._text)), {**details, **self._facts()})
        return NewEvent(actor, "answer", self._outcome(), turn_id, content)

    def _outcome(self) -> Outcome:
        match self.end:
            case None:
                return "abandoned" if self.abandoned else "failed"
            case Failed(code="access_ended"):
                return "cancelled"
            case Failed():
                return "failed"
            case Done(finish_reason="cancelled"):
                return "cancelled"
        return "ok"

    def _facts(self) -> dict[str, Any]:
        match self.end:
            case Done():
                return {**asdict(self.end), "token_ids": list(self.end.token_ids)}
            case Failed():
                return {"failure": asdict(self.end), "prompt_tokens": self._prompt_tokens}
        return {"prompt_tokens": self._prompt_tokens}


def _process_id(record: AuditLog) -> str | None:
    """Who runs the turn, so that it is given an end if this process dies (`appliance.interrupted`)."""
    presence = record.database.presence
    return None if presence is None else presence.own_id()


def _prompt_event(
    actor: Actor, request: TurnRequest, conversation_id: str | None, process: str | None
) -> NewEvent:
    """The prompt event; its text is what people and tools have said since the last answer before it."""
    messages = request.messages
    asked = max((i for i, m in enumerate(messages) if m.role in ("user", "tool")), default=-1)
    answered = max((i for i, m in enumerate(messages[: asked + 1]) if m.role == "assistant"), default=-1)
    said = [m.content for m in messages[answered + 1 : asked + 1] if m.role in ("user", "tool")]
    details = {
        "beside": _beside(request, answered, asked, is_conversation=conversation_id is not None),
        "conversation": conversation_id,
        "index": INDEX_VERSION,
        "process": process,
        "request": asdict(request),
    }
    return NewEvent(actor, "prompt", "ok", request.id, Content("\n\n".join(said), details))


def _beside(request: TurnRequest, answered: int, asked: int, *, is_conversation: bool) -> dict[str, int]:
    """How much of the request reaches the model beside the event's text, so that a list can say it; in characters.

    The earlier messages of a conversation have events of their own and are not counted.
    """
    instructions = [m for m in request.messages if m.role in ("system", "developer")]
    earlier = [m for m in request.messages[: answered + 1] if m.role not in ("system", "developer")]
    begun = [m for m in request.messages[asked + 1 :] if m.role == "assistant"]
    counts = {
        "system": sum(len(m.content) for m in instructions),
        "earlier": 0 if is_conversation else len(earlier),
        "earlier_characters": 0 if is_conversation else sum(_length(m) for m in earlier),
        "begun": sum(_length(m) for m in begun),
        "tools": len(request.tools),
        "tool_characters": sum(_tool_length(tool) for tool in request.tools),
        "stop": sum(map(len, request.stop)),
    }
    return {name: count for name, count in counts.items() if count}


def _length(message: Message) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return len(message.content) + len(message.reasoning or "") + calls


def _tool_length(tool: Tool) -> int:
    schema = json.dumps(tool.parameters, ensure_ascii=False) if tool.parameters else ""
    return len(tool.name) + len(tool.description) + len(schema)
