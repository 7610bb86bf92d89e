"""What one step of a model takes, and what the scheduler may ask of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.engine.sampling import TopLogits
from appliance.engine.snapshots import Snapshot, Windows


@dataclass(frozen=True)
class Append:
    """A token to decode: the next one of a slot that holds ``length`` tokens.

    Where the model takes drafts, several of one slot may follow each other, each at the place after the one before.
    """

    slot: int
    token: int
    length: int


@dataclass(frozen=True)
class Chunk:
    """A part of a prompt to prefill in a slot that holds the ``past`` tokens before it.

    Attributes:
        want_logits: whether the logits of the last token are wanted.
        as_decoded: on a CPU, compute it with the products of decoded tokens, which round less.
    """

    slot: int
    tokens: Sequence[int]
    past: int
    want_logits: bool
    as_decoded: bool = False


class Model(Protocol):
    """A loaded model, as `model/base.py` describes it.

    Attributes:
        mixes: ``step`` can decode and prefill in one run.
        copies: ``take_snapshot`` and ``copy_prefix`` can be used.
        takes_drafts: ``decode`` takes several tokens of one slot, and each gets the bits that it would get alone.
        arithmetic: what decides the last bits of its results, in words for the record.
        cache_bytes: what its slots may take together; at least one slot in full.
    """

    slots: int
    capacity: int
    cache_bytes: int
    windows: Windows | None
    mixes: bool
    copies: bool
    takes_drafts: bool
    arithmetic: str

    def slot_bytes(self, held: int) -> int: ...

    def give_back(self, slot: int, kept: int) -> None: ...

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range: ...

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None: ...

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]: ...

    def step(self, appends: Sequence[Append], chunk: Chunk | None) -> tuple[list[TopLogits], TopLogits | None]: ...

    def take_snapshot(self, slot: int, first: int, end: int) -> Snapshot: ...

    def copy_prefix(self, source: int, target: int, length: int, snapshot: Snapshot | None) -> None: ...
