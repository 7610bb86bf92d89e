"""Expands the repository's compact weights to a checkpoint in the official layout, with rows for every token."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from bundler.checkpoint_writer import write_checkpoint
from bundler.demo_model.weights import EMBEDDING, TOKEN_IDS, WEIGHTS, load_weights
from bundler.errors import CheckpointError
from bundler.layout import expected_tensors
from bundler.model_config import parse_model_config
from installer.progress import SILENT, Progress

MODEL_CARD = "model_card.json"
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def expand_demo_checkpoint(out: Path, progress: Progress = SILENT) -> None:
    """Write the demo model into the new directory ``out``: config.json, weights and model_card.json.

    The same weights give the same bytes. Everything is written beside ``out`` first and gets its name by one rename.

    Raises:
        CheckpointError: ``out`` exists, the disk is full or not writable, or the weights are damaged; nothing is left.
    """
    files = resources.files("bundler.demo_model")
    config: dict[str, Any] = json.loads(files.joinpath("config.json").read_bytes())
    if out.exists():
        raise CheckpointError(out, "already exists", "a new directory")
    staging = out.with_name(f".{out.name}.partial")
    try:
        if staging.exists():
            shutil.rmtree(staging)
        with resources.as_file(files.joinpath(WEIGHTS)) as path:
            compact = load_weights(path)
        write_checkpoint(staging, config, _tensors(config, compact, progress))
        (staging / MODEL_CARD).write_bytes(files.joinpath(MODEL_CARD).read_bytes())
        _sync(staging)
        staging.rename(out)
    except OSError as exc:
        raise CheckpointError(out, f"cannot be written: {exc.strerror or exc}", "a directory with room for it") from exc
    except (SafetensorError, KeyError) as exc:
        raise CheckpointError(Path(WEIGHTS), f"damaged ({exc})", "the demo model's weights") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _tensors(
    config: dict[str, Any], compact: dict[str, NDArray[Any]], progress: Progress
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The layout's tensors in its order. Only one of the two large tables is in memory at a time."""
    specs = expected_tensors(parse_model_config(config))
    progress.stage("Writing the demo checkpoint", sum(spec.size_bytes for spec in specs.values()))
    for name, spec in specs.items():
        if name in _TABLES:
            table = np.zeros(spec.shape, ml_dtypes.bfloat16)
            table[compact[TOKEN_IDS]] = compact[EMBEDDING]
            yield name, table
        else:
            yield name, compact[name]
        progress.bytes_done(spec.size_bytes)


def _sync(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
