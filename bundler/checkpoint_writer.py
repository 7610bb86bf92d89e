"""Writes checkpoints in the layout that `bundler.checkpoint` reads: the demo model's, and random ones for tests.

They have no tokenizer; their config.json says that they use gpt-oss's (``harmony_vocabulary``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bundler.checkpoint import CONFIG
from bundler.checkpoints.files import INDEX, SINGLE
from bundler.errors import ExportError
from bundler.model_config import HARMONY_VOCABULARY


def write_checkpoint(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, NDArray[Any]]],
    *,
    max_shard_bytes: int = 1 << 30,
) -> None:
    """Write a checkpoint into ``directory`` (made if absent), shard by shard, config.json last.

    Args:
        config: as config.json holds it; the statement of the vocabulary is added.
        tensors: name and array, ``ml_dtypes.bfloat16`` or ``uint8``; read once, with at most one shard in memory.
        max_shard_bytes: size of a shard at most; only a tensor that is larger gets a larger shard, of its own.
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
    for number, name in enumerate(names):  # a name holds the number of shards, which is known only now
        written[number] = written[number].rename(directory / name)
    documents: dict[str, Any] = {CONFIG: {**config, **HARMONY_VOCABULARY}}
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
