"""A running turn as the lines that the chat page reads: newline-delimited JSON, types in static/js/types.js.

Any number of pages may read along, each from the first event that it has not seen. The turn needs none of them
(`appliance.turns.running`). The answer is sent as safe HTML, block by changed block, about ten times a second at most.
`webui.rendering` decides what is safe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, Final

from appliance.turns.answer import Answer
from appliance.turns.events import AnswerDelta, Queued, ReasoningDelta, Started, ToolCallDelta, TurnEvent, Waiting
from appliance.turns.journal import Entry, Kept, Reader
from webui.rendering import GrowingMarkdown

RENDER_INTERVAL_S = 0.1
RENDER_SHARE = 0.2  # at most this share of the time renders a growing answer
_KEEP_ALIVE_S: Final = 0.5


class Drawing:
    """What a page has been sent of an answer, and what is new to it."""

    def __init__(self, clock_s: Callable[[], float], *, begun: str = "") -> None:
        """Args:
        begun: the text that the turn continues; it is drawn with the first words that come.
        """
        self._clock_s = clock_s
        self._markdown = GrowingMarkdown()
        if begun:
            self._markdown.append(begun)
        self._next_render_s = 0.0
        self.has_unsent = False  # text is held back; the next `Waiting` has it sent

    def lines(self, event: TurnEvent) -> Iterator[dict[str, Any]]:
        """What the page is sent for an event of the turn."""
        match event:
            case Started():
                yield {"type": "started", "queued_s": event.queued_s}
            case ReasoningDelta():
                yield {"type": "reasoning", "text": event.text}
            case AnswerDelta():
                self._markdown.append(event.text)
                self.has_unsent = True
                if self._clock_s() >= self._next_render_s and self._markdown.has_grown:
                    yield self._rendered()
            case Waiting() if self.has_unsent:
                yield self._rendered()
            case ToolCallDelta():
                yield {"type": "tool_call", "index": event.index, "name": event.name, "arguments": event.arguments}

    def _rendered(self) -> dict[str, Any]:
        begin_s = self._clock_s()
        keep, blocks = self._markdown.update()
        took_s = self._clock_s() - begin_s
        self._next_render_s = begin_s + max(RENDER_INTERVAL_S, took_s / RENDER_SHARE)
        self.has_unsent = False
        return {"type": "answer", "keep": keep, "blocks": blocks}


def stream_turn(
    reader: Reader,
    *,
    turn_id: str,
    age_s: float,
    after: int,
    clock_s: Callable[[], float],
    is_gone: Callable[[], bool],
    end: Callable[[Answer, Kept | None], dict[str, Any]],
    begun: str = "",
) -> Iterator[str]:
    """The lines of a turn after its event `after`. While there is nothing to say, an empty line twice a second.

    ``n`` of a line is the number of the last event that the lines so far cover. ``at`` is when that event came, in
    seconds after the turn began. For a page that comes back, the answer begins with all of its blocks.

    Args:
        age_s: the turn's age.
        is_gone: says whether the reader has left. A failed write would tell it too late.
        begun: the text that the turn continues.
        end: makes the last line from the answer so far and where it is kept; None: the process that ran it has died.
    """
    answer, drawing = Answer(), Drawing(clock_s, begun=begun)
    number, at_s = 0, 0.0
    yield _line({"type": "accepted", "turn": turn_id, "age_s": round(age_s, 1)})
    while not is_gone():
        entries = reader.read(RENDER_INTERVAL_S if drawing.has_unsent else _KEEP_ALIVE_S)
        if not entries and not reader.has_owner():
            entries = reader.read(0.0)  # what the owner wrote before it released the lock
            if not entries:
                yield _line(end(answer, None))
                return
        if not entries:
            bodies = list(drawing.lines(Waiting()))
            yield from [_numbered(body, number, at_s) for body in bodies] or ["\n"]
        for entry in _joined(entries, after):
            if isinstance(entry.event, Kept):
                yield _line(end(answer, entry.event))
                return
            number, at_s = entry.number, entry.at_s
            if isinstance(entry.event, Queued):
                if number > after:
                    yield _numbered({"type": "queued", **asdict(entry.event)}, number, at_s)
                continue
            answer.add(entry.event, at_s)
            for body in drawing.lines(entry.event):
                if number > after or body["type"] == "answer":
                    yield _numbered(body, number, at_s)


def ended_turn(turn_id: str, end: dict[str, Any]) -> Iterator[str]:
    """The lines of a turn that is over."""
    yield _line({"type": "accepted", "turn": turn_id, "age_s": 0.0})
    yield _line(end)


def _joined(entries: list[Entry], after: int) -> Iterator[Entry]:
    """`entries`, with neighbouring pieces of reasoning joined, so that a page that comes back gets few lines."""
    held: Entry | None = None
    for entry in entries:
        if held is not None:
            is_same_side = (held.number > after) == (entry.number > after)
            if is_same_side and isinstance(held.event, ReasoningDelta) and isinstance(entry.event, ReasoningDelta):
                held = replace(entry, event=ReasoningDelta(held.event.text + entry.event.text))
                continue
            yield held
        held = entry
    if held is not None:
        yield held


def _numbered(body: dict[str, Any], number: int, at_s: float) -> str:
    return _line({**body, "n": number, "at": at_s})


def _line(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")) + "\n"
