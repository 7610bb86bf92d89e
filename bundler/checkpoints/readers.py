"""Finds a reader for each tensor of the published layout among the tensors that a checkpoint stores.

Every stored tensor must be used, and every tensor of the layout must be found; the first that is not is named. A
layer's experts may be stored in MXFP4 or in wider types, in any form that `bundler.checkpoints.names` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bundler.checkpoints.adapter import Adapter
from bundler.checkpoints.experts import (
    ExpertMatrices,
    FusedMatrices,
    ListedMatrices,
    PackedMatrices,
    RoundedExperts,
    RoundingLog,
    StackedBiases,
)
from bundler.checkpoints.files import FLOATS, StoredTensor
from bundler.checkpoints.lowrank import LowRank
from bundler.checkpoints.names import PROJECTIONS, ExpertPart, Part, Projection, grouped_experts
from bundler.checkpoints.recognise import refuse_by_type
from bundler.errors import CheckpointError
from bundler.layout import TensorSpec, expected_tensors
from bundler.model_config import MXFP4_BLOCK, ModelConfig
from installer.formats.release import STORED_MXFP4

Reader = Callable[[range], NDArray[Any]]
_Listed = dict[int, tuple[StoredTensor, ...]]


@dataclass(frozen=True)
class Readers:
    """How each tensor is read, and what is converted on the way."""

    by_name: Mapping[str, Reader]
    log: RoundingLog
    experts_from: frozenset[str]  # types that experts are rounded to MXFP4 from
    dense_from: frozenset[str]  # types that other tensors are rounded to bfloat16 from
    rounded: frozenset[str]  # tensors that are rounded to MXFP4, which takes long


def find_readers(
    listing: Path, config: ModelConfig, stored: Mapping[str, StoredTensor], adapter: Adapter | None
) -> tuple[dict[str, TensorSpec], Readers]:
    """The tensors of the layout, and a reader for each.

    Args:
        listing: the file that lists the tensors, for messages.
        stored: by published name.
    Raises:
        CheckpointError: naming the first tensor at fault.
    """
    search = _Search(listing, config, stored, adapter)
    readers = search.readers()
    kinds = frozenset(search.experts_from), frozenset(search.dense_from)
    return search.specs, Readers(readers, search.log, *kinds, frozenset(search.rounded))


class _Search:
    """The stored tensors, and which of them are used already."""

    def __init__(
        self, listing: Path, config: ModelConfig, stored: Mapping[str, StoredTensor], adapter: Adapter | None
    ) -> None:
        self.listing, self.config, self.stored, self.adapter = listing, config, stored, adapter
        self.specs = expected_tensors(config)
        self.log = RoundingLog()
        self.experts_from: set[str] = set()
        self.dense_from: set[str] = set()
        self.rounded: set[str] = set()
        self._parts = grouped_experts(stored.items())
        self._used: set[str] = set()

    def readers(self) -> dict[str, Reader]:
        """Every tensor's reader, in the order of the layout."""
        self._refuse_other_names()
        found: dict[str, Reader] = {}
        for layer in range(self.config.layers):
            for projection in PROJECTIONS:
                found |= self._experts(layer, projection)
        found |= {name: self._dense(name, spec) for name, spec in self.specs.items() if name not in found}
        for tensor in self.stored.values():
            if tensor.name not in self._used:
                expected = (
                    f"the {len(self.specs)} tensors that config.json speaks of, or the config.json of these weights"
                )
                raise CheckpointError(self.listing, f"{tensor.name} is not a tensor of this model", expected)
        return {name: found[name] for name in self.specs}

    def _refuse_other_names(self) -> None:
        """Refuse tensors if none is called as gpt-oss's are: that the layout's first is missing would say less."""
        if self._parts or any(name in self.specs for name in self.stored):
            return
        first = next((tensor.name for tensor in self.stored.values()), None)
        fault = "holds no tensor" if first is None else f"holds no tensor of gpt-oss's names; one is called {first}"
        raise CheckpointError(
            self.listing, fault, f"names such as {next(iter(self.specs))}, as Transformers saves them"
        )

    def _take(self, name: str, spec: TensorSpec) -> StoredTensor:
        tensor = self.stored.get(name)
        if tensor is None:
            raise CheckpointError(self.listing, f"{name} is missing", str(spec))
        return self._checked(tensor, spec)

    def _checked(self, tensor: StoredTensor, spec: TensorSpec) -> StoredTensor:
        """The tensor, which has this shape and type; where the layout has BF16, other floats are taken, too."""
        self._used.add(tensor.name)
        if tensor.shape != spec.shape or tensor.dtype not in (FLOATS if spec.dtype == "BF16" else (spec.dtype,)):
            refuse_by_type(tensor.path, tensor.name, tensor.dtype, str(tensor))
            raise CheckpointError(tensor.path, f"{tensor.name} is {tensor}", str(spec))
        return tensor

    def _dense(self, name: str, spec: TensorSpec) -> Reader:
        """The reader of a tensor that is bfloat16 in the layout."""
        tensor = self._take(name, spec)
        change = self.adapter.matrix(name) if self.adapter else None
        if tensor.dtype != "BF16":
            self.dense_from.add(tensor.dtype)
        return tensor.read if tensor.dtype == "BF16" and change is None else partial(_rounded, tensor, change)

    def _experts(self, layer: int, projection: Projection) -> dict[str, Reader]:
        """The readers of one projection's blocks and scales, and of biases that are stored one by one."""
        stem = f"model.layers.{layer}.mlp.experts.{projection}"
        blocks, scales, bias = (f"{stem}_{part}" for part in ("blocks", "scales", "bias"))
        found: dict[str, Reader] = {}
        if bias not in self.stored and (biases := self._listed(layer, projection, "bias")):
            found[bias] = StackedBiases(biases).read
            self.dense_from |= {tensor.dtype for part in biases.values() for tensor in part} - {"BF16"}
        changes = self.adapter.experts(layer, projection) if self.adapter else None
        matrices: ExpertMatrices | None = self._wide(layer, projection)
        if matrices is not None and blocks in self.stored:
            fault = f"the experts of layer {layer}, {projection}, are there twice: in MXFP4 and in more bits"
            raise CheckpointError(self.listing, fault, "one of the two: the one that was trained last")
        if matrices is None:
            packed = PackedMatrices(self._take(blocks, self.specs[blocks]), self._take(scales, self.specs[scales]))
            if changes is None:
                return found | {blocks: packed.blocks.read, scales: packed.read_scales}
            self.experts_from.add(STORED_MXFP4)
            matrices = packed
        _, rows, count, _ = self.specs[blocks].shape
        rounded = RoundedExperts(self.listing, layer, projection, rows, count * MXFP4_BLOCK, matrices,
                                 changes or _unchanged, self.log)  # fmt: skip
        self.rounded |= {blocks, scales}
        return found | {blocks: rounded.read_blocks, scales: rounded.read_scales}

    def _wide(self, layer: int, projection: Projection) -> ExpertMatrices | None:
        """The matrices of a projection that is not stored in MXFP4."""
        experts, rows, count, _ = self.specs[f"model.layers.{layer}.mlp.experts.{projection}_blocks"].shape
        fused = self._parts.get(ExpertPart(layer, projection, "weight", None, None))
        if fused is not None:
            self._checked(fused, TensorSpec("BF16", (experts, count * MXFP4_BLOCK, rows)))
            self.experts_from.add(fused.dtype)
            return FusedMatrices(fused)
        if listed := self._listed(layer, projection, "weight"):
            self.experts_from |= {tensor.dtype for part in listed.values() for tensor in part}
            return ListedMatrices(listed)
        return None

    def _listed(self, layer: int, projection: Projection, part: Part) -> _Listed:
        """The tensors of each expert, if experts are stored one by one: one tensor, or gate and up; otherwise none."""
        experts, rows, count, _ = self.specs[f"model.layers.{layer}.mlp.experts.{projection}_blocks"].shape
        inner = (count * MXFP4_BLOCK,) if part == "weight" else ()
        found: _Listed = {}
        for expert in range(experts):
            whole = self._parts.get(ExpertPart(layer, projection, part, expert, None))
            halves = [self._parts.get(ExpertPart(layer, projection, part, expert, half)) for half in ("gate", "up")]
            pieces = [whole] if whole else halves if any(halves) else []
            if not pieces and not found:
                return {}
            if not pieces or None in pieces:
                missing = f"{part} of expert {expert} of layer {layer}, {projection},"
                raise CheckpointError(self.listing, f"the {missing} is missing", f"all {experts} experts")
            height = rows // len(pieces)
            found[expert] = tuple(self._checked(t, TensorSpec("BF16", (height, *inner))) for t in pieces if t)
        return found


def _rounded(tensor: StoredTensor, change: Callable[[], LowRank] | None, rows: range) -> NDArray[Any]:
    """These rows with their change, in bfloat16."""
    values: NDArray[np.float32] = tensor.read(rows).astype(np.float32)
    if change is not None:
        change().add_to(values, rows.start)
    with np.errstate(over="ignore"):
        result: NDArray[Any] = values.astype(ml_dtypes.bfloat16)
    if not np.isfinite(result).all():
        raise CheckpointError(tensor.path, f"{tensor.name} does not fit into bfloat16", "finite numbers")
    return result


def _unchanged() -> Callable[[int], Sequence[LowRank]]:
    return lambda expert: ()
