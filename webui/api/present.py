"""What the API answers about a turn: whole answers, chunks of a stream, usage. Pure: turn events in, JSON objects out.

``reasoning_content`` (llama.cpp, older vLLM, DeepSeek) and ``reasoning`` (vLLM, OpenRouter) both hold the reasoning:
clients read one or the other, and OpenAI's own shape has neither.

Source: OpenAI API reference, "The chat completion object" and "The chat completion chunk object".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from appliance.turns.answer import Words
from appliance.turns.events import (
    AnswerDelta,
    Done,
    Likelihood,
    ReasoningDelta,
    TokenLogprob,
    ToolCallDelta,
    TurnEvent,
)


@dataclass(frozen=True)
class Envelope:
    """What every object of one answer repeats. `created` is in seconds since 1970, `index` the number of the choice."""

    id: str
    created: int
    model: str
    fingerprint: str
    index: int = 0

    def wrap(self, kind: str, **rest: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": self.fingerprint, **rest}


def message(words: Words, notice: str | None) -> dict[str, Any]:
    """The ``message`` of the one choice; ``notice`` as `Done` has it."""
    content = None if words.calls and not words.text else words.text
    body: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if notice is not None:
        said = notice_delta(notice, after_text=bool(words.text))
        body |= {"content": words.text + said["content"], "refusal": said["refusal"]}
    if words.reasoning:
        body |= {"reasoning_content": words.reasoning, "reasoning": words.reasoning}
    if words.calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in words.calls
        ]
    return body


def completion(
    envelope: Envelope, words: Words, done: Done, tokens: Sequence[TokenLogprob] | None = None
) -> dict[str, Any]:
    """The body of an answer that is not streamed. ``tokens``: None if no log probabilities are asked for."""
    choice = {
        "index": envelope.index, "message": message(words, done.notice), "finish_reason": done.finish_reason,
        "logprobs": logprobs(tokens),
    }  # fmt: skip
    return envelope.wrap("chat.completion", choices=[choice], usage=usage(done))


def joined(completions: Sequence[dict[str, Any]], ends: Sequence[Done]) -> dict[str, Any]:
    """Several answers to one request, in the order of the choices, as one body."""
    choices = [choice for one in completions for choice in one["choices"]]
    return {**completions[0], "choices": choices, "usage": usage(*ends)}


def logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """The ``logprobs`` of a choice; null if there are none to tell."""
    if tokens is None:
        return None
    content = [{**_likelihood(one.token), "top_logprobs": [_likelihood(other) for other in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


def _likelihood(one: Likelihood) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.bytes) or None}


def usage(done: Done, *more: Done) -> dict[str, Any]:
    """Token counts. Several answers to one prompt count it once, as at OpenAI.

    The answers copy the prompt from each other, so each has cached tokens that another one has computed. Only tokens
    that none of them computed count as cached.
    """
    answers = (done, *more)
    computed = sum(one.prompt_tokens - one.cached_tokens for one in answers)
    completion_tokens = sum(one.completion_tokens for one in answers)
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": done.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": max(0, done.prompt_tokens - computed)},
        "completion_tokens_details": {"reasoning_tokens": sum(one.reasoning_tokens for one in answers)},
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


def notice_delta(notice: str, *, after_text: bool) -> dict[str, Any]:
    """Says that there is no answer: as text for people, and in ``refusal`` for programs."""
    return {"content": f"\n\n{notice}" if after_text else notice, "refusal": notice}


def chunk(
    envelope: Envelope, change: dict[str, Any], finish_reason: str | None = None,
    tokens: Sequence[TokenLogprob] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One object of a stream; ``tokens`` as for `completion`."""
    choice = {"index": envelope.index, "delta": change, "finish_reason": finish_reason, "logprobs": logprobs(tokens)}
    return envelope.wrap("chat.completion.chunk", choices=[choice])


def usage_chunk(envelope: Envelope, *ends: Done) -> dict[str, Any]:
    """The last object of a stream whose caller asked for usage: no choice, all counts."""
    return envelope.wrap("chat.completion.chunk", choices=[], usage=usage(*ends))


def model_object(name: str, *, root: str, created: int, context_tokens: int | None) -> dict[str, Any]:
    """One entry of /v1/models. ``root`` is the model's own id.

    Clients read the longest conversation under different names: ``max_model_len`` is vLLM's, ``context_length``
    OpenRouter's, ``context_window`` Groq's.
    """
    model = {"id": name, "object": "model", "created": created, "owned_by": "gpt-oss-appliance", "root": root}
    if context_tokens is None:
        return model
    return {**model, **dict.fromkeys(("max_model_len", "context_length", "context_window"), context_tokens)}
