"""What /v1/responses answers about a turn: the response and its output items. Pure: an answer's parts in, JSON out.

The id of a response is the id of its turn. The id of an item is made of it and the item's place, so that a response
that is drawn again has the same ids.

Source: OpenAI API reference, "The response object".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from appliance.turns.answer import Stretch
from appliance.turns.events import Done, Likelihood, TokenLogprob
from appliance.turns.request import ToolCall
from webui.api.errors import ApiError
from webui.api.present import notice_delta
from webui.api.responses.body import Body
from webui.api.responses.items import sealed
from webui.api.responses.tools import choice_object, tool_objects

ID_PREFIX: Final = "resp_"
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
Part = Stretch | ToolCall

_ERROR_CODES: Final = {400: "invalid_prompt", 429: "rate_limit_exceeded"}  # status: what OpenAI's type allows


@dataclass(frozen=True)
class Envelope:
    """What every drawing of one response repeats. ``settings`` is the response object as it was begun or kept; what
    changes until its end does not count."""

    settings: dict[str, Any]
    seals_reasoning: bool = False

    @property
    def id(self) -> str:
        found: str = self.settings["id"]
        return found

    @property
    def is_in_background(self) -> bool:
        return self.settings["background"] is True

    def item_id(self, kind: Literal["rs", "msg", "fc"], place: int) -> str:
        return f"{kind}_{self.id.removeprefix(ID_PREFIX)}_{place}"

    def response(
        self, status: Status, output: Sequence[dict[str, Any]] = (), *,
        done: Done | None = None, error: ApiError | None = None, completed: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The response object, with the settings of the request.

        Args:
            completed: when it was complete, in seconds since 1970.
        """
        return {
            **self.settings, "status": status, "completed_at": completed,
            "error": None if error is None else _error(error),
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": list(output), "usage": None if done is None else usage(done),
        }  # fmt: skip


def settings_of(response_id: str, created: int, model: str, body: Body, *, is_kept: bool) -> dict[str, Any]:
    """The response object of a request, before anything is answered.

    Args:
        created: in seconds since 1970.
    """
    return {
        "id": response_id, "object": "response", "created_at": created,
        "status": "queued" if body.background else "in_progress", "background": body.background,
        "completed_at": None, "error": None, "incomplete_details": None,
        "instructions": body.instructions, "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls, "model": model, "output": [],
        "parallel_tool_calls": body.parallel_tool_calls, "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier, "service_tier": "default", "store": is_kept,
        "temperature": body.temperature,
        "text": {"format": body.text.format.as_object(), "verbosity": body.text.verbosity},
        "tool_choice": choice_object(body.tool_choice), "tools": tool_objects(body.tools),
        "top_logprobs": body.top_logprobs, "top_p": body.top_p, "truncation": body.truncation,
        "usage": None, "user": body.user, "metadata": body.metadata,
    }  # fmt: skip


def usage(done: Done) -> dict[str, Any]:
    """Token counts."""
    return {
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": {"cached_tokens": done.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": done.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }


def status_of(done: Done) -> Literal["completed", "incomplete"]:
    """The status of a response and of its last item; the items before it are complete."""
    return "incomplete" if done.finish_reason == "length" else "completed"


def output_of(envelope: Envelope, parts: Sequence[Part], done: Done) -> list[dict[str, Any]]:
    """The output items of a whole answer."""
    last = len(parts) - 1
    items = [
        item(envelope, place, part, status_of(done) if place == last else "completed")
        for place, part in enumerate(parts)
    ]
    if done.notice is None:
        return items
    if is_text(parts[-1] if parts else None):
        items[-1]["content"][0]["text"] += notice_delta(done.notice, after_text=True)["content"]
    else:
        items.append(message(envelope, len(parts), done.notice, "completed"))
    items[-1]["content"].append(refusal_part(done.notice))
    return items


def partial_output(envelope: Envelope, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The output items of an answer that was cut off: the last one is not complete."""
    last = len(parts) - 1
    return [
        item(envelope, place, part, "incomplete" if place == last else "completed") for place, part in enumerate(parts)
    ]


def is_text(part: Part | None) -> bool:
    return isinstance(part, Stretch) and part.kind == "text"


def item(envelope: Envelope, place: int, part: Part, status: ItemStatus) -> dict[str, Any]:
    """One output item; in progress it has no content yet."""
    if isinstance(part, ToolCall):
        return function_call(envelope, place, part, status)
    if part.kind == "text":
        return message(envelope, place, part.text, status, part.tokens)
    return reasoning(envelope, place, part.text, status)


def begun(drawn: dict[str, Any]) -> dict[str, Any]:
    """A whole item as it was when it began."""
    empty: dict[str, Any] = {"arguments": ""} if drawn["type"] == "function_call" else {"content": []}
    kept = {name: value for name, value in drawn.items() if name != "encrypted_content"}
    return {**kept, "status": "in_progress", **empty}


def message(
    envelope: Envelope, place: int, text: str, status: ItemStatus, tokens: Sequence[TokenLogprob] = ()
) -> dict[str, Any]:
    content = [] if status == "in_progress" else [text_part(text, tokens)]
    return {
        "id": envelope.item_id("msg", place), "type": "message", "role": "assistant", "status": status,
        "content": content,
    }  # fmt: skip


def reasoning(envelope: Envelope, place: int, text: str, status: ItemStatus) -> dict[str, Any]:
    """The model's reasoning. There is no summary, because nothing writes one."""
    content = [] if status == "in_progress" else [reasoning_part(text)]
    drawn = {
        "id": envelope.item_id("rs", place), "type": "reasoning", "status": status, "summary": [], "content": content,
    }  # fmt: skip
    return {**drawn, "encrypted_content": sealed(text)} if envelope.seals_reasoning and content else drawn


def function_call(envelope: Envelope, place: int, call: ToolCall, status: ItemStatus) -> dict[str, Any]:
    arguments = "" if status == "in_progress" else call.arguments
    return {
        "id": envelope.item_id("fc", place), "type": "function_call", "status": status, "call_id": call.id,
        "name": call.name, "arguments": arguments,
    }  # fmt: skip


def text_part(text: str, tokens: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs(tokens)}


def logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """The ``logprobs`` of a text part. Unlike in a chat, ``bytes`` is always a list."""
    return [{**_likelihood(one.token), "top_logprobs": [_likelihood(other) for other in one.top]} for one in tokens]


def _likelihood(one: Likelihood) -> dict[str, Any]:
    return {"token": one.text, "bytes": list(one.bytes), "logprob": one.logprob}


def streamed_logprobs(drawn: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the events about a text part give of its ``logprobs``: OpenAI's have no bytes."""
    return [
        {**_without_bytes(one), "top_logprobs": [_without_bytes(other) for other in one["top_logprobs"]]}
        for one in drawn
    ]


def _without_bytes(one: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name != "bytes"}


def without_logprobs(output: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output items as they are drawn for a request that asks for no log probabilities."""
    return [
        {**entry, "content": [{**part, "logprobs": []} if "logprobs" in part else part for part in entry["content"]]}
        if entry["type"] == "message"
        else entry
        for entry in output
    ]


def reasoning_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def refusal_part(notice: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": notice}


def _error(error: ApiError) -> dict[str, Any]:
    return {"code": _ERROR_CODES.get(error.status, "server_error"), "message": error.message}
