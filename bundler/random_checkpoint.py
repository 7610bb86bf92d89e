"""Checkpoints of any gpt-oss shape with random weights, for benchmarks and tests: right in form, without meaning.

    write_random_checkpoint(directory, random_config(layers=24, hidden=2880, ..), seed=1)

The same configuration and seed give the same bytes. Activations have about the size of a trained model's, so that
router, clamps, sinks and windows all influence the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bundler.checkpoint_writer import write_checkpoint
from bundler.layout import TensorSpec, expected_tensors
from bundler.model_config import MXFP4_BLOCK, parse_model_config
from bundler.mxfp4 import E2M1, SCALE_BIAS


def random_config(
    *,
    layers: int,
    hidden: int,
    intermediate: int,
    experts: int,
    experts_per_token: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    sliding_window: int = 128,
    context: int = 131072,
) -> dict[str, Any]:
    """A config.json of these sizes; everything else as published (sliding and full attention take turns)."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)],
        "max_position_embeddings": context,
        "model_type": "gpt_oss",
        "num_attention_heads": heads,
        "num_experts_per_tok": experts_per_token,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "num_local_experts": experts,
        "quantization_config": {"quant_method": "mxfp4"},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": sliding_window,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": vocab,
    }


def write_random_checkpoint(
    directory: Path, config: dict[str, Any], *, seed: int, max_shard_bytes: int = 1 << 30
) -> None:
    """Write a checkpoint of this configuration. Only one tensor at a time is in memory.

    Raises:
        CheckpointError: the configuration is not one of a gpt-oss model.
        ExportError: the disk is full or the directory cannot be written.
    """
    write_checkpoint(directory, config, random_tensors(config, seed=seed), max_shard_bytes=max_shard_bytes)


def random_tensors(config: dict[str, Any], *, seed: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of such a checkpoint, in the order of the layout."""
    rng = np.random.default_rng(seed)
    for name, spec in expected_tensors(parse_model_config(config)).items():
        yield name, _random_tensor(rng, name, spec)


def _random_tensor(rng: np.random.Generator, name: str, spec: TensorSpec) -> NDArray[Any]:
    if name.endswith("_blocks"):
        return rng.integers(0, 256, spec.shape, dtype=np.uint8)
    if name.endswith("_scales"):
        depth = spec.shape[-1] * MXFP4_BLOCK
        unit = SCALE_BIAS - round(np.log2(depth**0.5 * E2M1.std()))
        return rng.integers(unit, unit + 4, spec.shape, dtype=np.uint8)
    values: NDArray[np.float32] = rng.standard_normal(spec.shape, dtype=np.float32)
    if "norm" in name:
        values = values / np.float32(8) + np.float32(1)
    elif name.endswith(("sinks", "embed_tokens.weight")):
        pass  # unit variance
    elif name.endswith("weight"):
        values *= np.float32(spec.shape[-1] ** -0.5)  # unit output from unit input
    return values.astype(ml_dtypes.bfloat16)
