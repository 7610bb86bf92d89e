"""The memory of the KV cache: in every layer one row for each slot, bound in place.

On a CPU a row is a range of addresses: it takes memory page by page as it is written, and gives it back when it is told
to. So there may be more rows than memory could fill; slots.py sees to it that they never hold too much.

On a CPU a windowed layer holds a ring of its last positions. Snapshots of it can be taken, and the beginning of a slot
can be copied to another (slots.py says when). Only the operators know how keys lie within 16 positions
(kernels/attention.h), so whole blocks of 16 are copied here. The graph takes its caches as bytes, so that the engine
chooses at each start how many each number has (docs/decisions/0019).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from appliance.config import CacheItem
from appliance.engine.host import new_pages
from appliance.engine.snapshots import Snapshot, Windows, most_snapshots, snapshot_positions

# The most prompt tokens of a step; on a CPU the scheduler takes fewer while streams wait. 256 tokens keep a new request
# from waiting long, and use each expert's weights 32 times. A GPU computes 2,048 in the same time.
CHUNK_TOKENS = {"cpu": 256, "cuda": 2048}
AnyItem = CacheItem | Literal["float16"]  # the last on CUDA
ITEM_BYTES: dict[AnyItem, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_BLOCK = 16  # positions


@dataclass(frozen=True)
class CacheShape:
    """The caches of a graph.

    Attributes:
        item: the type of a number of a key or value. The graph says everything else.
        windowed: the layers whose caches may be rings; none on CUDA.
        window: how many positions a token sees in those layers, itself included.
        chunk_tokens: how many tokens a step appends to a slot at most.
    """

    layers: int
    kv_heads: int
    head_dim: int
    item: AnyItem
    windowed: frozenset[int]
    window: int
    chunk_tokens: int

    def windows(self, capacity: int) -> Windows | None:
        """The windowed layers of slots of that capacity; None where every layer holds every position."""
        ring = self.whole_pages(self.window - 1 + self.chunk_tokens)
        return Windows(self.window, ring) if self.windowed and ring < capacity else None

    def positions(self, layer: int, capacity: int) -> int:
        """How many positions a layer holds of a slot."""
        windows = self.windows(capacity)
        return windows.ring if windows is not None and layer in self.windowed else self.whole_pages(capacity)

    def slot_bytes(self, capacity: int, held: int | None = None) -> int:
        """What a slot takes at most that holds so many tokens (None: all), snapshots of windowed layers included."""
        length, windows = capacity if held is None else held, self.windows(capacity)
        whole, windowed = self.whole_pages(length), 0 if windows is None else len(self.windowed)
        in_ring = 0 if windows is None else min(whole, windows.ring)
        positions = (self.layers - windowed) * whole + windowed * in_ring
        return positions * self._position_bytes + self.snapshots_bytes(capacity, length)

    def snapshots_bytes(self, capacity: int, held: int | None = None) -> int:
        """What the snapshots of a slot take at most that holds so many tokens (None: all).

        They grow with the conversation. The kernel counts them as memory of the process alone (RssAnon), and the caches
        as shared (RssShmem).
        """
        if self.windows(capacity) is None:
            return 0
        positions = _rounded(snapshot_positions(self.window)) + _BLOCK
        most = most_snapshots(capacity if held is None else held)
        return most * len(self.windowed) * positions * self._position_bytes

    def whole_pages(self, positions: int) -> int:
        """How many positions the pages have that hold so many: with the 20b shape a page holds 16 of a head."""
        return positions + -positions % (math.lcm(_BLOCK * self.row_bytes, mmap.PAGESIZE) // self.row_bytes)

    @property
    def row_bytes(self) -> int:
        """The size of the key, or of the value, of one position and head."""
        return self.head_dim * ITEM_BYTES[self.item]

    @property
    def _position_bytes(self) -> int:
        return 2 * self.kv_heads * self.row_bytes


class Caches:
    """The caches of one session. The runtime's values share the memory of a CPU's arrays."""

    def __init__(self, ort: ModuleType, shape: CacheShape, *, device: str, slots: int, capacity: int) -> None:
        self.windows = shape.windows(capacity)
        self._shape = shape
        self._device = device
        self._item: np.dtype[Any] = np.dtype(np.float16 if shape.item == "float16" else np.uint8)
        self._rows: dict[str, tuple[int, int, int]] = {}
        self._arrays: dict[str, NDArray[Any]] = {}  # on a CPU, as are the next
        self._pages: dict[str, mmap.mmap] = {}
        self._values: dict[str, Any] = {}
        # Zeroed, because what is read before it was written must at least be a number.
        for layer in range(shape.layers):
            row = (shape.kv_heads, shape.positions(layer, capacity), shape.row_bytes // self._item.itemsize)
            for name in (f"{layer}.key", f"{layer}.value"):
                if device == "cpu":
                    self._pages[name] = new_pages(slots * math.prod(row) * self._item.itemsize)
                    self._arrays[name] = np.frombuffer(self._pages[name], self._item).reshape(slots, *row)
                array = self._arrays[name] if device == "cpu" else np.zeros((slots, *row), self._item)
                self._rows[name] = row
                self._values[name] = ort.OrtValue.ortvalue_from_numpy(array, device, 0)

    def bind(self, binding: Any, first: int, count: int) -> None:
        """Bind the rows of ``count`` slots from ``first`` on as inputs and outputs."""
        for name, value in self._values.items():
            row = self._rows[name]
            address = value.data_ptr() + first * math.prod(row) * self._item.itemsize
            place = (self._device, 0, self._item.type, [count, *row], address)
            binding.bind_input(f"past_key_values.{name}", *place)
            binding.bind_output(f"present.{name}", *place)

    def take_snapshot(self, slot: int, first: int, end: int) -> Snapshot:
        """Copy what the windowed layers hold of a slot's positions ``first`` .. ``end`` - 1."""
        return Snapshot(first, end, [part[slot, :, at] for part, at in self._ring_blocks(first, end)])

    def copy_prefix(self, source: int, target: int, length: int, snapshot: Snapshot | None) -> None:
        """Make ``target`` hold the first ``length`` tokens of ``source``; both may be the same slot.

        Args:
            snapshot: the source's windowed layers, taken at ``length`` or soon after; None: they still hold what the
                next token sees.
        """
        if source != target:
            for layer in range(self._shape.layers):
                if self.windows is None or layer not in self._shape.windowed:
                    for array in (self._arrays[f"{layer}.key"], self._arrays[f"{layer}.value"]):
                        array[target, :, : _rounded(length)] = array[source, :, : _rounded(length)]
        if self.windows is None:
            return
        if snapshot is None:
            snapshot = self.take_snapshot(source, self.windows.first_seen(length), length)
        saved: list[NDArray[Any]] = snapshot.saved  # type: ignore[assignment]
        for (part, at), blocks in zip(self._ring_blocks(snapshot.first, snapshot.end), saved, strict=True):
            part[target, :, at] = blocks

    def give_back(self, slot: int, kept: int) -> None:
        """Free the memory of a slot's positions from ``kept`` on, which are zeros afterwards. Only on a CPU."""
        for name, pages in self._pages.items():
            heads, positions, _ = self._rows[name]
            head_bytes = positions * self._shape.row_bytes
            kept_bytes = min(self._shape.whole_pages(kept), positions) * self._shape.row_bytes
            first = slot * heads * head_bytes
            if not kept_bytes:
                pages.madvise(mmap.MADV_REMOVE, first, heads * head_bytes)
            elif kept_bytes < head_bytes:
                for start in range(first + kept_bytes, first + heads * head_bytes, head_bytes):
                    pages.madvise(mmap.MADV_REMOVE, start, head_bytes - kept_bytes)

    def _ring_blocks(self, first: int, end: int) -> Iterator[tuple[NDArray[Any], NDArray[np.intp]]]:
        """Each windowed cache in blocks (slots, kv_heads, blocks, ..), and which of the blocks hold these positions."""
        if self.windows is None:
            return
        places = np.arange(first // _BLOCK, -(-end // _BLOCK))
        for layer in sorted(self._shape.windowed):
            for array in (self._arrays[f"{layer}.key"], self._arrays[f"{layer}.value"]):
                blocks = array.reshape(*array.shape[:2], -1, _BLOCK * array.shape[3])
                yield blocks, places % blocks.shape[2]


def _rounded(positions: int) -> int:
    return positions + -positions % _BLOCK
