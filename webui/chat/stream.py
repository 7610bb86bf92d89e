"""One turn as the lines the chat page reads: newline-delimited JSON, types in static/js/types.js.

Guarantees: whatever was generated is kept in the conversation, also when the reader leaves half-way, in which case the
turn is cancelled. The answer is sent as safe HTML by its changed blocks, at most about ten times a second.
Leaves to `appliance.turns`: the record. Leaves to `webui.rendering`: what is safe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from appliance.turns.events import AnswerDelta, ReasoningDelta, Started, ToolCallDelta, TurnEvent, Waiting
from appliance.turns.run import Turn
from webui.chat.view import MessageView
from webui.rendering import GrowingMarkdown

RENDER_INTERVAL_S = 0.1
RENDER_SHARE = 0.2  # of the time may go into rendering a long answer again and again


class Drawing:
    """What a page has been told of an answer, and what is new to it."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._markdown = GrowingMarkdown()
        self._next_render_s = 0.0
        self._has_unsent = False

    def lines(self, event: TurnEvent) -> Iterator[dict[str, Any]]:
        """What an event of the turn is to the page."""
        match event:
            case Started():
                yield {"type": "started", "queued_s": event.queued_s}
            case ReasoningDelta():
                yield {"type": "reasoning", "text": event.text}
            case AnswerDelta():
                self._markdown.append(event.text)
                self._has_unsent = True
                if self._clock_s() >= self._next_render_s and self._markdown.has_grown:
                    yield self._rendered()
            case Waiting() if self._has_unsent:
                yield self._rendered()
            case ToolCallDelta():
                yield {"type": "tool_call", "index": event.index, "name": event.name, "arguments": event.arguments}

    def _rendered(self) -> dict[str, Any]:
        begin_s = self._clock_s()
        keep, blocks = self._markdown.update()
        took_s = self._clock_s() - begin_s
        self._next_render_s = begin_s + max(RENDER_INTERVAL_S, took_s / RENDER_SHARE)
        self._has_unsent = False
        return {"type": "answer", "keep": keep, "blocks": blocks}


def stream_turn(
    turn: Turn,
    drawing: Drawing,
    *,
    is_gone: Callable[[], bool],
    keep: Callable[[], MessageView],
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
                lines = [_line(body) for body in drawing.lines(event)]
                if is_gone():
                    break
                yield from lines
                if isinstance(event, Waiting):
                    yield "\n"
    finally:
        view = keep()
    yield _line({"type": "end", "html": show(view), "title": title, "complete": turn.answer.is_complete})


def _line(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")) + "\n"
