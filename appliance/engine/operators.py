"""The native operators from Python: which paths this processor has, and packing weights for them.

    operators = load_operators()
    operators.use_path("avx2")                         # otherwise a session that registers the library takes the best
    operators.pack_experts(shape, sources, out)        # out: a writable buffer of operators.expert_bytes(shape)
    operators.offer(key, out)                          # before the session is created

Weights are read from and written to buffers that the caller maps. Nothing here opens a file except the library itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ApplianceError
from appliance.kernels import library_path

Bytes = NDArray[np.uint8]
DenseKind = Literal["int8", "bf16"]

_DENSE_KINDS: dict[DenseKind, int] = {"int8": 0, "bf16": 1}
_GROUPS_AT_A_TIME = 64  # groups of 16 rows that a thread packs before it asks for more


class OperatorError(ApplianceError):
    """The native library cannot do what was asked on this machine."""


@dataclass(frozen=True)
class ExpertShape:
    """An expert layer: ``hidden`` and ``inner`` are multiples of 32."""

    experts: int
    hidden: int
    inner: int


@dataclass(frozen=True)
class DenseShape:
    """A dense weight (rows, inner); ``inner`` is a multiple of 32."""

    rows: int
    inner: int


class Operators:
    """The loaded library."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = ctypes.CDLL(path)
        self._chosen: str | None = None
        size, pointer, integer = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
        for name, result, arguments in (
            ("gpt_oss_paths", ctypes.c_char_p, ()),
            ("gpt_oss_use_path", integer, (ctypes.c_char_p,)),
            ("gpt_oss_set_threads", None, (size,)),
            ("gpt_oss_expert_bytes", size, (size, size, size)),
            ("gpt_oss_dense_bytes", size, (integer, size, size)),
            ("gpt_oss_pack_experts", None, (size, size, size, *[pointer] * 4, size, size, pointer)),
            ("gpt_oss_pack_dense", None, (integer, size, size, pointer, size, size, pointer)),
            ("gpt_oss_offer", None, (ctypes.c_int64, pointer, size)),
            ("gpt_oss_withdraw_offers", None, ()),
            ("gpt_oss_read", ctypes.c_uint64, (pointer, size, size)),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def paths(self) -> list[str]:
        """The instruction sets this processor supports, best first."""
        names: bytes = self._library.gpt_oss_paths()
        return names.decode().split()

    def use_path(self, name: str) -> None:
        """Use this path in every session from now on.

        Raises:
            OperatorError: the processor lacks it.
        """
        if self._library.gpt_oss_use_path(name.encode()) != 0:
            raise OperatorError(f"this processor does not support the path {name}; it has {', '.join(self.paths())}")

        self._chosen = name

    @property
    def chosen(self) -> str:
        """The path that sessions use."""
        return self._chosen or self.paths()[0]

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Use this path within the block.

        Raises:
            OperatorError: the processor lacks it.
        """
        before = self.chosen
        self.use_path(name)
        try:
            yield
        finally:
            self.use_path(before)

    def set_threads(self, count: int) -> None:
        """Set how many threads share a layer: the session's intra-op threads."""
        self._library.gpt_oss_set_threads(count)

    def expert_bytes(self, shape: ExpertShape) -> int:
        """Size of a packed expert layer."""
        return int(self._library.gpt_oss_expert_bytes(shape.experts, shape.hidden, shape.inner))

    def dense_bytes(self, kind: DenseKind, shape: DenseShape) -> int:
        """Size of a packed dense weight."""
        return int(self._library.gpt_oss_dense_bytes(_DENSE_KINDS[kind], shape.rows, shape.inner))

    def pack_experts(self, shape: ExpertShape, sources: Sequence[Bytes], out: Bytes, *, threads: int = 1) -> None:
        """Pack gate_up_blocks, gate_up_scales, down_blocks and down_scales (checkpoint layout) into ``out``."""
        weights = shape.experts * shape.hidden * shape.inner
        _expect(sources, (weights, weights // 16, weights // 2, weights // 32), out, self.expert_bytes(shape))
        pack = partial(
            self._library.gpt_oss_pack_experts, shape.experts, shape.hidden, shape.inner,
            *(source.ctypes.data for source in sources),
        )  # fmt: skip
        _in_parallel(threads, [partial(pack, expert, expert + 1, out.ctypes.data) for expert in range(shape.experts)])

    def pack_dense(self, kind: DenseKind, shape: DenseShape, source: Bytes, out: Bytes, *, threads: int = 1) -> None:
        """Pack a bfloat16 weight (its bytes) into ``out``."""
        _expect((source,), (shape.rows * shape.inner * 2,), out, self.dense_bytes(kind, shape))
        pack = partial(
            self._library.gpt_oss_pack_dense, _DENSE_KINDS[kind], shape.rows, shape.inner, source.ctypes.data
        )
        groups = (shape.rows + 31) // 32 * 2
        _in_parallel(
            threads,
            [
                partial(pack, first, min(first + _GROUPS_AT_A_TIME, groups), out.ctypes.data)
                for first in range(0, groups, _GROUPS_AT_A_TIME)
            ],
        )

    def offer(self, key: int, packed: Bytes) -> None:
        """Give packed weights to the sessions created from now on. They must stay alive as long as such a session."""
        self._library.gpt_oss_offer(key, packed.ctypes.data, packed.nbytes)

    def read(self, memory: NDArray[np.generic], streams: int) -> int:
        """Read contiguous memory in so many streams, as the products read weights. Benchmarks time it.

        Args:
            memory: its size is a multiple of 64 bytes for each stream.

        Returns:
            The exclusive or of all its 64-bit words.
        """
        if not memory.flags.c_contiguous or memory.nbytes % (64 * streams):
            raise ValueError(f"{memory.nbytes} bytes cannot be read as {streams} streams of whole lines")
        return int(self._library.gpt_oss_read(memory.ctypes.data, memory.nbytes, streams))

    def withdraw_offers(self) -> None:
        """Forget every offer."""
        self._library.gpt_oss_withdraw_offers()


@cache
def load_operators() -> Operators:
    """The library of this installation.

    Raises:
        OperatorError: it is missing or cannot be loaded.
    """
    try:
        return Operators(str(library_path()))
    except OSError as exc:
        raise OperatorError(f"the native operators cannot be loaded: {exc}") from exc


def _expect(sources: Sequence[Bytes], sizes: Sequence[int], out: Bytes, out_size: int) -> None:
    for array, size in zip([*sources, out], [*sizes, out_size], strict=True):
        if array.nbytes != size or not array.flags.c_contiguous:
            raise RuntimeError(f"internal error: a buffer of {size} contiguous bytes is needed, not {array.nbytes}")


def _in_parallel(threads: int, calls: Sequence[partial[None]]) -> None:
    """Run all calls; ctypes releases the interpreter's lock while the library works."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()
