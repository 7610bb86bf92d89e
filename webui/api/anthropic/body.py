"""The fields of POST /v1/messages and /v1/messages/count_tokens: what each may hold, and what docs/messages.md says.

Source: Anthropic API reference, "Create a message".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from appliance.people.sampling import TEMPERATURE, TOP_P
from appliance.turns.request import ORDINARY_TOKENS, TurnRequest
from installer.formats.checks import Length, Rule
from webui.api.anthropic.blocks import Words
from webui.api.anthropic.choices import OutputConfig, Thinking, ToolChoice, Tools
from webui.api.anthropic.conversation import Messages
from webui.api.body import ABOVE_ZERO, MAX_STOP_CHARS, MAX_STOPS, MAX_TOKENS, Takes, above_zero, sentences_of
from webui.api.tools import AUTO
from webui.api.values import Text, between, chars

_Stop = Annotated[Text, chars(1, MAX_STOP_CHARS, f"must have 1 to {MAX_STOP_CHARS} characters")]


@dataclass(frozen=True, kw_only=True)
class CountBody:
    """What a prompt consists of. Null fields, and fields that are not declared here, are left out before the check."""

    model: Annotated[Text, Takes("required; a name that /v1/models gives, anything else is 404 `model_not_found`")]
    messages: Annotated[
        Messages, Takes("required; of user and assistant, with text, tool_use, tool_result and thinking blocks")
    ]
    system: Annotated[Words, Takes("instructions: a string or text blocks")] = ""
    tools: Annotated[Tools, Takes("up to 128, each a name and an `input_schema`; the server's own are ignored")] = (
        TurnRequest.tools
    )
    tool_choice: Annotated[ToolChoice, Takes("auto (default), any, tool or none")] = AUTO
    thinking: Annotated[
        Thinking | None,
        Takes("enabled or adaptive shows the reasoning; it also chooses an effort, see below"),
    ] = None
    output_config: Annotated[
        OutputConfig, Takes("`effort`, before that of thinking; `format`: a json_schema to which the answer is held")
    ] = field(default_factory=OutputConfig)


@dataclass(frozen=True, kw_only=True)
class Body(CountBody):
    """The body."""

    max_tokens: Annotated[int, between(1, MAX_TOKENS), Takes("required; reasoning included")]
    stop_sequences: Annotated[
        tuple[_Stop, ...],
        Length(most=MAX_STOPS),
        Takes(f"up to {MAX_STOPS}, of at most {MAX_STOP_CHARS} characters each"),
    ] = ()
    stream: Annotated[bool, Takes("true or false (default)")] = False
    temperature: Annotated[float, between(*TEMPERATURE), Takes("0 to 2, default 1; 0 is greedy")] = (
        TurnRequest.temperature
    )
    top_p: Annotated[
        float, between(*TOP_P), Rule(above_zero, schema=ABOVE_ZERO), Takes("above 0, at most 1 (default)")
    ] = TurnRequest.top_p
    top_k: Annotated[
        Annotated[int, between(1, ORDINARY_TOKENS)] | None, Takes("how many of the likeliest tokens may be drawn")
    ] = TurnRequest.top_k
    metadata: Annotated[dict[str, Any] | None, Takes("ignored: the record names the key's owner")] = None
    service_tier: Annotated[
        Literal["auto", "standard_only"] | None, Takes("auto or standard_only; there is one tier here")
    ] = None


FIELDS: Final = sentences_of(Body)
COUNT_FIELDS: Final = sentences_of(CountBody)
