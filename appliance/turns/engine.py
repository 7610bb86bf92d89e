"""What the rest of the appliance may know of an engine: it runs turns, and says how busy it is.

`appliance.engine.client.EngineClient` is the one that the appliance uses; `appliance.turns.permits` puts a check in
front of another engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.errors import ApplianceError
from appliance.turns.events import Failed, TurnEvent
from appliance.turns.request import TurnRequest


class EngineUnavailableError(ApplianceError):
    """No engine answered: it is starting, stopped, or too busy to take the call."""


@dataclass(frozen=True)
class Status:
    """What the engine serves, how busy it is, and how many tokens it has generated since its start.

    ``slots`` is the most answers that it works on at once; ``active`` is how many it does now.
    """

    model: str
    release: str
    accelerator: str
    context_tokens: int
    slots: int
    active: int
    queued: int
    details: dict[str, Any] = field(default_factory=dict)
    generated_tokens: int = 0
    tokens_from_drafts: int = 0  # how many of these were computed ahead (engine/drafting.py)


@dataclass(frozen=True)
class TokensRequest:
    """Asks which tokens the prompt of a request has; it is not run. ``with_texts``: and what each of them spells."""

    request: TurnRequest
    with_texts: bool = False


@dataclass(frozen=True)
class CountRequest:
    """Asks how many tokens the prompt of a request has, even if it is longer than the model can read; it is not run."""

    request: TurnRequest


@dataclass(frozen=True)
class TextRequest:
    """Asks what tokens spell. ``user`` serves fair scheduling only."""

    user: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Tokens:
    """The answer to a `TokensRequest`. ``context_tokens`` is the longest conversation, the answer included."""

    ids: tuple[int, ...]
    context_tokens: int
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenText:
    """The answer to a `TextRequest`."""

    text: str


@dataclass(frozen=True)
class TokenCount:
    """The answer to a `CountRequest`. ``context_tokens`` is the longest conversation, the answer included."""

    count: int
    context_tokens: int


Question = TokensRequest | CountRequest | TextRequest  # about tokens; answered without the model
Answered = Tokens | TokenCount | TokenText


class Engine(Protocol):
    """Runs turns."""

    def turn(self, request: TurnRequest) -> AbstractContextManager[Iterator[TurnEvent]]:
        """Yield the events of one turn; the last is ``Done`` or ``Failed``. Leaving the context cancels the turn.

        While the engine sends nothing, a ``Waiting`` comes twice a second.
        """

    def status(self, timeout_s: float = 2.0) -> Status:
        """What the engine serves and how busy it is.

        Raises:
            EngineUnavailableError: no answer came within ``timeout_s``, or it was not a status.
        """

    def ask(self, question: Question, timeout_s: float = 60.0) -> Answered | Failed:
        """Ask about tokens.

        Raises:
            EngineUnavailableError: as `status`.
        """
