"""Draws a turn as the events of a streamed message; `webui.api.running.Drawing`.

Source: Anthropic API reference, "Streaming messages".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from appliance.turns.answer import Answer, Stretch
from appliance.turns.events import AnswerDelta, Done, ReasoningDelta, Started, ToolCallDelta, TurnEvent
from webui.api import errors
from webui.api.anthropic import present
from webui.api.anthropic.present import SIGNATURE, Envelope
from webui.api.errors import ApiError
from webui.api.present import notice_delta
from webui.api.running import sse


class MessageEvents:
    """Draws one message. A block begins with its first piece, and ends where the next one begins."""

    def __init__(self, envelope: Envelope, answer: Answer) -> None:
        """
        Args:
            answer: the turn's own, which has taken each event before it is drawn.
        """
        self._envelope, self._answer = envelope, answer
        self._is_begun = False
        self._parts = 0  # of the answer, so far
        self._blocks = 0  # that were begun; thinking that is not shown is none
        self._open = ""  # the type of the block that is open

    def begin(self) -> Iterator[str]:
        return iter(())

    def add(self, event: TurnEvent) -> Iterator[str]:
        if isinstance(event, Started):
            yield from self._begin(event.prompt_tokens)
        if self._answer.part_count > self._parts:
            yield from self._next_part()
        match event:
            case ReasoningDelta(text) if text and self._open == "thinking":
                yield self._delta({"type": "thinking_delta", "thinking": text})
            case AnswerDelta(text) if text and self._open == "text":
                yield self._delta({"type": "text_delta", "text": text})
            case ToolCallDelta() if event.arguments and self._open == "tool_use":
                yield self._delta({"type": "input_json_delta", "partial_json": event.arguments})

    def end(self, done: Done) -> Iterator[str]:
        yield from self._begin(done.prompt_tokens)
        if done.notice is not None:
            yield from self._notice(done.notice)
        yield from self._close()
        yield _event({"type": "message_delta", "delta": present.ended(done), "usage": present.usage_of(done)})
        yield _event({"type": "message_stop"})

    def fail(self, error: ApiError) -> Iterator[str]:
        yield _event(errors.body_of(error))

    def _begin(self, prompt_tokens: int) -> Iterator[str]:
        if not self._is_begun:
            self._is_begun = True
            empty = self._envelope.message((), None, prompt_tokens=prompt_tokens)
            yield _event({"type": "message_start", "message": empty})
            yield _event({"type": "ping"})

    def _next_part(self) -> Iterator[str]:
        yield from self._close()
        part = self._answer.part(self._answer.part_count - 1)
        self._parts = self._answer.part_count
        if self._envelope.shows(part):
            yield from self._open_block(present.begun(part))

    def _notice(self, notice: str) -> Iterator[str]:
        """The appliance's own sentence, in the last text or in a block of its own."""
        after_text = self._open == "text"
        if not after_text:
            yield from self._close()
            yield from self._open_block(present.begun(Stretch("text", "")))
        yield self._delta({"type": "text_delta", "text": notice_delta(notice, after_text=after_text)["content"]})

    def _open_block(self, block: dict[str, Any]) -> Iterator[str]:
        self._open, self._blocks = block["type"], self._blocks + 1
        yield _event({"type": "content_block_start", "index": self._blocks - 1, "content_block": block})

    def _close(self) -> Iterator[str]:
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        if self._open:
            self._open = ""
            yield _event({"type": "content_block_stop", "index": self._blocks - 1})

    def _delta(self, delta: dict[str, Any]) -> str:
        return _event({"type": "content_block_delta", "index": self._blocks - 1, "delta": delta})


def _event(body: dict[str, Any]) -> str:
    return sse(body, body["type"])
