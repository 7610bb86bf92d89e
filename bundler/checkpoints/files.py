"""Finds the tensors of a directory: which safetensors file holds each, of which type and shape. Reads them one by one.

The headers are read, no data. An index must agree with the files that lie there, in both directions: one that was left
by another version of the checkpoint would otherwise mix two models.

The safetensors library reads and checks each header once. Data is then read from the places that the header names, not
through the library: it would map the whole file and read the header anew for every piece of a tensor.

Format: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bundler.checkpoints.recognise import refuse_by_content, refuse_without_weights
from bundler.errors import CheckpointError

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
FLOATS: Final = ("BF16", "F16", "F32")
_STALE: Final = "the index of this very checkpoint: fetch it again, or delete it if model.safetensors holds all"

_TYPES: Final[Mapping[str, Any]] = {"BF16": ml_dtypes.bfloat16, "F16": "<f2", "F32": "<f4", "U8": "u1"}
_LENGTH_BYTES: Final = 8  # of the header's length, at the beginning of the file
_EXPONENTS: Final = {"BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F32": (np.uint32, 0x7F800000)}


@dataclass(frozen=True)
class Seen:
    """What a file was when its header was read."""

    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Seen:
        state = os.fstat(descriptor)
        return cls(state.st_size, state.st_mtime_ns)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file."""

    path: Path
    name: str  # as the file has it
    dtype: str  # as safetensors names it: BF16, F16, F32, U8, ..
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file
    seen: Seen

    def read(self, rows: range | None = None) -> NDArray[Any]:
        """The tensor, or these rows of it, as it is stored.

        Raises:
            CheckpointError: the file changed or vanished since its header was read, or a number is infinite or NaN.
        """
        tensor = self._stored(rows)
        if self.dtype in _EXPONENTS:
            bits, mask = _EXPONENTS[self.dtype]
            if ((tensor.view(bits) & bits(mask)) == bits(mask)).any():
                raise CheckpointError(self.path, f"{self.name} holds an infinity or NaN", "finite numbers")
        return tensor

    def _stored(self, rows: range | None) -> NDArray[Any]:
        kind, shape = np.dtype(_TYPES[self.dtype]), self.shape
        row_bytes = kind.itemsize * math.prod(shape[1:])
        first = 0
        if rows is not None:
            first, shape = rows.start, (len(rows), *shape[1:])
        tensor = np.empty(shape, kind)
        into = tensor.reshape(-1).view(np.uint8).data
        try:
            with self.path.open("rb", buffering=0) as file:
                if Seen.of(file.fileno()) != self.seen:
                    raise CheckpointError(self.path, "changed while it was read", "a file that stays as it is")
                file.seek(self.offset + first * row_bytes)
                read = 0
                while read < len(into):  # Linux reads at most 2 GiB at a time
                    count = file.readinto(into[read:])
                    if not count:
                        raise CheckpointError(self.path, "became shorter while it was read", str(self))
                    read += count
        except OSError as exc:
            raise CheckpointError(self.path, f"{self.name} cannot be read ({exc})", str(self)) from exc
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
        if not (single.is_file() or single.is_symlink()):
            refuse_without_weights(directory, SINGLE, INDEX)
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
        seen, places = _places(path)
        with safe_open(path, framework="numpy") as shard:
            slices = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 (not a mapping)
            return {
                name: StoredTensor(path, name, item.get_dtype(), tuple(item.get_shape()), places[name], seen)
                for name, item in slices.items()
            }
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        refuse_by_content(path)
        expected = "a complete safetensors file: download it again"
        raise CheckpointError(path, f"truncated or corrupt ({exc})", expected) from exc


def _places(path: Path) -> tuple[Seen, dict[str, int]]:
    """What the file is, and where each tensor begins in it. Whoever calls this lets the library check the file, too.

    Raises:
        ValueError, LookupError, TypeError, AttributeError, RecursionError: the header is malformed.
    """
    with path.open("rb") as file:
        seen = Seen.of(file.fileno())
        size = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if _LENGTH_BYTES + size > seen.size_bytes:
            raise ValueError("the header is longer than the file")
        entries = json.loads(file.read(size))
    begin = _LENGTH_BYTES + size
    return seen, {n: begin + entry["data_offsets"][0] for n, entry in entries.items() if n != "__metadata__"}


def _index(path: Path) -> dict[str, str]:
    """Tensor name -> shard."""
    expected = 'JSON whose "weight_map" names the file of each tensor: fetch it again'
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        refuse_by_content(path)
        raise CheckpointError(path, f"unreadable ({exc})", expected) from exc
    found = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(shard, str) for shard in found.values()):
        raise CheckpointError(path, "is no index of tensors", expected)
    return found


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
