"""What a turn is asked: the conversation, the functions that are offered, and the settings.

Only `new_request` makes a request. The wire (`appliance.engine.wire`) and the record store these dataclasses field by
field, so renaming a field makes earlier prompts unreadable.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final, Literal

Effort = Literal["low", "medium", "high"]
Role = Literal["system", "developer", "user", "assistant", "tool"]

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
    """A function offered to the model; ``parameters`` is its JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class TurnRequest:
    """Everything that decides one answer, except for rounding: tokens that an earlier turn decoded and the prefix cache
    still holds may have been computed more precisely than those of a prompt (docs/decisions/0004).

    ``user`` serves fair scheduling only. ``seed`` is always set by the caller, so that the record can replay the turn.
    ``grammar``: sampling is held to Harmony's grammar (docs/harmony.md); False in turns recorded before it existed.
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


def new_request(
    user: str,
    messages: tuple[Message, ...],
    *,
    id_prefix: str = "",
    seed: int | None = None,
    tools: tuple[Tool, ...] = TurnRequest.tools,
    effort: Effort = TurnRequest.effort,
    temperature: float = TurnRequest.temperature,
    top_p: float = TurnRequest.top_p,
    max_tokens: int | None = TurnRequest.max_tokens,
    stop: tuple[str, ...] = TurnRequest.stop,
    grammar: bool = TurnRequest.grammar,
) -> TurnRequest:
    """A request with an id of its own.

    Args:
        seed: any whole number, the caller's choice; None draws one.
    """
    return TurnRequest(
        id=id_prefix + secrets.token_hex(16),
        user=user,
        messages=messages,
        seed=secrets.randbits(DRAWN_SEED_BITS) if seed is None else seed % _SEED_VALUES,
        tools=tools,
        effort=effort,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        stop=stop,
        grammar=grammar,
    )
