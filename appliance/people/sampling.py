"""How the answers of one conversation are drawn, where its owner has chosen otherwise than the model's own way.

The bounds are those of the API, which says them here as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from appliance.turns.request import DRAWN_SEED_BITS, ORDINARY_TOKENS
from appliance.turns.typed import checked

TEMPERATURE: Final = (0, 2)
TOP_P: Final = (0, 1)  # 0 itself is refused
TOP_K: Final = (1, ORDINARY_TOKENS)
MIN_P: Final = (0, 1)
SEED: Final = (0, 2**DRAWN_SEED_BITS - 1)  # what a browser keeps exactly; the API takes 64 bits
MAX_TOKENS: Final = (1, 2**31 - 1)


@dataclass(frozen=True)
class Sampling:
    """What was chosen; None leaves the model's own. Names and meanings are those of `TurnRequest`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def chosen(self) -> dict[str, Any]:
        """What was chosen, by its name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


DEFAULT_SAMPLING: Final = Sampling()


def stored_sampling(value: Any) -> Sampling:
    """What a conversation keeps.

    Raises:
        ValueError: it is not what was stored.
    """
    if value is None:
        return DEFAULT_SAMPLING
    try:
        found: Sampling = checked(Sampling, value)
    except (TypeError, KeyError) as exc:
        raise ValueError(f"sampling settings that are none: {exc}") from exc
    return found
