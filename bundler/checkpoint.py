"""Reads checkpoints in the layout in which gpt-oss is published on Hugging Face (`bundler.layout`).

A directory holds ``config.json`` and either ``model.safetensors`` or ``model.safetensors.index.json`` with the shards
it names. `open_checkpoint` compares every header with what the configuration demands before anything else is done;
tensors are then read one at a time, so that the model is never in memory as a whole.

"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (importing it teaches NumPy, and so safetensors, bfloat16)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bundler.errors import CheckpointError
from bundler.layout import TensorSpec, expected_tensors
from bundler.model_config import ModelConfig, load_model_config

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_EXPONENT = np.uint16(0x7F80)  # the exponent's bits of a bfloat16; infinities and NaN have them all set


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in which every tensor has the right type and shape."""

    directory: Path
    config: ModelConfig
    config_bytes: bytes  # config.json, byte for byte
    specs: Mapping[str, TensorSpec]
    _shards: Mapping[str, Path]

    def read(self, name: str, rows: range | None = None) -> NDArray[Any]:
        """One tensor, or these rows of it: ``ml_dtypes.bfloat16`` or ``uint8``, shaped as ``specs[name]`` says.

        Raises:
            CheckpointError: the shard changed or vanished since it was opened, or the tensor holds infinities or NaN.
        """
        path = self._shards[name]
        try:
            with safe_open(path, framework="numpy") as shard:
                tensor: NDArray[Any] = (
                    shard.get_tensor(name) if rows is None else shard.get_slice(name)[rows.start : rows.stop]
                )
        except (OSError, SafetensorError) as exc:
            raise CheckpointError(path, f"{name} cannot be read ({exc})", str(self.specs[name])) from exc
        if name.endswith("_scales") and (tensor == 255).any():
            raise CheckpointError(path, f"{name} holds the scale 255", "0 to 254 (E8M0 reserves 255 for NaN)")
        if self.specs[name].dtype == "BF16" and ((tensor.view(np.uint16) & _EXPONENT) == _EXPONENT).any():
            raise CheckpointError(path, f"{name} holds an infinity or NaN", "finite numbers")
        return tensor


def open_checkpoint(directory: Path) -> Checkpoint:
    """Read the configuration and check every tensor's header; no tensor's data is read.

    Raises:
        CheckpointError: naming the first file at fault, the fault and what was expected.
    """
    config, config_bytes = load_model_config(directory / CONFIG)
    specs = expected_tensors(config)
    shards = _locate(directory)
    _check_headers(directory, specs, shards)
    return Checkpoint(directory, config, config_bytes, specs, shards)


def _locate(directory: Path) -> dict[str, Path]:
    """Tensor name -> shard, from the index if there is one."""
    index_path, single = directory / INDEX, directory / SINGLE
    if not index_path.exists():
        return {name: single for name in _header(single)}
    try:
        weight_map = json.loads(index_path.read_bytes())["weight_map"]
        entries = {str(name): str(shard) for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CheckpointError(index_path, f"unreadable ({exc!r})", 'JSON with a "weight_map"') from exc
    for name, shard in entries.items():
        if Path(shard).name != shard:
            raise CheckpointError(index_path, f"{name} is said to be in {shard!r}", "a file name without a directory")
        if not (directory / shard).is_file():
            raise CheckpointError(index_path, f"{name} is said to be in {shard}, which is absent", "every shard")
    return {name: directory / shard for name, shard in entries.items()}


def _check_headers(directory: Path, specs: Mapping[str, TensorSpec], shards: Mapping[str, Path]) -> None:
    listing = directory / (INDEX if (directory / INDEX).exists() else SINGLE)
    for name, spec in specs.items():
        if name not in shards:
            raise CheckpointError(listing, f"{name} is missing", str(spec))
    for name in shards:
        if name not in specs:
            raise CheckpointError(listing, f"{name} is not a tensor of this model", f"the {len(specs)} of the layout")
    headers = {path: _header(path) for path in sorted(set(shards.values()))}
    for path, header in headers.items():
        for name in header:
            if shards.get(name) != path:
                raise CheckpointError(path, f"holds {name}, which the index does not place there", "what it lists")
    for name, spec in specs.items():
        found = headers[shards[name]].get(name)
        if found is None:
            raise CheckpointError(shards[name], f"{name} is missing", str(spec))
        if found != (spec.dtype, spec.shape):
            raise CheckpointError(shards[name], f"{name} is {found[0]} {list(found[1])}", str(spec))


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (type, shape) of a safetensors file; the library checks that the data is complete."""
    if not path.is_file():
        raise CheckpointError(path, "no such file", f"the weights, or {INDEX} naming their shards")
    try:
        with safe_open(path, framework="numpy") as shard:
            slices = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 (not a mapping)
            return {name: (item.get_dtype(), tuple(item.get_shape())) for name, item in slices.items()}
    except (OSError, SafetensorError) as exc:
        raise CheckpointError(path, f"truncated or corrupt ({exc})", "a complete safetensors file") from exc
