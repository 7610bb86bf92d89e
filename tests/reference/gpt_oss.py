"""A reference gpt-oss in float64 NumPy: the published architecture, step by step, slow and simple.

Written from the model card (arXiv:2508.10925), the YaRN paper (arXiv:2309.00071) and the OCP Microscaling
specification. It shares no code with `bundler`: it reads config.json and the safetensors files itself and has its own
MXFP4 decoder, so that agreement means something. There is no cache: `logits` computes every position of a sequence at
once.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (importing it teaches NumPy, and so safetensors, bfloat16)
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Float64Array = NDArray[np.float64]

_QUERY_BLOCK = 512  # queries per step of attention, to bound memory on long sequences


class ReferenceModel:
    """One checkpoint, all weights in float64."""

    def __init__(self, checkpoint: Path, **changes: Any) -> None:
        """Load a checkpoint.

        Args:
            changes: fields of config.json to replace, to see that a wrong constant shows.
        """
        self.config: dict[str, Any] = {**json.loads((checkpoint / "config.json").read_bytes()), **changes}
        self.tensors: dict[str, Float64Array] = {}
        raw_tensors = _raw_tensors(checkpoint)
        for name, raw in raw_tensors.items():
            if name.endswith("_blocks"):
                stem = name.removesuffix("_blocks")
                self.tensors[stem] = decode_mxfp4(raw, raw_tensors[f"{stem}_scales"])
            elif not name.endswith("_scales"):
                self.tensors[name] = raw.astype(np.float64)

    def logits(self, ids: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> Float64Array:
        """Logits after each token.

        Args:
            ids: (S,).
            rows: (R,), ascending: the tokens whose logits are wanted; None: all. The last layer computes only these.
        Returns:
            (S, vocabulary) or (R, vocabulary).
        """
        x, everything = self.tensors["model.embed_tokens.weight"][ids], np.arange(len(ids))
        for layer in range(self.config["num_hidden_layers"]):
            last = layer + 1 == self.config["num_hidden_layers"]
            wanted = everything if rows is None or not last else rows
            normed = self._norm(x, f"model.layers.{layer}.input_layernorm.weight")
            x = x[wanted] + self._attention(layer, normed, wanted)
            x = x + self._mixture(layer, self._norm(x, f"model.layers.{layer}.post_attention_layernorm.weight"))
        return self._norm(x, "model.norm.weight") @ self.tensors["lm_head.weight"].T

    def _norm(self, x: Float64Array, weight: str) -> Float64Array:
        mean_square = np.mean(x**2, axis=-1, keepdims=True)
        normed: Float64Array = x / np.sqrt(mean_square + self.config["rms_norm_eps"]) * self.tensors[weight]
        return normed

    def _project(self, x: Float64Array, name: str) -> Float64Array:
        projected: Float64Array = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        return projected

    def _attention(self, layer: int, x: Float64Array, rows: NDArray[np.int64]) -> Float64Array:
        """Causal attention of ``rows``, with one sink per head. Sliding layers see only their last ``sliding_window``
        positions."""
        name = f"model.layers.{layer}.self_attn"
        heads, kv_heads, size = (
            self.config[field] for field in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        length = x.shape[0]
        q = self._rotate(self._project(x, f"{name}.q_proj").reshape(length, heads, size))
        k = self._rotate(self._project(x, f"{name}.k_proj").reshape(length, kv_heads, size))
        v = self._project(x, f"{name}.v_proj").reshape(length, kv_heads, size)
        k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)
        sliding = self.config["layer_types"][layer] == "sliding_attention"
        window = self.config["sliding_window"] if sliding else length
        attended = np.empty((len(rows), heads, size))
        for start in range(0, len(rows), _QUERY_BLOCK):
            queries = rows[start : start + _QUERY_BLOCK]
            first = max(0, queries[0] - window + 1)
            keys = np.arange(first, queries[-1] + 1)
            distance = queries[:, None] - keys[None, :]
            scores = np.einsum("qhd,khd->hqk", q[queries], k[keys]) / math.sqrt(size)
            scores = np.where((distance >= 0) & (distance < window), scores, -np.inf)
            shares = self._softmax_with_sink(scores, f"{name}.sinks")
            attended[start : start + len(queries)] = np.einsum("hqk,khd->qhd", shares, v[keys])
        return self._project(attended.reshape(len(rows), heads * size), f"{name}.o_proj")

    def _softmax_with_sink(self, scores: Float64Array, name: str) -> Float64Array:
        """Softmax over the keys and one more logit per head, whose share is then dropped. scores: (heads, q, k)."""
        sink = self.tensors[name][:, None, None]
        largest = np.maximum(scores.max(axis=-1, keepdims=True), sink)
        weights = np.exp(scores - largest)
        shares: Float64Array = weights / (weights.sum(axis=-1, keepdims=True) + np.exp(sink - largest))
        return shares

    def _rotate(self, x: Float64Array) -> Float64Array:
        """Rotary positions: dimension i turns with dimension i + size/2. x: (S, heads, size), from position 0.

        Angles are rounded to float32, as the published code computes them: that rounding is part of the model.
        """
        half = x.shape[-1] // 2
        frequencies = self._frequencies(half).astype(np.float32)
        angles = np.stack([np.float32(position) * frequencies for position in range(x.shape[0])])[:, None, :]
        angles = angles.astype(np.float64)
        concentration = 0.1 * math.log(self.config["rope_scaling"]["factor"]) + 1.0
        cos, sin = np.cos(angles) * concentration, np.sin(angles) * concentration
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def _frequencies(self, half: int) -> Float64Array:
        """YaRN by parts: fast dimensions unchanged, slow ones divided by the factor, a ramp between them."""
        scaling, base = self.config["rope_scaling"], self.config["rope_theta"]
        frequencies = np.array([base ** (-i / half) for i in range(half)])
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        # A frequency with r turns sits at dimension log(original / (2 pi r)) / log(base) * half: linear in log turns.
        slow, fast = math.log(scaling["beta_slow"]), math.log(scaling["beta_fast"])
        kept = np.clip((np.log(turns) - slow) / (fast - slow), 0, 1)
        result: Float64Array = kept * frequencies + (1 - kept) * frequencies / scaling["factor"]
        return result

    def _route(self, router: Float64Array) -> tuple[NDArray[np.int64], Float64Array]:
        """Each token's top experts and their shares: a softmax over the logits of these alone. router: (T, E)."""
        chosen = np.argsort(-router, axis=-1, kind="stable")[:, : self.config["num_experts_per_tok"]]
        top = np.take_along_axis(router, chosen, axis=-1)
        shares = np.exp(top - top.max(axis=-1, keepdims=True))
        return chosen, shares / shares.sum(axis=-1, keepdims=True)

    def _mixture(self, layer: int, x: Float64Array) -> Float64Array:
        name = f"model.layers.{layer}.mlp"
        chosen, shares = self._route(self._project(x, f"{name}.router"))
        mixed = np.zeros_like(x)
        for expert in range(self.config["num_local_experts"]):
            tokens, ranks = np.nonzero(chosen == expert)
            mixed[tokens] += shares[tokens, ranks][:, None] * self._expert(name, expert, x[tokens])
        return mixed

    def _expert(self, name: str, expert: int, x: Float64Array) -> Float64Array:
        limit = self.config["swiglu_limit"]
        first, second = (self.tensors[f"{name}.experts.{p}"][expert] for p in ("gate_up_proj", "down_proj"))
        first_bias, second_bias = (
            self.tensors[f"{name}.experts.{p}_bias"][expert] for p in ("gate_up_proj", "down_proj")
        )
        both = x @ first.T + first_bias
        gate, up = np.minimum(both[:, 0::2], limit), np.clip(both[:, 1::2], -limit, limit)
        activated = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
        result: Float64Array = activated @ second.T + second_bias
        return result


def decode_mxfp4(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> Float64Array:
    """MXFP4 by the definition of its formats: E2M1 elements (bias 1) under an E8M0 scale (bias 127).

    Args:
        blocks: (.., K/32, 16), the even element in the low nibble.
        scales: (.., K/32).
    Returns:
        (.., K).
    """
    nibbles = np.empty((*blocks.shape[:-1], 32), np.int64)
    nibbles[..., 0::2] = blocks & 0x0F
    nibbles[..., 1::2] = blocks >> 4
    sign, exponent, mantissa = nibbles >> 3, (nibbles >> 1) & 3, nibbles & 1
    magnitude = np.where(exponent == 0, mantissa / 2, 2.0 ** (exponent - 1) * (1 + mantissa / 2))
    values = np.where(sign == 1, -magnitude, magnitude) * 2.0 ** (scales.astype(np.float64)[..., None] - 127)
    decoded: Float64Array = values.reshape(*scales.shape[:-1], scales.shape[-1] * 32)
    return decoded


def _raw_tensors(checkpoint: Path) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as shard:
            tensors |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 (not a mapping)
    return tensors
