"""Draws a turn as the events of a streamed response. An item begins with its first piece and is done when the next item
begins; what it holds then is taken from the turn's answer, so that a stream and a whole response agree.

Source: OpenAI API reference, "Streaming events".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

from appliance.errors import ApplianceError
from appliance.turns.answer import Answer
from appliance.turns.events import AnswerDelta, Done, ReasoningDelta, ToolCallDelta, TurnEvent
from webui.api.errors import ApiError
from webui.api.present import notice_delta
from webui.api.responses import present
from webui.api.responses.present import Envelope
from webui.api.running import sse

_log = logging.getLogger(__name__)
_TEXT: Final = "response.output_text"
_REASONING: Final = "response.reasoning_text"
_ARGUMENTS: Final = "response.function_call_arguments"


class ResponseEvents:
    """Draws one response."""

    def __init__(self, envelope: Envelope, answer: Answer) -> None:
        """
        Args:
            answer: the turn's own, which has taken each event before it is drawn.
        """
        self._envelope = envelope
        self._answer = answer
        self._number = 0
        self._begun = 0  # items so far; the last one is open
        self._item_id = ""  # of the open one
        self._is_queued = envelope.is_in_background

    def begin(self) -> Iterator[str]:
        if not self._is_queued:
            yield self._event("response.created", response=self._envelope.response("in_progress"))
            yield self._event("response.in_progress", response=self._envelope.response("in_progress"))
            return
        for kind in ("response.created", "response.queued"):
            yield self._event(kind, response=self._envelope.response("queued"))

    def add(self, event: TurnEvent) -> Iterator[str]:
        yield from self._leave_queue()
        if self._answer.part_count > self._begun:
            if self._begun:
                yield from self._end_item(self._drawn(self._begun - 1, "completed"))
            yield from self._begin_item(self._drawn(self._begun, "in_progress"))
        match event:
            case ReasoningDelta(text) if text:
                yield self._piece(f"{_REASONING}.delta", content_index=0, delta=text)
            case AnswerDelta(text, tokens) if text:
                told = present.streamed_logprobs(present.logprobs(tokens))
                yield self._piece(f"{_TEXT}.delta", content_index=0, delta=text, logprobs=told)
            case ToolCallDelta() if event.arguments:
                yield self._piece(f"{_ARGUMENTS}.delta", delta=event.arguments)

    def complete(self, done: Done, whole: dict[str, Any]) -> Iterator[str]:
        """The end of a complete answer, whose whole response is given."""
        yield from self._leave_queue()
        output = whole["output"]
        if done.notice is not None:
            yield from self._notice(done.notice, output)
        if output:
            yield from self._end_item(output[-1])
        yield from self.stop(whole)

    def replay(self, whole: dict[str, Any]) -> Iterator[str]:
        """All events of a response that has ended. Each item comes in one piece: the pieces are not known any more."""
        yield from self.begin()
        yield from self._leave_queue()
        for item in whole["output"]:
            yield from self._begin_item(present.begun(item))
            match item:
                case {"type": "function_call"}:
                    yield self._piece(f"{_ARGUMENTS}.delta", delta=item["arguments"])
                case {"type": "message", "content": [{"type": "output_text", "text": text}, *_]}:
                    yield self._piece(f"{_TEXT}.delta", content_index=0, delta=text, logprobs=[])
                case {"type": "reasoning", "content": [{"text": text}, *_]}:
                    yield self._piece(f"{_REASONING}.delta", content_index=0, delta=text)
            yield from self._end_item(item)
        yield from self.stop(whole)

    def stop(self, whole: dict[str, Any], *, number: int | None = None) -> Iterator[str]:
        """The last event, with the whole response. A response that was cancelled is said to have failed: OpenAI has no
        event for it, and nobody is to take what came for the whole answer.

        Args:
            number: of the event, where it does not follow the one before.
        """
        self._number = self._number if number is None else number
        status = "failed" if whole["status"] == "cancelled" else whole["status"]
        yield self._event(f"response.{status}", response=whole)

    def fail(self, error: ApiError) -> Iterator[str]:
        """What was said until then stands in the response, with an item that is not complete at its end."""
        output = present.partial_output(self._envelope, self._answer.parts[: self._begun])
        yield from self.stop(self._envelope.response("failed", output, error=error))

    def _leave_queue(self) -> Iterator[str]:
        if self._is_queued:
            self._is_queued = False
            yield self._event("response.in_progress", response=self._envelope.response("in_progress"))

    def _begin_item(self, item: dict[str, Any]) -> Iterator[str]:
        self._begun, self._item_id = self._begun + 1, item["id"]
        yield self._event("response.output_item.added", output_index=self._place, item=item)
        if item["type"] != "function_call":
            empty = present.text_part("") if item["type"] == "message" else present.reasoning_part("")
            yield self._piece("response.content_part.added", content_index=0, part=empty)

    def _end_item(self, item: dict[str, Any]) -> Iterator[str]:
        if item["type"] == "function_call":
            yield self._piece(f"{_ARGUMENTS}.done", arguments=item["arguments"], name=item["name"])
        for index, part in enumerate(item.get("content", ())):
            yield from self._end_part(index, part)
        yield self._event("response.output_item.done", output_index=self._place, item=item)

    def _end_part(self, index: int, part: dict[str, Any]) -> Iterator[str]:
        match part["type"]:
            case "reasoning_text":
                yield self._piece(f"{_REASONING}.done", content_index=index, text=part["text"])
            case "output_text":
                told = present.streamed_logprobs(part["logprobs"])
                yield self._piece(f"{_TEXT}.done", content_index=index, text=part["text"], logprobs=told)
            case "refusal":  # never in pieces
                said = part["refusal"]
                yield self._piece("response.content_part.added", content_index=index, part=present.refusal_part(""))
                yield self._piece("response.refusal.delta", content_index=index, delta=said)
                yield self._piece("response.refusal.done", content_index=index, refusal=said)
        yield self._piece("response.content_part.done", content_index=index, part=part)

    def _notice(self, notice: str, output: list[dict[str, Any]]) -> Iterator[str]:
        """The appliance's own sentence, in the last message or in one of its own."""
        is_own = len(output) > self._begun
        if is_own:
            if self._begun:
                yield from self._end_item(output[-2])
            yield from self._begin_item({**output[-1], "status": "in_progress", "content": []})
        said = notice_delta(notice, after_text=not is_own)["content"]
        yield self._piece(f"{_TEXT}.delta", content_index=0, delta=said, logprobs=[])

    @property
    def _place(self) -> int:
        return self._begun - 1

    def _drawn(self, place: int, status: present.ItemStatus) -> dict[str, Any]:
        return present.item(self._envelope, place, self._answer.part(place), status)

    def _piece(self, kind: str, **rest: Any) -> str:
        """An event about the item that is open."""
        return self._event(kind, item_id=self._item_id, output_index=self._place, **rest)

    def _event(self, kind: str, **rest: Any) -> str:
        number, self._number = self._number, self._number + 1
        return sse({"type": kind, "sequence_number": number, **rest}, kind)


class AnsweredEvents(ResponseEvents):
    """Draws a response whose request waits for it; `webui.api.running.Drawing`."""

    def __init__(self, envelope: Envelope, answer: Answer, finished: Callable[[Done], dict[str, Any]]) -> None:
        """
        Args:
            finished: makes the whole response at the end; what it raises ends the stream as failed.
        """
        super().__init__(envelope, answer)
        self._finished = finished

    def end(self, done: Done) -> Iterator[str]:
        try:
            whole = self._finished(done)
        except ApplianceError:
            _log.exception("response %s was not kept", self._envelope.id)
            yield from self.fail(ApiError(503, "unavailable", "The response could not be kept."))
            return
        yield from self.complete(done, whole)
