"""What the API says of a turn: whole answers, chunks of a stream, usage. Pure: turn events in, JSON objects out.

Reasoning is given both as ``reasoning_content`` (llama.cpp, older vLLM, DeepSeek) and ``reasoning`` (vLLM, OpenRouter):
clients read one or the other, and OpenAI's own shape has neither.

Source: OpenAI API reference, "The chat completion object" and "The chat completion chunk object".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from appliance.engine.protocol import AnswerDelta, Done, ReasoningDelta, ToolCallDelta, TurnEvent


@dataclass(frozen=True)
class Envelope:
    """What every object of one answer repeats. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    fingerprint: str

    def wrap(self, kind: str, **rest: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": self.fingerprint, **rest}


@dataclass
class Answer:
    """An answer gathered from its deltas."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, event: TurnEvent) -> None:
        """Take one delta; other events are not part of the text."""
        if isinstance(event, AnswerDelta):
            self.text.append(event.text)
        elif isinstance(event, ReasoningDelta):
            self.reasoning.append(event.text)
        elif isinstance(event, ToolCallDelta):
            function = {"name": event.name or "", "arguments": ""}
            call = self.calls.setdefault(event.index, {"id": event.id, "type": "function", "function": function})
            call["function"]["arguments"] += event.arguments

    def message(self) -> dict[str, Any]:
        """The ``message`` of the one choice."""
        text, reasoning = "".join(self.text), "".join(self.reasoning)
        content = None if self.calls and not text else text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reasoning:
            message |= {"reasoning_content": reasoning, "reasoning": reasoning}
        if self.calls:
            message["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
        return message


def completion(envelope: Envelope, events: Iterable[TurnEvent], done: Done) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    answer = Answer()
    for event in events:
        answer.add(event)
    choice = {"index": 0, "message": answer.message(), "finish_reason": done.finish_reason, "logprobs": None}
    return envelope.wrap("chat.completion", choices=[choice], usage=usage(done))


def usage(done: Done) -> dict[str, Any]:
    """Token counts."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
    }


def delta(event: TurnEvent) -> dict[str, Any] | None:
    """What one event adds to the message, or None when it adds nothing."""
    match event:
        case AnswerDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return {"reasoning_content": text, "reasoning": text}
        case ToolCallDelta(index, call_id, name, arguments) if name is not None:
            function = {"name": name, "arguments": arguments}
            return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        case ToolCallDelta(index, _, _, arguments):
            return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
    return None


def chunk(envelope: Envelope, change: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """One object of a stream."""
    choice = {"index": 0, "delta": change, "finish_reason": finish_reason, "logprobs": None}
    return envelope.wrap("chat.completion.chunk", choices=[choice])


def usage_chunk(envelope: Envelope, done: Done) -> dict[str, Any]:
    """The last object of a stream whose caller asked for usage: no choice, all counts."""
    return envelope.wrap("chat.completion.chunk", choices=[], usage=usage(done))


def model_object(model_id: str, created: int) -> dict[str, Any]:
    """One entry of /v1/models."""
    return {"id": model_id, "object": "model", "created": created, "owned_by": "gpt-oss-appliance"}
