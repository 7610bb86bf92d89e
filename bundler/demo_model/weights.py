"""The demo model's weights in the repository: what training writes and `bundler.demo_model.expand` reads.

weights.safetensors holds the official layout's tensors (experts as MXFP4 blocks and scales, the rest bfloat16), except
embedding and unembedding. They are one matrix, ``embedding``, which has only the rows of ``token_ids`` (int32,
ascending). Every other row of both is zero.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from bundler.mxfp4 import dequantise, quantise

if TYPE_CHECKING:
    from bundler.demo_model.network import Network

WEIGHTS = "weights.safetensors"
EMBEDDING = "embedding"
TOKEN_IDS = "token_ids"  # noqa: S105 (not a secret)
_QUANTISED = (".gate_up_proj", ".down_proj")


def write_weights(network: Network, used: list[int], directory: Path) -> None:
    """Write weights.safetensors and config.json of a trained network; needs torch.

    Args:
        used: the token id of each row of the network's embedding, ascending.
    """
    from bundler.demo_model.network import CONFIG

    tensors: dict[str, NDArray[Any]] = {TOKEN_IDS: np.array(used, np.int32)}
    for name, parameter in network.named_parameters():
        values: NDArray[np.float32] = parameter.detach().float().numpy()
        stem = _official_name(name, network.config.layers)
        if name.endswith(_QUANTISED):
            tensors[f"{stem}_blocks"], tensors[f"{stem}_scales"] = quantise(values)
        else:
            tensors[stem] = values.astype(ml_dtypes.bfloat16)
    save_file(tensors, directory / WEIGHTS)
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


def load_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of weights.safetensors.

    Raises:
        OSError, SafetensorError: there is no such file, or it is damaged.
    """
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def restore_weights(network: Network, tensors: dict[str, NDArray[Any]]) -> None:
    """Set a network's parameters to the numbers that `write_weights` stored; needs torch."""
    import torch

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            stem = _official_name(name, network.config.layers)
            if name.endswith(_QUANTISED):
                values = dequantise(tensors[f"{stem}_blocks"], tensors[f"{stem}_scales"])
            else:
                values = tensors[stem].astype(np.float32)
            parameter.copy_(torch.from_numpy(values))


def _official_name(name: str, layers: int) -> str:
    part, _, rest = name.partition(".")
    if part == EMBEDDING:
        return EMBEDDING
    number, _, inner = rest.partition(".")
    if part == "norms":
        if int(number) == 2 * layers:
            return "model.norm.weight"
        layer, after = divmod(int(number), 2)
        return f"model.layers.{layer}.{'post_attention_layernorm' if after else 'input_layernorm'}.weight"
    if part == "attention":
        return f"model.layers.{number}.self_attn.{inner}"
    return f"model.layers.{number}.mlp.{inner if inner.startswith('router') else 'experts.' + inner}"
