"""The shapes of what /v1/responses answers: the response, its items, and the events of a stream.

Source: OpenAI API reference, "The response object" and "Streaming events".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from appliance.turns.request import Effort
from webui.api.shapes import ABSENT, TokenLikelihood

Status = Literal["in_progress", "completed", "incomplete"]  # of an item


@dataclass(frozen=True)
class OutputText:
    """Text of the answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]  # always empty: nothing here searches
    logprobs: list[TokenLikelihood]


@dataclass(frozen=True)
class RefusalPart:
    """The appliance's own sentence about an answer that is not as it should be."""

    type: Literal["refusal"]
    refusal: str


@dataclass(frozen=True)
class ReasoningText:
    """Text of the reasoning."""

    type: Literal["reasoning_text"]
    text: str


@dataclass(frozen=True)
class OutputMessage:
    """What the model says."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Status
    content: list[OutputText | RefusalPart]


@dataclass(frozen=True, kw_only=True)
class ReasoningItem:
    """The model's reasoning. An item of a request has no status."""

    id: str
    type: Literal["reasoning"]
    status: Status = ABSENT
    summary: list[Any]  # always empty: nothing writes one
    content: list[ReasoningText]
    encrypted_content: str = ABSENT


@dataclass(frozen=True)
class FunctionCall:
    """A call of a function; the arguments are JSON as text."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | ReasoningItem | FunctionCall


@dataclass(frozen=True)
class InputText:
    """Text of a request."""

    type: Literal["input_text"]
    text: str


@dataclass(frozen=True)
class InputMessage:
    """A message of a request."""

    id: str
    type: Literal["message"]
    role: Literal["system", "developer", "user"]
    status: Literal["completed"]
    content: list[InputText]


@dataclass(frozen=True)
class FunctionOutput:
    """What a function answered."""

    id: str
    type: Literal["function_call_output"]
    call_id: str
    output: str
    status: Literal["completed"]


@dataclass(frozen=True)
class ItemPage:
    """A page of the items of a request."""

    object: Literal["list"]
    data: list[InputMessage | OutputMessage | ReasoningItem | FunctionCall | FunctionOutput]
    first_id: str | None
    last_id: str | None
    has_more: bool


@dataclass(frozen=True)
class InputDetails:
    """Tokens of the prompt that came from the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int


@dataclass(frozen=True)
class OutputDetails:
    """Tokens of the reasoning."""

    reasoning_tokens: int


@dataclass(frozen=True)
class ResponseUsage:
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


@dataclass(frozen=True)
class ResponseError:
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


@dataclass(frozen=True)
class Incomplete:
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


@dataclass(frozen=True)
class ReasoningSettings:
    """How hard the model thought."""

    effort: Effort
    summary: None


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the answer is written. Only `json_schema` has the other fields."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = ABSENT
    schema: dict[str, Any] = ABSENT
    description: str = ABSENT
    strict: bool | None = ABSENT


@dataclass(frozen=True)
class TextSettings:
    """How the answer's text is written."""

    format: Format
    verbosity: Literal["medium"]


@dataclass(frozen=True)
class NamedFunction:
    """The function that had to be called."""

    type: Literal["function"]
    name: str


@dataclass(frozen=True)
class AllowedTools:
    """The functions that might or had to be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction]


@dataclass(frozen=True)
class ResponseTool:
    """A function that the model was offered."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


@dataclass(frozen=True)
class Response:
    """A response with the settings of its request; OpenAI's response object."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    completed_at: int | None
    error: ResponseError | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningSettings
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: TextSettings
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | AllowedTools
    tools: list[ResponseTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, str]


@dataclass(frozen=True)
class DeletedResponse:
    """A response that is no longer kept."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]
