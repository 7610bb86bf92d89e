"""Reads and writes checkpoints in the layout in which gpt-oss is published on Hugging Face.

A directory holds ``config.json`` and either ``model.safetensors`` or ``model.safetensors.index.json`` with the shards
it names. `open_checkpoint` compares every header with what the configuration demands before anything else is done;
tensors are then read one at a time, so that the model is never in memory as a whole.

The tensors, for layer N (E experts, H hidden, I intermediate, q and kv the widths of all heads; BF16 unless said):

    model.embed_tokens.weight, lm_head.weight           [vocabulary, H]        model.norm.weight [H]
    model.layers.N.input_layernorm.weight               [H]    and post_attention_layernorm
    model.layers.N.self_attn.q_proj.weight, .bias       [q, H], [q]    k_proj, v_proj: [kv, H];  o_proj: [H, q]
    model.layers.N.self_attn.sinks                      [heads]
    model.layers.N.mlp.router.weight, .bias             [E, H], [E]
    model.layers.N.mlp.experts.gate_up_proj_blocks      U8 [E, 2I, H/32, 16]   _scales U8 [E, 2I, H/32]   _bias [E, 2I]
    model.layers.N.mlp.experts.down_proj_blocks         U8 [E, H, I/32, 16]    _scales U8 [E, H, I/32]    _bias [E, H]
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes  # noqa: F401 (importing it teaches NumPy, and so safetensors, bfloat16)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bundler.errors import CheckpointError, ExportError
from bundler.model_config import MXFP4_BLOCK, ModelConfig, load_model_config

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_EXPONENT = np.uint16(0x7F80)  # of a bfloat16; all ones in infinities and NaN


@dataclass(frozen=True)
class TensorSpec:
    """What the layout demands of one tensor."""

    dtype: Literal["BF16", "U8"]
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * {"BF16": 2, "U8": 1}[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors were all found with the right type and shape."""

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


def expected_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Every tensor of the layout, in the order of the computation."""
    hidden = config.hidden
    specs = {"model.embed_tokens.weight": TensorSpec("BF16", (config.vocab, hidden))}
    for layer in range(config.layers):
        specs |= {f"model.layers.{layer}.{name}": spec for name, spec in _layer_tensors(config).items()}
    specs["model.norm.weight"] = TensorSpec("BF16", (hidden,))
    specs["lm_head.weight"] = TensorSpec("BF16", (config.vocab, hidden))
    return specs


def _layer_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    hidden, experts = config.hidden, config.experts
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    dense = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.q_proj.bias": (queries,),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.v_proj.bias": (keys,),
        "self_attn.sinks": (config.heads,),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.o_proj.bias": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.router.weight": (experts, hidden),
        "mlp.router.bias": (experts,),
    }
    specs = {name: TensorSpec("BF16", shape) for name, shape in dense.items()}
    for name, rows, depth in (
        ("gate_up_proj", 2 * config.intermediate, hidden),
        ("down_proj", hidden, config.intermediate),
    ):
        blocks = depth // MXFP4_BLOCK
        specs[f"mlp.experts.{name}_blocks"] = TensorSpec("U8", (experts, rows, blocks, MXFP4_BLOCK // 2))
        specs[f"mlp.experts.{name}_scales"] = TensorSpec("U8", (experts, rows, blocks))
        specs[f"mlp.experts.{name}_bias"] = TensorSpec("BF16", (experts, rows))
    return specs


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


def write_checkpoint(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, NDArray[Any]]],
    *,
    max_shard_bytes: int = 1 << 30,
) -> None:
    """Write a checkpoint into ``directory`` (made if absent), shard by shard, config.json last.

    Args:
        config: as config.json holds it.
        tensors: name and array, ``ml_dtypes.bfloat16`` or ``uint8``; consumed once, at most one shard kept in memory.
        max_shard_bytes: a shard is closed before it would exceed this; a larger tensor gets a shard of its own.
    Raises:
        ExportError: the disk is full or the directory cannot be written; what was written is removed.
    """
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_files(directory, config, _batches(tensors, max_shard_bytes), written)
    except (OSError, SafetensorError) as exc:
        _remove(written)
        raise ExportError(f"{directory}: the checkpoint could not be written: {exc}") from exc
    except BaseException:
        _remove(written)
        raise


def _write_files(
    directory: Path, config: Mapping[str, Any], batches: Iterable[dict[str, NDArray[Any]]], written: list[Path]
) -> None:
    shard_of: dict[str, int] = {}
    total_bytes = 0
    for number, batch in enumerate(batches):
        written.append(directory / f"shard-{number}.tmp")
        save_file(batch, written[-1], metadata={"format": "pt"})
        shard_of |= dict.fromkeys(batch, number)
        total_bytes += sum(array.nbytes for array in batch.values())
    count = len(written)
    names = [SINGLE] if count == 1 else [f"model-{n + 1:05}-of-{count:05}.safetensors" for n in range(count)]
    for number, name in enumerate(names):  # the names hold the count, known only now
        written[number] = written[number].rename(directory / name)
    documents: dict[str, Any] = {CONFIG: dict(config)}
    if count > 1:
        weight_map = {name: names[shard] for name, shard in sorted(shard_of.items())}
        documents = {INDEX: {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}} | documents
    for name, document in documents.items():
        written.append(directory / name)
        written[-1].write_text(json.dumps(document, indent=2) + "\n")


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _batches(tensors: Iterable[tuple[str, NDArray[Any]]], limit_bytes: int) -> Iterable[dict[str, NDArray[Any]]]:
    batch: dict[str, NDArray[Any]] = {}
    size_bytes = 0
    for name, array in tensors:
        if batch and size_bytes + array.nbytes > limit_bytes:
            yield batch
            batch, size_bytes = {}, 0
        batch[name] = np.ascontiguousarray(array)
        size_bytes += array.nbytes
    if batch:
        yield batch
