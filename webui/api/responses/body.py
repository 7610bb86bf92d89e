"""The fields of POST /v1/responses: what each may hold, and what docs/api.md says of it.

Source: OpenAI API reference, "Create a model response".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from appliance.turns.request import Effort, TurnRequest
from installer.formats.checks import FaultError, Length, Rule
from webui.api.body import (
    ABOVE_ZERO,
    MAX_METADATA,
    MAX_TOP_LOGPROBS,
    MEDIUM,
    ONE_TIER,
    STRINGS,
    AnyEffort,
    AnyLimit,
    Label,
    Takes,
    Tier,
    Verbosity,
    above_zero,
    check_metadata,
    sentences_of,
)
from webui.api.responses.items import Input
from webui.api.responses.text_format import TEXT, Format, TextFormat
from webui.api.responses.tools import Tools
from webui.api.tools import AUTO, ToolChoice
from webui.api.values import REFUSED, Text, between, never, null_is, one_of

SEALED_REASONING: Final = "reasoning.encrypted_content"
LOGPROBS: Final = "message.output_text.logprobs"
_INCLUDABLE: Final = (
    SEALED_REASONING,
    LOGPROBS,
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
_INCLUDED: Final = {"items": {"enum": list(_INCLUDABLE)}}

_Truncation = Literal["auto", "disabled"]
_Summary = Literal["auto", "concise", "detailed"]


@dataclass(frozen=True)
class Reasoning:
    """The settings of the model's reasoning."""

    effort: Annotated[Effort, null_is(TurnRequest.effort, AnyEffort)] = TurnRequest.effort
    summary: Annotated[_Summary, one_of(_Summary)] | None = None
    generate_summary: Annotated[_Summary, one_of(_Summary)] | None = None


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How the answer's text is written."""

    format: Annotated[Format, null_is(TEXT, TextFormat)] = TEXT
    verbosity: Annotated[Verbosity, null_is("medium", Annotated[Verbosity, MEDIUM])] = "medium"


def _metadata(entries: dict[str, Any]) -> dict[str, Any]:
    check_metadata(entries)
    return entries


def _include(names: tuple[str, ...]) -> tuple[str, ...]:
    for number, name in enumerate(names):
        if name not in _INCLUDABLE:
            raise FaultError("names nothing that an answer can include", at=(number,))
    return names


_NO_CONVERSATIONS: Final = "this server has no conversations to name; send previous_response_id, or all items"
_NO_PROMPTS: Final = "this server has no prompts to name; send instructions and input"


@dataclass(frozen=True, kw_only=True)
class Body:
    """The body. Null fields, and fields that are not declared here, are left out before it is checked."""

    model: Annotated[Text, Takes("required; the id that /v1/models gives, anything else is 404 `model_not_found`")]
    input: Annotated[Input, Takes("required; a string or a list of items, see below")]
    instructions: Annotated[
        Text | None, Takes("a developer message before the conversation; holds for this response alone")
    ] = None
    previous_response_id: Annotated[
        Label | None, Takes("goes on from a kept response and all before it, see below; without their `instructions`")
    ] = None
    tools: Annotated[Tools, Takes("up to 128 functions; tools of other kinds are ignored")] = TurnRequest.tools
    tool_choice: Annotated[ToolChoice, Takes('"auto" (default), "none", "required", a function or `allowed_tools`')] = (
        AUTO
    )
    parallel_tool_calls: Annotated[bool, Takes("ignored: the model makes one call at a time")] = True
    max_tool_calls: Annotated[
        Annotated[int, between(1, 2**31 - 1)] | None, Takes("ignored: it counts calls of tools that do not exist here")
    ] = None
    reasoning: Annotated[
        Reasoning,
        Takes("`effort`: as `reasoning_effort` of a chat; `summary` is ignored: the reasoning is given whole"),
    ] = field(default_factory=Reasoning)
    text: Annotated[
        TextSettings,
        Takes("`format`: `text` (default), `json_object` or `json_schema`; `verbosity`: only medium"),
    ] = field(default_factory=TextSettings)
    temperature: Annotated[float, between(0, 2), Takes("0 to 2, default 1; 0 is greedy")] = TurnRequest.temperature
    top_p: Annotated[
        float, between(0, 1), Rule(above_zero, schema=ABOVE_ZERO), Takes("above 0, at most 1 (default)")
    ] = TurnRequest.top_p
    top_logprobs: Annotated[
        int,
        between(0, MAX_TOP_LOGPROBS),
        Takes(f"0 (default) to {MAX_TOP_LOGPROBS} alternatives to each token of the text, see below"),
    ] = 0
    max_output_tokens: Annotated[
        AnyLimit, Takes("1 or more, reasoning included; default, or -1: what the context leaves")
    ] = None
    include: Annotated[
        tuple[Text, ...],
        Length(most=32),
        Rule(_include, schema=_INCLUDED),
        Takes(f"`{SEALED_REASONING}`, `{LOGPROBS}`, see below; names of other tools' results are ignored"),
    ] = ()
    stream: Annotated[bool, Takes("true or false (default)")] = False
    stream_options: Annotated[dict[str, Any] | None, Takes("ignored")] = None
    store: Annotated[
        bool | None, Takes("whether the response is kept, see below; default: yes, where the site keeps responses")
    ] = None
    background: Annotated[
        bool, Takes("true: answered at once, and written on without the connection, see below; needs `store`")
    ] = False
    truncation: Annotated[
        _Truncation,
        one_of(_Truncation),
        Takes("auto or disabled (default); nothing is ever left out, what does not fit is refused"),
    ] = "disabled"
    metadata: Annotated[
        dict[str, Any], Rule(_metadata, schema=STRINGS), Takes(f"repeated in the answer; up to {MAX_METADATA} strings")
    ] = field(default_factory=dict)
    service_tier: Annotated[Tier, ONE_TIER, Takes("only auto or default")] = "auto"
    user: Annotated[Label | None, Takes("ignored: the record names the key's owner")] = None
    safety_identifier: Annotated[Label | None, Takes("ignored, as user")] = None
    prompt_cache_key: Annotated[Label | None, Takes("ignored: prefixes are cached by their content")] = None
    prompt_cache_retention: Annotated[Label | None, Takes("ignored, as prompt_cache_key")] = None
    conversation: Annotated[None, never(_NO_CONVERSATIONS, kind=REFUSED), Takes(f"refused: {_NO_CONVERSATIONS}")] = None
    prompt: Annotated[None, never(_NO_PROMPTS, kind=REFUSED), Takes(f"refused: {_NO_PROMPTS}")] = None


FIELDS: Final = sentences_of(Body)  # every field a request may have, with what docs/api.md says of it
