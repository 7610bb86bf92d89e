"""What a turn is asked: the conversation, the functions that are offered, and the settings.

Only `new_request` and `alternatives` make requests. The wire (`appliance.engine.wire`) and the record store these
dataclasses field by field, so renaming a field makes earlier prompts unreadable.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypedDict, Unpack

from appliance.turns.schemas import with_order
from appliance.turns.typed import LATER

Effort = Literal["low", "medium", "high"]
Role = Literal["system", "developer", "user", "assistant", "tool"]

ORDINARY_TOKENS: Final = 199_998  # of the vocabulary; ids from here on are special
DRAWN_SEED_BITS: Final = 53  # a client that reads JSON numbers as doubles keeps such a seed exactly
_SEED_VALUES: Final = 2**63  # how many seeds a caller may choose from


@dataclass(frozen=True)
class ToolCall:
    """One call that the model makes now or made earlier in the conversation."""

    id: str
    name: str
    arguments: str  # JSON text, exactly as the model wrote it


@dataclass(frozen=True)
class Message:
    """One message of the conversation, in the OpenAI API's terms."""

    role: Role
    content: str
    reasoning: str | None = None  # assistant only; kept while its tool calls are being answered
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None  # tool only
    name: str | None = None  # tool only: the function's name


@dataclass(frozen=True)
class Tool:
    """A function offered to the model; ``parameters`` is its JSON Schema, to which ``strict`` holds the arguments."""

    name: str
    description: str
    parameters: dict[str, Any] | None = None
    strict: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True)
class Bias:
    """What is added to the logit of a token before anything is drawn; from -100, which forbids the token, to 100."""

    token: int
    bias: float


@dataclass(frozen=True)
class TurnRequest:
    """Everything that decides one answer, except for rounding: tokens that an earlier turn decoded and the prefix cache
    still holds may have been computed more precisely than those of a prompt (docs/decisions/0004).

    ``user`` serves fair scheduling only. ``seed`` is always set by the caller, so that the record can replay the turn.
    ``grammar``: sampling is held to Harmony's grammar (docs/harmony.md); False in turns recorded before it existed.
    ``must_call``: names of tools, one of which the turn must call; without any, the model decides whether to call.
    ``answer_schema``: the JSON Schema to which the answer is held. ``continues``: the answer goes on where the last
    message, an assistant's, ends. ``form``: "text" has one message, whose bare text the model continues, without
    Harmony. ``top_logprobs``: how many of the likeliest tokens are told of each place; None: no probabilities are.
    This class holds the defaults of all settings.
    """

    id: str
    user: str
    messages: tuple[Message, ...]
    seed: int
    tools: tuple[Tool, ...] = ()
    effort: Effort = "medium"
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None  # completion tokens, reasoning included; None: as many as the context leaves
    stop: tuple[str, ...] = ()
    grammar: bool = False
    must_call: tuple[str, ...] = field(default=(), metadata=LATER)
    answer_schema: dict[str, Any] | None = field(default=None, metadata=LATER)
    continues: bool = field(default=False, metadata=LATER)
    form: Literal["chat", "text"] = field(default="chat", metadata=LATER)
    top_k: int | None = field(default=None, metadata=LATER)
    min_p: float = field(default=0.0, metadata=LATER)
    frequency_penalty: float = field(default=0.0, metadata=LATER)
    presence_penalty: float = field(default=0.0, metadata=LATER)
    logit_bias: tuple[Bias, ...] = field(default=(), metadata=LATER)
    top_logprobs: int | None = field(default=None, metadata=LATER)


class Settings(TypedDict, total=False):
    """The settings of a `TurnRequest` that its maker may choose."""

    tools: tuple[Tool, ...]
    effort: Effort
    temperature: float
    top_p: float
    max_tokens: int | None
    stop: tuple[str, ...]
    grammar: bool
    must_call: tuple[str, ...]
    answer_schema: dict[str, Any] | None
    continues: bool
    form: Literal["chat", "text"]
    top_k: int | None
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: tuple[Bias, ...]
    top_logprobs: int | None


def new_request(
    user: str,
    messages: tuple[Message, ...],
    *,
    id_prefix: str = "",
    seed: int | None = None,
    **settings: Unpack[Settings],
) -> TurnRequest:
    """A request with an id of its own. Its schemas keep the order of their properties (`appliance.turns.schemas`).

    Args:
        seed: any whole number, the caller's choice; None draws one.
    """
    if "tools" in settings:
        settings["tools"] = tuple(_with_order(tool) for tool in settings["tools"])
    schema = settings.get("answer_schema")
    if schema is not None:
        settings["answer_schema"] = with_order(schema)
    return TurnRequest(
        id=id_prefix + secrets.token_hex(16),
        user=user,
        messages=messages,
        seed=secrets.randbits(DRAWN_SEED_BITS) if seed is None else seed % _SEED_VALUES,
        **settings,
    )


def alternatives(first: TurnRequest, count: int) -> tuple[TurnRequest, ...]:
    """The request and copies of it: copy i has ``-i`` behind its id, and a seed that is higher by i."""
    copies = (replace(first, id=f"{first.id}-{i}", seed=(first.seed + i) % _SEED_VALUES) for i in range(1, count))
    return (first, *copies)


def _with_order(tool: Tool) -> Tool:
    return tool if tool.parameters is None else replace(tool, parameters=with_order(tool.parameters))
