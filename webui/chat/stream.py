"""One turn as the lines the chat page reads: newline-delimited JSON, types in static/js/types.js.

Guarantees: whatever was generated is kept in the conversation, also when the reader leaves half-way, in which case the
turn is cancelled. The answer is sent as safe HTML by its changed blocks, at most about ten times a second.
Leaves to `appliance.turns`: the record. Leaves to `webui.rendering`: what is safe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

from appliance.engine.protocol import (
    AnswerDelta,
    Done,
    Failed,
    ReasoningDelta,
    Started,
    ToolCall,
    ToolCallDelta,
    TurnEvent,
    Waiting,
)
from appliance.turns import Turn
from webui.chat.view import MessageView
from webui.rendering import GrowingMarkdown

RENDER_INTERVAL_S = 0.1
RENDER_SHARE = 0.2  # of the time may go into rendering a long answer again and again

_STOPPED = "Stopped before the end. What had come by then is kept."
_ENDINGS = {
    "length": "The answer is cut off: it reached the longest this model can write here. Ask it to go on.",
    "cancelled": _STOPPED,
}
_FAILURES = {
    "bad_request": "This cannot be asked as it stands. Your question is kept; change it and send it again.",
    "context_exceeded": "The conversation is longer than this model can read. It is kept; start a new chat to go on.",
    "overloaded": "Too many people are asking just now. Your question is kept; answer again in a moment.",
    "too_many_waiting": "You have as many questions waiting as one person may. Your question is kept; "
    "answer again when one of them is done.",
    "engine_failed": "The model failed. Your question and what had come are kept; try again.",
    "engine_stopped": "The model stopped. Your question and what had come are kept; try again in a minute.",
    "record_failed": "The record could not be written, and nothing is answered without it. Tell your administrator.",
    "access_ended": "Your access ended while this was being answered. What had come is kept. Sign in again to go on.",
}


class Answer:
    """What has come of an answer, and what the page has been told of it."""

    def __init__(self, turn: Turn, about: dict[str, Any], clock_s: Callable[[], float]) -> None:
        """Args: about: model, release and effort, kept with the answer."""
        self.text = ""
        self.reasoning = ""
        self._calls: dict[int, ToolCall] = {}
        self._turn = turn
        self._about = about
        self._clock_s = clock_s
        self._end: Done | Failed | None = None
        self._markdown = GrowingMarkdown()
        self._next_render_s = 0.0
        self._has_unsent = False
        self._thinking_since_s: float | None = None
        self._thought_s: float | None = None

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(self._calls[index] for index in sorted(self._calls))

    @property
    def complete(self) -> bool:
        return isinstance(self._end, Done) and self._end.finish_reason in ("stop", "tool_calls")

    def add(self, event: TurnEvent) -> Iterator[dict[str, Any]]:
        """Take an event of the turn in, and tell the page what is new."""
        match event:
            case Started():
                yield {"type": "started", "queued_s": event.queued_s}
            case ReasoningDelta():
                self._thinking_since_s = self._thinking_since_s or self._clock_s()
                self.reasoning += event.text
                yield {"type": "reasoning", "text": event.text}
            case AnswerDelta():
                self._finish_thinking()
                self.text += event.text
                self._markdown.append(event.text)
                self._has_unsent = True
                if self._clock_s() >= self._next_render_s and self._markdown.has_grown:
                    yield self._rendered()
            case Waiting() if self._has_unsent:
                yield self._rendered()
            case ToolCallDelta():
                self._finish_thinking()
                so_far = self._calls.get(event.index) or ToolCall(event.id, event.name or "", "")
                self._calls[event.index] = ToolCall(so_far.id, so_far.name, so_far.arguments + event.arguments)
                yield {"type": "tool_call", "index": event.index, "name": event.name, "arguments": event.arguments}
            case Done() | Failed():
                self._finish_thinking()
                self._end = event

    def details(self) -> dict[str, Any]:
        """What is kept with the answer; read by `webui.chat.view`."""
        details = {**self._about, "prompt_event": self._turn.prompt_event, "event": self._turn.answer_event}
        if self._thought_s is not None:
            details["thought_s"] = round(self._thought_s, 1)
        match self._end:
            case Done():
                details |= {name: value for name, value in asdict(self._end).items() if name != "token_ids"}
                problem = _ENDINGS.get(self._end.finish_reason)
            case Failed():
                details["failure"] = self._end.code
                problem = _FAILURES[self._end.code]
            case None:
                problem = _STOPPED
        return {**details, "problem": problem} if problem else details

    def _finish_thinking(self) -> None:
        if self._thinking_since_s is not None and self._thought_s is None:
            self._thought_s = self._clock_s() - self._thinking_since_s

    def _rendered(self) -> dict[str, Any]:
        begin_s = self._clock_s()
        keep, blocks = self._markdown.update()
        took_s = self._clock_s() - begin_s
        self._next_render_s = begin_s + max(RENDER_INTERVAL_S, took_s / RENDER_SHARE)
        self._has_unsent = False
        return {"type": "answer", "keep": keep, "blocks": blocks}


def stream_turn(
    turn: Turn,
    answer: Answer,
    *,
    is_gone: Callable[[], bool],
    keep: Callable[[Answer], MessageView],
    show: Callable[[MessageView], str],
    title: str,
) -> Iterator[str]:
    """The lines of one turn; an empty one every second in which there is nothing to say.

    Args:
        is_gone: whether the reader has left; asked with every event, because a write tells it too late.
        keep: store the answer in the conversation; called once, however the turn ends.
        show: the whole answer as HTML.
    """
    try:
        with closing(turn):
            yield _line({"type": "accepted"})
            for event in turn:
                lines = [_line(body) for body in answer.add(event)]  # kept even if nobody reads it, as in the record
                if is_gone():
                    break
                yield from lines
                if isinstance(event, Waiting):
                    yield "\n"
    finally:
        view = keep(answer)
    yield _line({"type": "end", "html": show(view), "title": title, "complete": answer.complete})


def _line(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")) + "\n"
