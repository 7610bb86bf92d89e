"""The fields of POST /v1/chat/completions: what each may hold, and what docs/api.md says of it.

Source: OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast, get_args, get_type_hints

from appliance.people import sampling
from appliance.people.sampling import MIN_P, TEMPERATURE, TOP_P
from appliance.turns.request import ORDINARY_TOKENS, Bias, Effort, TurnRequest
from installer.formats.checks import Choose, FaultError, Length, Must, Rule, check
from webui.api.messages import Messages
from webui.api.response_format import ResponseFormat
from webui.api.tools import AUTO, ToolChoice, Tools
from webui.api.values import REFUSED, Text, between, chars, form_of, never, one_of, only, storable

MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_TOP_LOGPROBS: Final = 20
MAX_BIASES: Final = 1024
MAX_BIAS: Final = 100
_NEAREST_EFFORTS: Final = {"none": "low", "minimal": "low", "xhigh": "high"}
MAX_TOKENS: Final = sampling.MAX_TOKENS[1]
MAX_CHOICES: Final = 8  # each takes a slot of the engine, or a place in its queue
MAX_LABEL_CHARS: Final = 512
MAX_METADATA: Final = 16


@dataclass(frozen=True)
class Takes:
    """The sentence of docs/api.md on a field."""

    sentence: str


def above_zero(top_p: float) -> float:
    if top_p == 0:
        raise FaultError("must be above 0; for the likeliest token always, send temperature 0")
    return top_p


def _all_of_them(top_k: int) -> int | None:
    """0 and -1 are how programs say that all tokens may be drawn."""
    return top_k if top_k > 0 else None


def _not_empty(stops: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(stop for stop in stops if stop)


def _limit(tokens: int) -> int | None:
    """-1 is how some programs say that there is no limit."""
    return None if tokens == -1 else check(_Limit, tokens)


def _biases(entries: dict[str, Any]) -> tuple[Bias, ...]:
    if len(entries) > MAX_BIASES:
        raise FaultError(f"must have at most {MAX_BIASES} entries")
    return tuple(_bias(token, bias) for token, bias in entries.items())


def _bias(token: str, bias: Any) -> Bias:
    if not (token.isascii() and token.isdecimal() and len(token) <= 6 and int(token) < ORDINARY_TOKENS):
        raise FaultError(
            f"must name tokens by their numbers, from 0 to {ORDINARY_TOKENS - 1}; special tokens have no bias"
        )
    if isinstance(bias, bool) or not isinstance(bias, int | float):
        raise FaultError("must give each token a number", kind="type")
    if not -MAX_BIAS <= bias <= MAX_BIAS:
        raise FaultError(f"must be from -{MAX_BIAS} to {MAX_BIAS} for each token")
    return Bias(int(token), float(bias))


def nearest_effort(name: str) -> Effort:
    """OpenAI's other names stand for the nearest of the three that the model knows."""
    nearest = _NEAREST_EFFORTS.get(name, name)
    known = next((effort for effort in get_args(Effort) if effort == nearest), None)
    if known is None:
        raise FaultError("must be one of " + ", ".join((*get_args(Effort), *_NEAREST_EFFORTS)))
    return cast(Effort, known)


def _include_usage(options: dict[str, Any]) -> bool:
    value = options.get("include_usage")
    if value is not None and not isinstance(value, bool):
        raise FaultError("must be true or false", kind="type", at=("include_usage",))
    return bool(value)


def check_metadata(entries: dict[str, Any]) -> None:
    if len(entries) > MAX_METADATA:
        raise FaultError(f"must have at most {MAX_METADATA} entries")
    for entry in entries.values():
        if not isinstance(entry, str):
            raise FaultError("must be a string", kind="type")
        storable(entry)


ABOVE_ZERO: Final = {"exclusiveMinimum": 0}
_EFFORTS: Final = {"enum": [*get_args(Effort), *_NEAREST_EFFORTS]}
_LIMIT: Final = {"minimum": -1, "maximum": MAX_TOKENS, "not": {"const": 0}}
_USAGE: Final = {"properties": {"include_usage": {"type": ["boolean", "null"]}}}
STRINGS: Final = {"maxProperties": MAX_METADATA, "additionalProperties": {"type": "string"}}
_BY_TOKEN: Final = {
    "maxProperties": MAX_BIASES,
    "propertyNames": {"pattern": "^[0-9]{1,6}$"},
    "additionalProperties": {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS},
}
_Stop = Annotated[Text, chars(0, MAX_STOP_CHARS, f"must consist of strings of at most {MAX_STOP_CHARS} characters")]
_STOPS = Choose(
    form_of,
    {
        "text": Annotated[tuple[str, ...], Rule(lambda stop: (stop,), takes=_Stop)],
        "list": Annotated[tuple[_Stop, ...], Length(most=MAX_STOPS)],
        "other": Annotated[str, Must(f"must be a string or a list of at most {MAX_STOPS} strings")],
    },
    refused=("other",),
)
_Limit = Annotated[int, between(1, MAX_TOKENS)]
AnyLimit = Annotated[int | None, Rule(_limit, takes=int, schema=_LIMIT)]
AnyEffort = Annotated[Effort, Rule(nearest_effort, takes=str, schema=_EFFORTS)]
Label = Annotated[Text, chars(0, MAX_LABEL_CHARS, f"must have at most {MAX_LABEL_CHARS} characters")]
_Penalty = Annotated[float, between(-2, 2)]
Verbosity = Literal["low", "medium", "high"]
Tier = Literal["auto", "default", "flex", "scale", "priority"]

_NO_REPETITION: Final = only(
    lambda value: value == 1, "is not applied; send frequency_penalty, or 1", schema={"const": 1}
)
_TEXT_ALONE: Final = only(
    lambda kinds: kinds == ["text"], 'this model writes text only; only ["text"] is taken', schema={"const": ["text"]}
)
MEDIUM: Final = one_of(Verbosity, only=("medium",), why="this model has no such setting; only medium is taken")
ONE_TIER: Final = one_of(Tier, only=("auto", "default"), why="there is one tier here; only auto and default are taken")


@dataclass(frozen=True, kw_only=True)
class Body:
    """The body. Null fields, and fields that are not declared here, are left out before it is checked."""

    model: Annotated[Text, Takes("required; a name that /v1/models gives, anything else is 404 `model_not_found`")]
    messages: Annotated[Messages, Takes("required; see below")]
    continue_final_message: Annotated[
        bool | None,
        Takes("whether the answer goes on where the last message, an assistant's text, ends; default: yes"),
    ] = None
    add_generation_prompt: Annotated[bool | None, Takes("the contrary of continue_final_message")] = None
    tools: Annotated[
        Tools,
        Takes("up to 128 functions; `strict` holds a call's arguments to the schema; other kinds of tools are ignored"),
    ] = TurnRequest.tools
    tool_choice: Annotated[ToolChoice, Takes('"auto" (default), "none", "required", a function or `allowed_tools`')] = (
        AUTO
    )
    parallel_tool_calls: Annotated[bool, Takes("ignored: the model makes one call at a time")] = False
    reasoning_effort: Annotated[
        AnyEffort,
        Takes("low, medium (default) or high; none and minimal are low, xhigh is high"),
    ] = TurnRequest.effort
    temperature: Annotated[float, between(*TEMPERATURE), Takes("0 to 2, default 1; 0 is greedy")] = (
        TurnRequest.temperature
    )
    top_p: Annotated[
        float, between(*TOP_P), Rule(above_zero, schema=ABOVE_ZERO), Takes("above 0, at most 1 (default)")
    ] = TurnRequest.top_p
    seed: Annotated[
        int | None,
        between(-(2**63), 2**63 - 1),
        Takes("a 64-bit whole number; chosen by the server and recorded when absent"),
    ] = None
    max_completion_tokens: Annotated[
        AnyLimit, Takes("1 or more, reasoning included; default, or -1: what the context leaves")
    ] = None
    max_tokens: Annotated[AnyLimit, Takes("older name of max_completion_tokens")] = None
    stop: Annotated[
        tuple[str, ...],
        _STOPS,
        Rule(_not_empty),
        Takes(f"a string or up to {MAX_STOPS}, each of at most {MAX_STOP_CHARS} characters; empty ones are ignored"),
    ] = TurnRequest.stop
    stream: Annotated[bool, Takes("true or false (default)")] = False
    stream_options: Annotated[
        bool | None,
        Rule(_include_usage, takes=dict[str, Any], schema=_USAGE),
        Takes("`include_usage`; others are ignored; only with stream"),
    ] = None
    n: Annotated[int, between(1, MAX_CHOICES), Takes(f"1 (default) to {MAX_CHOICES} answers; see below")] = 1
    response_format: Annotated[ResponseFormat, Takes("`text` (default), `json_object` or `json_schema`; see below")] = (
        None
    )
    top_k: Annotated[
        int | None,
        Rule(_all_of_them, takes=Annotated[int, between(-1, ORDINARY_TOKENS)]),
        Takes("how many of the likeliest tokens may be drawn; default, or 0 or -1: all"),
    ] = TurnRequest.top_k
    min_p: Annotated[
        float, between(*MIN_P), Takes("the least probability, as a share of the likeliest token's; default 0")
    ] = TurnRequest.min_p
    logprobs: Annotated[bool, Takes("true or false (default): of the answer's tokens; see below")] = False
    top_logprobs: Annotated[
        int | None, between(0, MAX_TOP_LOGPROBS), Takes(f"0 to {MAX_TOP_LOGPROBS} alternatives; only with logprobs")
    ] = None
    frequency_penalty: Annotated[
        _Penalty, Takes("-2 to 2, default 0: for each time that the turn has drawn the token")
    ] = TurnRequest.frequency_penalty
    presence_penalty: Annotated[_Penalty, Takes("-2 to 2, default 0: once the turn has drawn the token")] = (
        TurnRequest.presence_penalty
    )
    repetition_penalty: Annotated[float, _NO_REPETITION, Takes("only 1")] = 1
    logit_bias: Annotated[
        tuple[Bias, ...],
        Rule(_biases, takes=dict[str, Any], schema=_BY_TOKEN),
        Takes(f"up to {MAX_BIASES} tokens by number, each from -{MAX_BIAS} to {MAX_BIAS}; special tokens are refused"),
    ] = TurnRequest.logit_bias
    modalities: Annotated[list[Any] | None, Length(most=8), _TEXT_ALONE, Takes('only ["text"]')] = None
    verbosity: Annotated[Verbosity, MEDIUM, Takes("only medium")] = "medium"
    service_tier: Annotated[Tier, ONE_TIER, Takes("only auto or default")] = "auto"
    store: Annotated[bool, Takes("ignored: every turn is recorded, and none is served again by id")] = False
    metadata: Annotated[
        None,
        Rule(check_metadata, takes=dict[str, Any], schema=STRINGS),
        Takes(f"ignored; up to {MAX_METADATA} strings"),
    ] = None
    user: Annotated[Label, Takes("ignored: the record names the key's owner")] = ""
    safety_identifier: Annotated[Label, Takes("ignored, as user")] = ""
    prompt_cache_key: Annotated[Label, Takes("ignored: prefixes are cached by their content")] = ""
    prompt_cache_retention: Annotated[Label, Takes("ignored, as prompt_cache_key")] = ""
    functions: Annotated[
        None, never("this is the old form, use tools", kind=REFUSED), Takes("refused: this is the old form, use tools")
    ] = None
    function_call: Annotated[
        None,
        never("this is the old form, use tool_choice", kind=REFUSED),
        Takes("refused: this is the old form, use tool_choice"),
    ] = None
    audio: Annotated[
        None, never("this model writes text only", kind=REFUSED), Takes("refused: this model writes text only")
    ] = None
    prediction: Annotated[
        None,
        never("predicted output is not available", kind=REFUSED),
        Takes("refused: predicted output is not available"),
    ] = None
    web_search_options: Annotated[
        None,
        never("this machine has no way out to search", kind=REFUSED),
        Takes("refused: this machine has no way out to search"),
    ] = None


def sentences_of(form: type) -> dict[str, str]:
    """Every field that a body of this form may have, with its sentence."""
    hints = get_type_hints(form, include_extras=True)
    found = ((name, part) for name, hint in hints.items() for part in get_args(hint))
    return {name: part.sentence for name, part in found if isinstance(part, Takes)}


FIELDS: Final = sentences_of(Body)  # every field a request may have, with what docs/api.md says of it


# Fields of other servers that would change the answer, and what to do instead.
_SCHEMA: Final = "this field is not known here; send response_format"
_NO_SAMPLER: Final = "this server has no such sampler"
_NO_SWITCH: Final = "send reasoning_effort"
_NO_END: Final = "this server cannot change where an answer ends; send stop"
ELSEWHERE: Final = {
    **dict.fromkeys(("guided_json", "guided_choice", "guided_regex", "guided_grammar", "structured_outputs"), _SCHEMA),
    **dict.fromkeys(("grammar", "json_schema", "format"), _SCHEMA),
    **dict.fromkeys(("mirostat", "typical_p", "dry_multiplier", "xtc_probability", "use_beam_search"), _NO_SAMPLER),
    **dict.fromkeys(("bad_words", "logits_processors", "allowed_token_ids"), _NO_SAMPLER),
    **dict.fromkeys(("stop_token_ids", "ignore_eos", "min_tokens"), _NO_END),
    **dict.fromkeys(("think", "reasoning", "enable_thinking", "chat_template_kwargs"), _NO_SWITCH),
    **dict.fromkeys(("prompt", "suffix", "images"), "everything that the model reads stands in messages"),
    "options": "send each option as a field of its own",
    "chat_template": "the conversation is always written as Harmony",
    "documents": "put the documents into the messages",
}
