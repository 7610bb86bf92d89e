"""Collects the nodes of an ONNX graph and the weights to store beside it.

A value is named after what it is; a weight that is a checkpoint tensor keeps the tensor's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bundler.checkpoint import Checkpoint
from bundler.layout import TensorSpec, expected_tensors
from bundler.model_config import ModelConfig
from installer.formats.packing import PackedKind

_ITEM_BYTES: dict[int, int] = {
    TensorProto.BFLOAT16: 2,
    TensorProto.UINT8: 1,
    TensorProto.FLOAT8E8M0: 1,
    TensorProto.FLOAT: 4,
    TensorProto.FLOAT16: 2,
}


@dataclass(frozen=True)
class Weight:
    """One initialiser to store, and how to obtain its data: some rows of it, along the first axis."""

    name: str
    onnx_type: int
    shape: tuple[int, ...]
    load: Callable[[Checkpoint, range], NDArray[Any]]  # [rows, ..]

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape)) * _ITEM_BYTES[self.onnx_type]

    def pieces(self, limit_bytes: int) -> Iterator[range]:
        """All rows, in ranges of at most so many bytes, but of at least one row."""
        rows = self.shape[0]
        step = max(1, limit_bytes * rows // self.size_bytes)
        return (range(at, min(at + step, rows)) for at in range(0, rows, step))


@dataclass(frozen=True)
class Packing:
    """The stored weights that one native operator reads and the host packs for its processor, by the node's key."""

    key: int
    kind: PackedKind
    sizes: dict[str, int]
    weights: tuple[str, ...]


class GraphBuilder:
    """Nodes and weights in the order of the computation."""

    compute_type: ClassVar[int]  # ONNX type of products

    def __init__(self, config: ModelConfig, max_weight_bytes: int) -> None:
        self.config = config
        self.max_weight_bytes = max_weight_bytes
        self.specs = expected_tensors(config)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[Weight] = []
        self.tables: list[onnx.TensorProto] = []
        self.packings: list[Packing] = []

    def node(self, op: str, inputs: list[str], output: str | list[str], *, domain: str = "", **attributes: Any) -> str:
        """Append a node and return its first output's name."""
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def derived(self, name: str, array: NDArray[np.float32]) -> str:
        """A large constant in the compute type, stored like a weight."""
        rounded = array.astype(helper.tensor_dtype_to_np_dtype(self.compute_type))
        self.weights.append(
            Weight(name, self.compute_type, array.shape, lambda _, rows: rounded[rows.start : rows.stop])
        )
        return name

    def table(self, name: str, array: NDArray[Any]) -> str:
        """A small constant, kept in the graph itself."""
        self.tables.append(onnx.numpy_helper.from_array(array, name))
        return name

    def stored(self, name: str) -> str:
        """A checkpoint tensor as published, under its own name; joined from parts if it is too large for one shard."""
        parts = [part.name for part in self.stored_parts(name)]
        return name if len(parts) == 1 else self.node("Concat", parts, name, axis=0)

    def stored_parts(self, name: str) -> list[Weight]:
        """A published matrix as it is stored, whole or in parts."""
        spec = self.specs[name]
        ranges = _row_ranges(spec, self.max_weight_bytes)
        names = [name] if len(ranges) == 1 else [f"{name}.part{number}" for number in range(len(ranges))]
        parts = [_published(part, name, spec, rows) for part, rows in zip(names, ranges, strict=True)]
        self.weights += parts
        return parts

    def dense(self, name: str, onnx_type: int | None = None) -> str:
        """A published tensor in the compute type (or the one given)."""
        return self.cast(self.stored(name), onnx_type)

    def joined(self, names: list[str], part: str, output: str) -> str:
        """The tensors `NAME.part` in the compute type, one below the other."""
        parts = [self.dense(f"{name}.{part}") for name in names]
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, f"{output}.{part}", axis=0)

    def cast(self, value: str, onnx_type: int | None = None) -> str:
        """The value in the compute type (or the one given)."""
        to = self.compute_type if onnx_type is None else onnx_type
        return self.node("Cast", [value], f"{value}.{TensorProto.DataType.Name(to).lower()}", to=to)

    def converted(self, value: str, have: int, want: int) -> str:
        """The value in the wanted type; unchanged if it already has that type."""
        return value if have == want else self.cast(value, want)

    def linear(self, x: str, weight: str, bias: str | None, output: str) -> str:
        """x [T, in] times weight [out, in] transposed, plus bias [out], both in the compute type."""
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return self.node("Gemm", inputs, output, transB=1)


def _published(name: str, tensor: str, spec: TensorSpec, rows: range) -> Weight:
    onnx_type = TensorProto.BFLOAT16 if spec.dtype == "BF16" else TensorProto.UINT8
    shape = (len(rows), *spec.shape[1:])
    return Weight(
        name, onnx_type, shape, lambda checkpoint, some: checkpoint.read(tensor, rows[some.start : some.stop])
    )


def _row_ranges(spec: TensorSpec, limit_bytes: int) -> list[range]:
    rows_per_part = max(1, limit_bytes * spec.shape[0] // spec.size_bytes)
    return [range(at, min(at + rows_per_part, spec.shape[0])) for at in range(0, spec.shape[0], rows_per_part)]
