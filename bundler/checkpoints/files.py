"""Finds the tensors of a directory: which safetensors file holds each, of which type and shape. Reads them one by one.

The headers are read, no data. An index must agree with the files that lie there, in both directions: one that was left
by another version of the checkpoint would otherwise mix two models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes  # noqa: F401 (importing it teaches NumPy, and so safetensors, bfloat16)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bundler.checkpoints.recognise import refuse_by_content
from bundler.errors import CheckpointError

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
FLOATS: Final = ("BF16", "F16", "F32")
_STALE: Final = "the index of this very checkpoint: fetch it again, or delete it if model.safetensors holds all"

_EXPONENTS: Final = {"BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F32": (np.uint32, 0x7F800000)}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file."""

    path: Path
    name: str  # as the file has it
    dtype: str  # as safetensors names it: BF16, F16, F32, U8, ..
    shape: tuple[int, ...]

    def read(self, rows: range | None = None) -> NDArray[Any]:
        """The tensor, or these rows of it, as it is stored.

        Raises:
            CheckpointError: the file changed or vanished since its header was read, or a number is infinite or NaN.
        """
        try:
            with safe_open(self.path, framework="numpy") as shard:
                tensor: NDArray[Any] = (
                    shard.get_tensor(self.name) if rows is None else shard.get_slice(self.name)[rows.start : rows.stop]
                )
        except (OSError, SafetensorError) as exc:
            raise CheckpointError(self.path, f"{self.name} cannot be read ({exc})", str(self)) from exc
        if self.dtype in _EXPONENTS:
            bits, mask = _EXPONENTS[self.dtype]
            if ((tensor.view(bits) & bits(mask)) == bits(mask)).any():
                raise CheckpointError(self.path, f"{self.name} holds an infinity or NaN", "finite numbers")
        return tensor

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint directory, by its stored name.

    Raises:
        CheckpointError: naming the first file at fault.
    """
    index_path, single = directory / INDEX, directory / SINGLE
    if not (index_path.exists() or index_path.is_symlink()):
        return header(single)
    entries = _index(index_path)
    if single.exists() and SINGLE not in entries.values():
        fault = f"names other files than {SINGLE}, which lies there, too"
        raise CheckpointError(index_path, fault, _STALE)
    for name, shard in entries.items():
        if Path(shard).name != shard:
            raise CheckpointError(index_path, f"{name} is said to be in {shard!r}", "a file name without a directory")
        if (directory / shard).is_symlink():
            refuse_by_content(directory / shard)
        if not (directory / shard).is_file():
            fault = f"{name} is said to be in {shard}, which is absent"
            raise CheckpointError(index_path, fault, f"every shard, and {_STALE}")
    return _agreeing(
        {path: header(path) for path in sorted({directory / shard for shard in entries.values()})}, entries
    )


def header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file; the library checks that the data is complete.

    Raises:
        CheckpointError: the file is absent, or no complete safetensors file.
    """
    if not path.is_file():
        refuse_by_content(path)
        raise CheckpointError(path, "no such file", f"the weights, or {INDEX} naming their shards")
    try:
        with safe_open(path, framework="numpy") as shard:
            slices = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 (not a mapping)
            return {n: StoredTensor(path, n, item.get_dtype(), tuple(item.get_shape())) for n, item in slices.items()}
    except (OSError, SafetensorError) as exc:
        refuse_by_content(path)
        raise CheckpointError(path, f"truncated or corrupt ({exc})", "a complete safetensors file") from exc


def _index(path: Path) -> dict[str, str]:
    """Tensor name -> shard."""
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        return {str(name): str(shard) for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        refuse_by_content(path)
        raise CheckpointError(path, f"unreadable ({exc!r})", 'JSON with a "weight_map"') from exc


def _agreeing(
    headers: Mapping[Path, Mapping[str, StoredTensor]], entries: Mapping[str, str]
) -> dict[str, StoredTensor]:
    for path, found in headers.items():
        for name in found:
            if entries.get(name) != path.name:
                raise CheckpointError(path, f"holds {name}, which the index does not place there", _STALE)
    held = {name: tensor for found in headers.values() for name, tensor in found.items()}
    for name, shard in entries.items():
        if name not in held:
            path = next(path for path in headers if path.name == shard)
            raise CheckpointError(path, f"{name} is missing, though the index places it there", _STALE)
    return held
