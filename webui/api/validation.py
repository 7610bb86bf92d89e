"""The body of POST /v1/chat/completions, checked field by field. Pure: bytes in, one frozen `ChatRequest` out.

A field that would change the answer and cannot be honoured is refused with a sentence. A field that no API of this
kind has is ignored, and the caller is told which (`known_fields`), or is refused where the caller wants that. ``null``
is the same as absent. `Body` declares all fields.

Source: OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, TypeVar

from appliance.turns.request import Bias, Effort, Message, Tool, TurnRequest
from installer.formats.checks import FaultError, check
from webui.api.body import ELSEWHERE, FIELDS, Body
from webui.api.errors import ApiError
from webui.api.tools import OWN_KINDS, offered, other_tools
from webui.api.values import REFUSED, UNSUPPORTED

Form = TypeVar("Form")
Read = TypeVar("Read")

CODES: Final = {  # kind of fault: code of the error
    "missing": "missing_required_parameter",
    "type": "invalid_type",
    "value": "invalid_value",
    UNSUPPORTED: "unsupported_value",
    REFUSED: "unsupported_parameter",
}
MAX_NAME_CHARS: Final = 64
_NAMED_AS_A_WHOLE: Final = ("stop", "metadata", "prompt")  # an error says the field alone, not which entry


@dataclass(frozen=True)
class ChatRequest:
    """One request as the server will run it. `seed` and `max_tokens` are None where the caller left the choice."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = TurnRequest.tools
    effort: Effort = TurnRequest.effort
    temperature: float = TurnRequest.temperature
    top_p: float = TurnRequest.top_p
    seed: int | None = None
    max_tokens: int | None = TurnRequest.max_tokens
    stop: tuple[str, ...] = TurnRequest.stop
    top_k: int | None = TurnRequest.top_k
    min_p: float = TurnRequest.min_p
    frequency_penalty: float = TurnRequest.frequency_penalty
    presence_penalty: float = TurnRequest.presence_penalty
    logit_bias: tuple[Bias, ...] = TurnRequest.logit_bias
    top_logprobs: int | None = TurnRequest.top_logprobs
    choices: int = 1
    must_call: tuple[str, ...] = ()
    answer_schema: dict[str, Any] | None = None
    stream: bool = False
    include_usage: bool = False
    continues: bool = TurnRequest.continues
    ignored: tuple[str, ...] = ()  # fields that are not known


def parse_chat_request(raw: bytes, *, strict: bool = False) -> ChatRequest:
    """Check a request's body.

    Args:
        strict: fields that are not known are refused, not ignored.
    Raises:
        ApiError: 400, with the field at fault in `param`.
    """
    request, ignored = parse_body(raw, Body, FIELDS, chat_request, strict=strict)
    return replace(request, ignored=ignored)


def parse_body(
    raw: bytes,
    form: type[Form],
    names: Collection[str],
    read: Callable[[Form], Read],
    *,
    strict: bool = False,
    elsewhere: Mapping[str, str] = ELSEWHERE,
) -> tuple[Read, tuple[str, ...]]:
    """Check the body of a call. The value is what ``read`` makes of it, and the names of fields that are not known.

    Args:
        names: the fields that the call has.
        read: says what the fields mean together.
        strict: fields that are not known are refused, not ignored.
        elsewhere: fields that other calls have and that would change the answer, and what to do instead.
    Raises:
        ApiError: 400, with the field at fault in `param`.
    """
    given = parse_json(raw)
    known, ignored = known_fields(given, names, strict=strict, elsewhere=elsewhere)
    try:
        return read(check(form, known)), ignored
    except FaultError as fault:
        raise as_error(fault) from None


def known_fields(
    given: dict[str, Any],
    names: Collection[str],
    *,
    strict: bool,
    elsewhere: Mapping[str, str] = ELSEWHERE,
    own_tools: Collection[str] = OWN_KINDS,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of a body that are known and not null, and the names of those and of the tools that are not known.

    Args:
        own_tools: the types of tools that the caller runs.
    Raises:
        ApiError: 400, a field changes the answer at other servers; or with ``strict``, one is not known.
    """
    others = other_tools(given.get("tools"), own_tools) if "tools" in names else ()
    if others and strict:
        message = f"{others[0]}.type: only functions exist here, which you run yourself."
        raise ApiError(400, CODES[UNSUPPORTED], message, param=f"{others[0]}.type")
    unknown = [name for name in given if name not in names]
    for name in unknown:
        if name in elsewhere and given[name] not in (None, False, [], {}):
            raise ApiError(400, CODES[REFUSED], f"{name}: {elsewhere[name]}.", param=name)
        if strict:
            shown = name if name.isidentifier() and name.isascii() and len(name) <= MAX_NAME_CHARS else None
            named = "One of the fields sent" if shown is None else f"{shown}: this field"
            raise ApiError(400, "unknown_parameter", f"{named} is not known to this server.", param=shown)
    return {name: value for name, value in given.items() if name in names and value is not None}, (*unknown, *others)


def parse_json(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ApiError: 400, it is none.
    """

    def not_json(token: str) -> NoReturn:
        raise ValueError(token)

    try:
        body = json.loads(raw.removeprefix(codecs.BOM_UTF8).decode("utf-8"), parse_constant=not_json)
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, "invalid_json", "The body is not JSON in UTF-8, or is nested too deeply.") from exc
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_type", "The body must be a JSON object.")
    return body


def chat_request(body: Body) -> ChatRequest:
    """What the fields mean together.

    Raises:
        FaultError: two of them contradict each other.
    """
    if body.stream_options is not None and not body.stream:
        raise FaultError("may only be sent when stream is true", at=("stream_options",))
    if body.top_logprobs and not body.logprobs:
        raise FaultError("may only be sent when logprobs is true", at=("top_logprobs",))
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise FaultError("and max_completion_tokens differ; send one of them", at=("max_tokens",))
    tools, must_call = offered(body.tools, body.tool_choice, parameters=("function", "parameters"))
    return ChatRequest(
        model=body.model,
        messages=body.messages,
        tools=tools,
        effort=body.reasoning_effort,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        max_tokens=old if new is None else new,
        stop=body.stop,
        top_k=body.top_k,
        min_p=body.min_p,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        logit_bias=body.logit_bias,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        choices=body.n,
        must_call=must_call,
        answer_schema=body.response_format,
        stream=body.stream,
        include_usage=bool(body.stream_options),
        continues=_continues(body, is_held=bool(must_call) or body.response_format is not None),
    )


def _continues(body: Body, *, is_held: bool) -> bool:
    """Whether the answer goes on where the last message ends. The two fields are vLLM's; other servers have none.

    An answer that is held to a schema or a call begins anew, unless the caller asks for the other.
    """
    asked, begins_anew = body.continue_final_message, body.add_generation_prompt
    if asked is not None and asked == begins_anew:
        raise FaultError("and add_generation_prompt are contraries; send one of them", at=("continue_final_message",))
    if asked is None and begins_anew is not None:
        asked = not begins_anew
    last = body.messages[-1] if body.messages else Message("user", "")
    can = last.role == "assistant" and not last.tool_calls and bool(last.content or last.reasoning)
    field = "add_generation_prompt" if body.continue_final_message is None else "continue_final_message"
    if asked and not can:
        raise FaultError("asks for an answer that goes on, but the last message is no assistant's text", at=(field,))
    if asked and is_held:
        raise FaultError("asks for an answer that goes on, which cannot be held to a schema or a call", at=(field,))
    return can and not is_held if asked is None else asked


def as_error(fault: FaultError) -> ApiError:
    """A fault of a body as the API says it."""
    if fault.at[0] in _NAMED_AS_A_WHOLE:
        fault = FaultError(fault.said, kind=fault.kind, at=fault.at[:1])
    param = fault.where
    if fault.kind == "missing" or (fault.value is None and isinstance(fault.at[-1], str)):
        return ApiError(400, CODES["missing"], f"{param} is required.", param=param)
    subject = f"{param}:" if fault.kind in (UNSUPPORTED, REFUSED) else param
    return ApiError(400, CODES[fault.kind], f"{subject} {fault.said}.", param=param)
