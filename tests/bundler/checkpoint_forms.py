"""Writes one checkpoint in the forms in which fine-tunes are saved. It shares no code with the reader.


Experts are given as plain arrays: for layer N and projection P, `weights[N, P]` is (experts, rows, depth) in float32,
gate and up rows in turn; `biases[N, P]` is (experts, rows).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.reference.gpt_oss import decode_mxfp4

Tensors = dict[str, NDArray[Any]]
PROJECTIONS = ("gate_up_proj", "down_proj")
BF16, F16, F32 = ml_dtypes.bfloat16, np.float16, np.float32


@dataclass(frozen=True)
class Model:
    """A model taken apart: what is outside the experts, and the experts as plain arrays."""

    config: dict[str, Any]
    dense: Tensors
    weights: dict[tuple[int, str], NDArray[np.float32]]
    biases: dict[tuple[int, str], NDArray[Any]]


def take_apart(checkpoint: Path) -> Model:
    """The model of a published checkpoint in one file."""
    config = json.loads((checkpoint / "config.json").read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    weights, biases = {}, {}
    for layer in range(config["num_hidden_layers"]):
        for projection in PROJECTIONS:
            stem = f"model.layers.{layer}.mlp.experts.{projection}"
            blocks, scales = tensors.pop(f"{stem}_blocks"), tensors.pop(f"{stem}_scales")
            weights[layer, projection] = decode_mxfp4(blocks, scales).astype(np.float32)
            biases[layer, projection] = tensors.pop(f"{stem}_bias")
    return Model(config, tensors, weights, biases)


Form = Callable[[int, str, NDArray[Any], NDArray[Any]], Tensors]


def fused(layer: int, projection: str, weights: NDArray[Any], bias: NDArray[Any]) -> Tensors:
    """Transformers: [E, depth, rows]."""
    stem = f"model.layers.{layer}.mlp.experts.{projection}"
    return {stem: np.ascontiguousarray(weights.swapaxes(1, 2)), f"{stem}_bias": bias}


def listed(layer: int, projection: str, weights: NDArray[Any], bias: NDArray[Any]) -> Tensors:
    """Unsloth in 4 bits: a linear layer for each expert."""
    stem = f"model.layers.{layer}.mlp.experts.{projection}s"
    found = {f"{stem}.{expert}.weight": weights[expert] for expert in range(len(weights))}
    return found | {f"{stem}.{expert}.bias": bias[expert] for expert in range(len(weights))}


def apart(layer: int, projection: str, weights: NDArray[Any], bias: NDArray[Any]) -> Tensors:
    """A linear layer for each expert, with gate and up apart."""
    found: Tensors = {}
    for expert in range(len(weights)):
        stem = f"model.layers.{layer}.mlp.experts.{expert}"
        halves = {"down_proj": slice(None)}
        if projection == "gate_up_proj":
            halves = {"gate_proj": slice(0, None, 2), "up_proj": slice(1, None, 2)}
        for name, rows in halves.items():
            found[f"{stem}.{name}.weight"] = np.ascontiguousarray(weights[expert][rows])
            found[f"{stem}.{name}.bias"] = np.ascontiguousarray(bias[expert][rows])
    return found


FORMS: dict[str, Form] = {"fused": fused, "listed": listed, "apart": apart}


def write_wide(
    directory: Path,
    model: Model,
    form: Form,
    dtype: Any = BF16,
    *,
    rename: Callable[[str], str] = str,
    dense_dtype: Any = None,
    layers: tuple[int, ...] | None = None,
) -> Path:
    """Write the model with its experts in a wide type.

    Args:
        rename: what a training tool makes of each name.
        dense_dtype: the type of everything but the experts' weights; None leaves them as they are.
        layers: which layers to write; None: all.
    """
    directory.mkdir(parents=True)
    config = {name: value for name, value in model.config.items() if name != "quantization_config"}
    (directory / "config.json").write_text(json.dumps(config))
    dense = {name: tensor.astype(dense_dtype or tensor.dtype) for name, tensor in model.dense.items()}
    tensors = dense
    for (layer, projection), weights in model.weights.items():
        if layers is None or layer in layers:
            bias = model.biases[layer, projection].astype(dense_dtype or BF16)
            tensors |= form(layer, projection, weights.astype(dtype), bias)
    save_file({rename(name): tensor for name, tensor in tensors.items()}, directory / "model.safetensors")
    return directory
