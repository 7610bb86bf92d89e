"""The body of POST /v1/chat/completions, checked field by field. Pure: bytes in, one frozen `ChatRequest` out.

Nothing that would change the answer is ignored: a field this server cannot honour is refused with a sentence, and so is
one it does not know. What is ignored changes nothing. ``null`` is the same as absent. `FIELDS` says it all, and
docs/api.md prints it.

Source: OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from appliance.turns.request import Effort, Message, Tool, TurnRequest
from webui.api.errors import ApiError
from webui.api.messages import parse_messages
from webui.api.tools import parse_tool_choice, parse_tools
from webui.api.values import choice, fields, flag, invalid, items, missing, number, text, unsupported, whole, wrong_type

MAX_STOPS: Final = 4
MAX_STOP_CHARS: Final = 256
MAX_TOKENS: Final = 2**31 - 1
MAX_LABEL_CHARS: Final = 512
MAX_METADATA: Final = 16


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
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True)
class Field:
    """What the server does with one field: `takes` is the sentence in docs/api.md."""

    check: Callable[[Any], Any]
    takes: str


def parse_chat_request(raw: bytes) -> ChatRequest:
    """Check a request's body.

    Raises:
        ApiError: 400, with the field at fault in `param`.
    """
    body = _parse_json(raw)
    unknown = next((name for name in body if name not in FIELDS), None)
    if unknown is not None:
        shown = unknown if unknown.isidentifier() and unknown.isascii() and len(unknown) <= 64 else None
        raise ApiError(400, "unknown_parameter", "This server does not know one of the fields sent.", param=shown)
    got = {name: FIELDS[name].check(value) for name, value in body.items() if value is not None}
    for name in ("model", "messages"):
        if name not in got:
            missing(name)
    stream, options = got.get("stream", False), got.get("stream_options")
    if options is not None and not stream:
        invalid("stream_options", "may only be sent when stream is true")
    if not got.get("tool_choice", True):
        got.pop("tools", None)
    settings = {name: got[given] for given, name in _SETTINGS.items() if given in got}
    return ChatRequest(
        **settings, model=got["model"], messages=got["messages"], max_tokens=_one_limit(got), stream=stream,
        include_usage=bool(options),
    )  # fmt: skip


_SETTINGS: Final = {  # field of the body: field of ChatRequest
    "tools": "tools", "reasoning_effort": "effort", "temperature": "temperature", "top_p": "top_p", "seed": "seed",
    "stop": "stop",
}  # fmt: skip


def _parse_json(raw: bytes) -> dict[str, Any]:
    def not_json(token: str) -> NoReturn:
        raise ValueError(token)

    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=not_json)
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, "invalid_json", "The body is not JSON in UTF-8, or is nested too deeply.") from exc
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_type", "The body must be a JSON object.")
    return body


def _one_limit(got: dict[str, Any]) -> int | None:
    old, new = got.get("max_tokens"), got.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        invalid("max_tokens", "and max_completion_tokens differ; send one of them")
    return cast("int | None", old if new is None else new)


# One check per field. Each takes the value (never null) and returns what `ChatRequest` holds, or raises ApiError.


def _model(value: Any) -> str:
    return text(value, "model")


def _limit(name: str) -> Callable[[Any], int]:
    return lambda value: whole(value, name, 1, MAX_TOKENS)


def _seed(value: Any) -> int:
    return whole(value, "seed", -(2**63), 2**63 - 1)


def _top_p(value: Any) -> float:
    top_p = number(value, "top_p", 0, 1)
    if top_p == 0:
        invalid("top_p", "must be above 0; for the likeliest token always, send temperature 0")
    return top_p


def _effort(value: Any) -> Effort:
    return cast(Effort, choice(value, "reasoning_effort", ("low", "medium", "high")))


def _stop(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str | list):
        wrong_type("stop", f"a string or a list of at most {MAX_STOPS} strings")
    stops = [value] if isinstance(value, str) else items(value, "stop", MAX_STOPS)
    for stop in stops:
        if not 1 <= len(text(stop, "stop")) <= MAX_STOP_CHARS:
            invalid("stop", f"must consist of strings of 1 to {MAX_STOP_CHARS} characters")
    return tuple(stops)


def _stream_options(value: Any) -> bool:
    options = fields(value, "stream_options")
    for name, entry in options.items():
        if name not in ("include_usage", "include_obfuscation"):
            unsupported("stream_options", "only include_usage (and include_obfuscation, ignored) is known")
        if entry is not None:
            flag(entry, f"stream_options.{name}")
    return bool(options.get("include_usage"))


def _response_format(value: Any) -> None:
    if fields(value, "response_format").get("type") != "text":
        unsupported("response_format", 'only {"type": "text"} is available; answers cannot be held to JSON or a schema')


def _n(value: Any) -> None:
    if whole(value, "n", 1, 128) != 1:
        unsupported("n", "one answer per request is made; send 1 and ask again for more")


def _logprobs(value: Any) -> None:
    if flag(value, "logprobs"):
        unsupported("logprobs", "token probabilities are not given out")


def _top_logprobs(value: Any) -> None:
    if whole(value, "top_logprobs", 0, 20):
        unsupported("top_logprobs", "token probabilities are not given out")


def _penalty(name: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if number(value, name, -2, 2):
            unsupported(name, "penalties are not applied; only 0 is taken")

    return check


def _logit_bias(value: Any) -> None:
    if fields(value, "logit_bias"):
        unsupported("logit_bias", "biases are not applied; only an empty object is taken")


def _modalities(value: Any) -> None:
    if items(value, "modalities", 8) != ["text"]:
        unsupported("modalities", 'this model writes text only; only ["text"] is taken')


def _verbosity(value: Any) -> None:
    if choice(value, "verbosity", ("low", "medium", "high")) != "medium":
        unsupported("verbosity", "this model has no such setting; only medium is taken")


def _service_tier(value: Any) -> None:
    if choice(value, "service_tier", ("auto", "default", "flex", "scale", "priority")) not in ("auto", "default"):
        unsupported("service_tier", "there is one tier here; only auto and default are taken")


def _metadata(value: Any) -> None:
    entries = fields(value, "metadata")
    if len(entries) > MAX_METADATA:
        invalid("metadata", f"must have at most {MAX_METADATA} entries")
    for entry in entries.values():
        text(entry, "metadata")


def _label(name: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if len(text(value, name)) > MAX_LABEL_CHARS:
            invalid(name, f"must have at most {MAX_LABEL_CHARS} characters")

    return check


def _flag(name: str) -> Callable[[Any], bool]:
    return lambda value: flag(value, name)


def _refused(name: str, why: str) -> Field:
    def check(value: Any) -> NoReturn:
        raise ApiError(400, "unsupported_parameter", f"{name}: {why}.", param=name)

    return Field(check, f"refused: {why}")


FIELDS: Final[dict[str, Field]] = {
    "model": Field(_model, "required; the id that /v1/models gives, anything else is 404 `model_not_found`"),
    "messages": Field(parse_messages, "required; see below"),
    "tools": Field(parse_tools, "up to 128 functions; `strict: true` is refused"),
    "tool_choice": Field(parse_tool_choice, '"auto" or "none"; "required" and named functions are refused'),
    "parallel_tool_calls": Field(_flag("parallel_tool_calls"), "ignored: the model makes one call at a time"),
    "reasoning_effort": Field(_effort, "low, medium (default) or high"),
    "temperature": Field(lambda value: number(value, "temperature", 0, 2), "0 to 2, default 1; 0 is greedy"),
    "top_p": Field(_top_p, "above 0, at most 1 (default)"),
    "seed": Field(_seed, "a 64-bit whole number; chosen by the server and recorded when absent"),
    "max_completion_tokens": Field(
        _limit("max_completion_tokens"), "1 or more, reasoning included; default: what the context leaves"
    ),
    "max_tokens": Field(_limit("max_tokens"), "older name of max_completion_tokens"),
    "stop": Field(_stop, f"a string or up to {MAX_STOPS}, each of 1 to {MAX_STOP_CHARS} characters"),
    "stream": Field(_flag("stream"), "true or false (default)"),
    "stream_options": Field(_stream_options, "`include_usage`; `include_obfuscation` is ignored; only with stream"),
    "n": Field(_n, "only 1"),
    "response_format": Field(_response_format, 'only {"type": "text"}'),
    "logprobs": Field(_logprobs, "only false"),
    "top_logprobs": Field(_top_logprobs, "only 0"),
    "frequency_penalty": Field(_penalty("frequency_penalty"), "only 0"),
    "presence_penalty": Field(_penalty("presence_penalty"), "only 0"),
    "logit_bias": Field(_logit_bias, "only empty"),
    "modalities": Field(_modalities, 'only ["text"]'),
    "verbosity": Field(_verbosity, "only medium"),
    "service_tier": Field(_service_tier, "only auto or default"),
    "store": Field(_flag("store"), "ignored: every turn is recorded, and none is served again by id"),
    "metadata": Field(_metadata, f"ignored; up to {MAX_METADATA} strings"),
    "user": Field(_label("user"), "ignored: the record names the key's owner"),
    "safety_identifier": Field(_label("safety_identifier"), "ignored, as user"),
    "prompt_cache_key": Field(_label("prompt_cache_key"), "ignored: prefixes are cached by their content"),
    "prompt_cache_retention": Field(_label("prompt_cache_retention"), "ignored, as prompt_cache_key"),
    "functions": _refused("functions", "this is the old form, use tools"),
    "function_call": _refused("function_call", "this is the old form, use tool_choice"),
    "audio": _refused("audio", "this model writes text only"),
    "prediction": _refused("prediction", "predicted output is not available"),
    "web_search_options": _refused("web_search_options", "this machine has no way out to search"),
}
