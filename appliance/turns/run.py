"""The only place that runs a turn: recorded before the engine sees it, recorded before its end is announced.

A turn is two events with the turn's id as subject: ``prompt``, with everything that decides the answer, and ``answer``,
with everything that was generated, even if the turn was cancelled, failed or abandoned. If one of the two cannot be
recorded, the turn fails with ``record_failed``.
"""

from __future__ import annotations

import json
import logging
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from appliance.audit.details.indexed import INDEX_VERSION
from appliance.audit.details.turns import Beside, FileFacts, PromptDetails
from appliance.audit.event import Actor, Content, NewEvent, Outcome
from appliance.audit.log import AuditLog, RecordError
from appliance.database.presence import PresenceError
from appliance.database.transactions import DatabaseError
from appliance.people.allowance import Bounds, Leave
from appliance.turns.answer import Answer
from appliance.turns.engine import Engine
from appliance.turns.events import Done, Failed, TurnEvent, failed
from appliance.turns.request import Message, Tool, TurnRequest

_log = logging.getLogger(__name__)
_NOT_RECORDED = failed("record_failed")


class Turn(Iterator[TurnEvent]):
    """The events of one running turn; closing or dropping it cancels the turn.

    ``answer`` is what the turn has said so far. ``prompt_event`` and ``answer_event`` are numbers in the record; each
    is set once its event is durable, the answer's before ``Done`` or ``Failed`` is handed out.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._events = run.events()  # must not refer to this object, so that dropping it ends the generator at once

    @property
    def request(self) -> TurnRequest:
        return self._run.request

    @property
    def answer(self) -> Answer:
        return self._run.answer

    @property
    def prompt_event(self) -> int | None:
        return self._run.prompt_event

    @property
    def answer_event(self) -> int | None:
        return self._run.answer_event

    def begin(self) -> Failed | None:
        """Record the prompt; return why that failed, else None. Without this call the first `next` records it."""
        return self._run.begin()

    def __next__(self) -> TurnEvent:
        return next(self._events)

    def close(self) -> None:
        """Cancel what still runs; what was generated is recorded."""
        self._events.close()
        self._run.end_unstarted()
        self._run.give_back()


def run_turn(
    record: AuditLog, engine: Engine, actor: Actor, request: TurnRequest, *, conversation_id: str | None,
    allowance: Bounds | None = None, files: tuple[FileFacts, ...] = (), marking: str | None = None,
    clock_s: Callable[[], float] = time.monotonic,
) -> Turn:  # fmt: skip
    """Run one turn; its events end with ``Done`` or ``Failed``. Close the result when you stop listening early.

    Args:
        allowance: what the person who asks, and the key, may use; None leaves the turn unlimited and uncounted.
        files: those that went with the question; the request has their text.
        marking: the name of the conversation's marking, "" if it is not set; None if there are none.
    Raises:
        RefusedError: the prompt is too large to be answered, or the day's allowance is spent. Nothing is recorded or
            run.
    """
    leave = None if allowance is None else allowance.check(actor.user_id, request)
    turn = Turn(_Run(record, engine, actor, request, conversation_id, allowance, files, marking, clock_s, leave))
    if leave is not None:
        weakref.finalize(turn, leave, later=True)  # a turn that is dropped before it began has no other end
    return turn


@dataclass
class _Run:
    """One turn and what has been recorded of it."""

    record: AuditLog
    engine: Engine
    actor: Actor
    request: TurnRequest
    conversation_id: str | None
    allowance: Bounds | None
    files: tuple[FileFacts, ...]
    marking: str | None
    clock_s: Callable[[], float]
    leave: Leave | None = None  # gives back the place that the allowance gave the turn
    answer: Answer = field(default_factory=Answer)
    prompt_event: int | None = None
    answer_event: int | None = None
    is_ended: bool = False  # recording the answer was tried, successfully or not

    def begin(self) -> Failed | None:
        if self.prompt_event is not None:
            return None
        refusal = self.record.refusal()
        if refusal is not None:
            _log.error("turn %s: %s", self.request.id, refusal)
            return Failed("record_failed", f"{refusal} Tell your administrator.")
        try:
            process = self.record.database.presence.own_id()  # if it dies, interrupted.py closes the turn
            prompt = _prompt_event(self.actor, self.request, self.conversation_id, process, self.files, self.marking)
            self.prompt_event = self.record.append(prompt).sequence
            self._spend(prompt)
        except (ValueError, RecursionError) as exc:
            return Failed("bad_request", f"The request cannot be recorded: {exc}.")
        except (RecordError, PresenceError):
            _log.exception("turn %s: the prompt was not recorded", self.request.id)
            return _NOT_RECORDED
        return None

    def events(self) -> Generator[TurnEvent, None, None]:
        refused = self.begin()
        if refused is not None:
            self.give_back()
            self.answer.add(refused, self.clock_s())
            yield refused
            return
        end: Done | Failed = failed("engine_stopped")
        is_abandoned = False
        try:
            with self.engine.turn(self.request) as events:
                for event in events:
                    if isinstance(event, Done | Failed):
                        end = event
                        break
                    self.answer.add(event, self.clock_s())
                    yield event
            self.answer.add(end, self.clock_s())
        except GeneratorExit:
            is_abandoned = True
            raise
        finally:
            self._record_answer(_outcome(self.answer.end, is_abandoned=is_abandoned))
        yield end if self.answer_event is not None else _NOT_RECORDED

    def end_unstarted(self) -> None:
        """Record the end of a turn whose prompt is recorded but never reached the engine."""
        if self.prompt_event is not None and not self.is_ended:
            self._record_answer("abandoned")

    def _record_answer(self, outcome: Outcome) -> None:
        self.is_ended = True
        try:
            content = self.answer.content(self.conversation_id)
            event = NewEvent(self.actor, "answer", outcome, self.request.id, content)
            self.answer_event = self.record.append_the_end(event).sequence
            self._spend(event)
        except (RecordError, ValueError):
            _log.exception("turn %s: the answer was not recorded", self.request.id)
            self.answer.end = _NOT_RECORDED
        finally:
            self.give_back()

    def give_back(self) -> None:
        """Give back the place of the turn, which is over."""
        if self.leave is not None:
            self.leave()

    def _spend(self, event: NewEvent) -> None:
        """Count a recorded event. A count that cannot be stored now is stored with the next one."""
        if self.allowance is None:
            return
        try:
            self.allowance.spend(self.actor.user_id, event.content)
        except DatabaseError:
            _log.exception("turn %s: what it used is not yet counted", self.request.id)


def _outcome(end: Done | Failed | None, *, is_abandoned: bool) -> Outcome:
    match end:
        case None:
            return "abandoned" if is_abandoned else "failed"
        case Failed(code="access_ended" | "stopped" | "closing"):
            return "cancelled"
        case Failed():
            return "failed"
        case Done(finish_reason="cancelled"):
            return "cancelled"
    return "ok"


def _prompt_event(
    actor: Actor, request: TurnRequest, conversation_id: str | None, process: str, files: tuple[FileFacts, ...],
    marking: str | None,
) -> NewEvent:  # fmt: skip
    """The prompt event; its text is what people and tools have said since the previous answer."""
    messages = request.messages
    asked = max((i for i, m in enumerate(messages) if m.role in ("user", "tool")), default=-1)
    answered = max((i for i, m in enumerate(messages[: asked + 1]) if m.role == "assistant"), default=-1)
    said = [m.content for m in messages[answered + 1 : asked + 1] if m.role in ("user", "tool")]
    beside = _beside(request, answered, asked, is_conversation=conversation_id is not None)
    details = PromptDetails(
        conversation=conversation_id,
        request=request,
        beside=beside,
        index=INDEX_VERSION,
        process=process,
        files=files,
        marking=marking,
    )
    return NewEvent(actor, "prompt", "ok", request.id, Content("\n\n".join(said), details))


def _beside(request: TurnRequest, answered: int, asked: int, *, is_conversation: bool) -> Beside:
    """How much of the request, other than the event's text, reaches the model.

    The earlier messages of a conversation have events of their own and are not counted.
    """
    instructions = [m for m in request.messages if m.role in ("system", "developer")]
    earlier = [m for m in request.messages[: answered + 1] if m.role not in ("system", "developer")]
    begun = [m for m in request.messages[asked + 1 :] if m.role == "assistant"]
    return Beside(
        system=sum(len(m.content) for m in instructions),
        earlier=0 if is_conversation else len(earlier),
        earlier_characters=0 if is_conversation else sum(_length(m) for m in earlier),
        begun=sum(_length(m) for m in begun),
        tools=len(request.tools),
        tool_characters=sum(_tool_length(tool) for tool in request.tools),
        stop=sum(map(len, request.stop)),
        schema=0 if request.answer_schema is None else len(json.dumps(request.answer_schema, ensure_ascii=False)),
    )


def _length(message: Message) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return len(message.content) + len(message.reasoning or "") + calls


def _tool_length(tool: Tool) -> int:
    schema = json.dumps(tool.parameters, ensure_ascii=False) if tool.parameters else ""
    return len(tool.name) + len(tool.description) + len(schema)
