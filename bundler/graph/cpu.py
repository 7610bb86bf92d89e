"""The CPU's graph: the operators of appliance/kernels, in float32.

Its caches are bytes. The engine chooses at each start how many each number of a key or value has.

The operators take MXFP4 blocks and scales and bfloat16 matrices as stored:

    Embedding      reads rows where they lie
    Dense          multiplies for attention and head; the graph says whether the host holds them in 8 bits or bfloat16
    ExpertLayer    chooses experts by the router's logits, and computes them
    Attention, TopLogits

`packing.json` lists the weights that Dense and ExpertLayer read.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from bundler.errors import ExportError
from bundler.graph.builder import Packing
from bundler.graph.model import SWIGLU_ALPHA, TOP_K, ModelGraph
from bundler.model_config import MXFP4_BLOCK, ModelConfig
from installer.formats.packing import PackedKind

DenseKind = Literal["int8", "bf16"]  # how the operators hold attention and head
KERNEL_DOMAIN = "gpt_oss"  # the domain of the operators in appliance/kernels

_DECODED_TOKENS = "decoded_tokens"  # an input: this many of the step's tokens, from the first, are decoded tokens
_DENSE_KINDS: dict[DenseKind, int] = {"int8": 0, "bf16": 1}
# Bits of a prompt's activations in the experts' products. 8 bits cost about as much precision as 8-bit attention and
# head weights do (docs/performance.md), so a graph that keeps those as published gets 16.
_PROMPT_BITS: dict[DenseKind, int] = {"int8": 8, "bf16": 16}
_HEAD_MULTIPLE = 16  # the lanes of a vector in appliance/kernels


class CpuGraph(ModelGraph):
    """The model in our native operators."""

    compute_type = TensorProto.FLOAT
    residual_type = TensorProto.FLOAT
    cache_type = TensorProto.UINT8

    def __init__(self, config: ModelConfig, max_weight_bytes: int, dense_kind: DenseKind) -> None:
        super().__init__(config, max_weight_bytes)
        self.dense_kind = dense_kind
        self._keys = 0

    def require_sizes(self) -> None:
        if self.config.head_dim % _HEAD_MULTIPLE:
            raise ExportError(
                f"head_dim is {self.config.head_dim}; the CPU's attention needs a multiple of {_HEAD_MULTIPLE}: "
                "build for cuda"
            )

    def token_inputs(self) -> list[onnx.ValueInfoProto]:
        declare = helper.make_tensor_value_info
        return [
            declare("input_ids", TensorProto.INT64, ["T"]),
            declare("token_slots", TensorProto.INT32, ["T"]),
            declare("token_positions", TensorProto.INT32, ["T"]),
            declare(_DECODED_TOKENS, TensorProto.INT64, []),
        ]

    def cache_capacity(self, layer: int) -> str:
        return "W" if self.is_windowed(layer) else "C"  # Attention keeps a windowed layer in a ring

    def cache_row(self) -> str:
        return "D"

    def add_shared(self) -> None:
        """Nothing."""

    def add_embedding(self) -> str:
        parts = [part.name for part in self.stored_parts("model.embed_tokens.weight")]
        return self.node("Embedding", ["input_ids", *parts], "embedding", domain=KERNEL_DOMAIN)

    def projection(
        self, x: str, names: list[str], output: str, *, biased: bool = True, decoded: str = _DECODED_TOKENS
    ) -> str:
        """As in `ModelGraph`. `decoded` names an int64: this many rows, from the first, belong to decoded tokens."""
        if self.specs[f"{names[0]}.weight"].shape[1] % MXFP4_BLOCK == 0:
            return self._native_dense(x, names, output, biased, decoded)
        weight = self.joined(names, "weight", output)
        return self.linear(x, weight, self.joined(names, "bias", output) if biased else None, output)

    def add_attention(self, layer: int, qkv: str, sinks: str) -> tuple[str, str | None]:
        stem = f"model.layers.{layer}.self_attn"
        past = self.cache_names("past_key_values", layer)
        attended = self.node(
            "Attention",
            [qkv, *past, "token_slots", "token_positions", "rotary.cos", "rotary.sin", sinks],
            [f"{stem}.attended", *self.cache_names("present", layer)],
            domain=KERNEL_DOMAIN,
            heads=self.config.heads,
            kv_heads=self.config.kv_heads,
            window=self.config.sliding_window if self.is_windowed(layer) else 0,
        )
        return self.projection(attended, [f"{stem}.o_proj"], f"{stem}.output"), None

    def add_experts(self, stem: str, x: str, router: str) -> str:
        config = self.config
        inputs, packed = [x, _DECODED_TOKENS, router], []
        for name in ("gate_up_proj", "down_proj"):
            published = [self.stored(f"{stem}.experts.{name}_{part}") for part in ("blocks", "scales")]
            inputs += [*published, self.dense(f"{stem}.experts.{name}_bias")]
            packed += published
        sizes = {"experts": config.experts, "hidden": config.hidden, "inner": config.intermediate}
        return self.node(
            "ExpertLayer",
            inputs,
            f"{stem}.output",
            domain=KERNEL_DOMAIN,
            key=self._packing("mxfp4", sizes, *packed),
            top_k=config.experts_per_token,
            alpha=SWIGLU_ALPHA,
            limit=config.swiglu_limit,
            prompt_bits=_PROMPT_BITS[self.dense_kind],
        )

    def add_head(self, wanted: str) -> None:
        every_row = self.table("every_row", np.array(np.iinfo(np.int64).max))
        logits = self.projection(wanted, ["lm_head"], "logits", biased=False, decoded=every_row)
        self.node(
            "TopLogits", [logits], ["top_logits", "top_ids", "logsumexp"],
            domain=KERNEL_DOMAIN, k=min(TOP_K, self.config.vocab),
        )  # fmt: skip

    def _native_dense(self, x: str, names: list[str], output: str, biased: bool, decoded: str) -> str:
        """One operator over every part that is stored; the parts' keys follow each other."""
        weights = [weight for name in names for weight in self.stored_parts(f"{name}.weight")]
        keys = [self._packing(self.dense_kind, {"rows": w.shape[0], "inner": w.shape[1]}, w.name) for w in weights]
        return self.node(
            "Dense",
            [x, decoded, self.joined(names, "bias", output) if biased else "", *(w.name for w in weights)],
            output,
            domain=KERNEL_DOMAIN, key=keys[0], parts=len(keys), kind=_DENSE_KINDS[self.dense_kind],
        )  # fmt: skip

    def _packing(self, kind: PackedKind, sizes: dict[str, int], *weights: str) -> int:
        """Note what a native operator reads and return the key for its node.

        A node whose weights are joined from parts has no note: they do not lie in one place, so it packs for itself.
        """
        self._keys += 1
        if set(weights) <= {weight.name for weight in self.weights}:
            self.packings.append(Packing(self._keys, kind, sizes, weights))
        return self._keys
