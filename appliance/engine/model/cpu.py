"""The model on a CPU: one step takes the next token of any slots and a chunk of another slot's prompt together.

So weights are read from memory once for all of them. Each token gets the same bits however its prompt is cut and
whatever else is computed in its step (the native operators see to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.cache_memory import CHUNK_TOKENS
from appliance.engine.host import physical_cores
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.runtime import open_session
from appliance.engine.model.shape import ModelShape
from appliance.engine.operators import load_operators
from appliance.engine.packed_weights import PackedWeights, load_packing, open_packed
from appliance.engine.sampling import TopLogits
from appliance.engine.snapshots import Snapshot
from appliance.engine.steps import Append, Chunk

_PROVIDER = "CPUExecutionProvider"


def open_cpu_session(
    ort: ModuleType, graph: Path, options: Any, packed_dir: Path | None
) -> tuple[Any, PackedWeights | None]:
    """A session with the native operators, and the packed weights that must outlive it.

    Raises:
        PackingError: the packed weights cannot be made or kept.
        ModelError: the graph cannot be loaded.
    """
    operators, threads = load_operators(), physical_cores()
    operators.set_threads(threads)
    packed = None
    if packed_dir is not None:
        packed = open_packed(load_packing(graph.parent), graph.parent, packed_dir, operators, threads=threads)
        packed.offer(operators)
    options.register_custom_ops_library(operators.path)
    try:
        return open_session(ort, graph, options, _PROVIDER), packed
    finally:
        operators.withdraw_offers()


class CpuModel(OnnxModel):
    """A graph for CPUs, its caches bound once for all slots."""

    accelerator = "cpu"
    mixes = True
    copies = True
    takes_drafts = True

    def __init__(
        self, ort: ModuleType, session: Any, shape: ModelShape, *, slots: int, capacity: int,
        packed: PackedWeights | None, cache_bytes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(ort, session, shape, slots=slots, capacity=capacity, device="cpu", cache_bytes=cache_bytes)
        self.arithmetic = f"cpu, {load_operators().chosen}, cache of {shape.cache.item}"
        self._packed = packed  # the session reads these pages
        self._caches.bind(self._binding, 0, slots)

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range:
        tokens = CHUNK_TOKENS["cpu"] if most is None else min(most, CHUNK_TOKENS["cpu"])
        return range(past, min(length, past + tokens))

    def prefill(
        self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool, as_decoded: bool = False
    ) -> TopLogits | None:
        return self.step((), Chunk(slot, tokens, past, want_logits, as_decoded))[1]

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        return self.step(appends)[0]

    def step(self, appends: Sequence[Append], chunk: Chunk | None = None) -> tuple[list[TopLogits], TopLogits | None]:
        tokens, slots = [append.token for append in appends], [append.slot for append in appends]
        positions, rows = [append.length for append in appends], list(range(len(appends)))
        decoded = len(appends)
        if chunk is not None:
            decoded += len(chunk.tokens) * chunk.as_decoded
            tokens += chunk.tokens
            slots += [chunk.slot] * len(chunk.tokens)
            positions += range(chunk.past, chunk.past + len(chunk.tokens))
            rows += [len(tokens) - 1] * chunk.want_logits
        self._require_room(max(positions) + 1)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.array(tokens, np.int64),
            "token_slots": np.array(slots, np.int32),
            "token_positions": np.array(positions, np.int32),
            "decoded_tokens": np.array(decoded, np.int64),
        }
        tops = self._run(inputs, rows)
        return tops[: len(appends)], tops[-1] if chunk is not None and chunk.want_logits else None

    def take_snapshot(self, slot: int, first: int, end: int) -> Snapshot:
        return self._caches.take_snapshot(slot, first, end)

    def copy_prefix(self, source: int, target: int, length: int, snapshot: Snapshot | None) -> None:
        self._caches.copy_prefix(source, target, length, snapshot)
