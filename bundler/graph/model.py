"""The computation that the CPU's and CUDA's graphs share: its order, its residual stream, its inputs and outputs.

`bundler.graph.cpu` and `bundler.graph.cuda` complete it with their own operators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import onnx
from onnx import TensorProto, helper

from bundler.graph.builder import GraphBuilder
from bundler.rotary import rotary_caches

CONTRIB_DOMAIN = "com.microsoft"  # the domain of ONNX Runtime's own operators
TOP_K = 256
SWIGLU_ALPHA = 1.702


class ModelGraph(GraphBuilder, ABC):
    """A gpt-oss model as nodes and weights. T tokens: on CUDA the flattened B * S.

    Call `require_sizes`, then `add_model`; `inputs` and `outputs` need neither.
    """

    residual_type: ClassVar[int]  # ONNX type of the residual stream and the norms
    cache_type: ClassVar[int]  # ONNX type of keys and values

    @abstractmethod
    def require_sizes(self) -> None:
        """Raise ExportError if the operators cannot compute a model of these sizes."""

    @abstractmethod
    def token_inputs(self) -> list[onnx.ValueInfoProto]:
        """The inputs that describe a step's tokens."""

    @abstractmethod
    def cache_capacity(self, layer: int) -> str:
        """The name of the dimension of a layer's caches that counts positions."""

    @abstractmethod
    def cache_row(self) -> str | int:
        """The last dimension of the caches: the size of a key or value of one position, or a name for it."""

    @abstractmethod
    def add_shared(self) -> None:
        """Add what the layers share, beside the rotary caches."""

    @abstractmethod
    def add_embedding(self) -> str:
        """The rows of input_ids, [T, hidden], in the residual type."""

    @abstractmethod
    def projection(self, x: str, names: list[str], output: str) -> str:
        """x [T, in] times the published matrices `names` transposed, plus their biases, side by side [T, out]."""

    @abstractmethod
    def add_attention(self, layer: int, qkv: str, sinks: str) -> tuple[str, str | None]:
        """Attention and its output projection, [T, hidden]; and the bias that the next norm must add, if any."""

    @abstractmethod
    def add_experts(self, stem: str, x: str, router: str) -> str:
        """Experts of one layer, chosen by the router's logits, [T, hidden]."""

    @abstractmethod
    def add_head(self, wanted: str) -> None:
        """Add the outputs `logits`, `top_logits`, `top_ids` and `logsumexp` of the wanted rows."""

    def inputs(self) -> list[onnx.ValueInfoProto]:
        wanted = helper.make_tensor_value_info("logit_rows", TensorProto.INT64, ["R"])
        return [*self.token_inputs(), wanted, *self._caches("past_key_values")]

    def outputs(self) -> list[onnx.ValueInfoProto]:
        declare, top, vocab = helper.make_tensor_value_info, min(TOP_K, self.config.vocab), self.config.vocab
        return [
            declare("top_logits", TensorProto.FLOAT, ["R", top]),
            declare("top_ids", TensorProto.INT64, ["R", top]),
            declare("logsumexp", TensorProto.FLOAT, ["R"]),
            declare("logits", TensorProto.FLOAT, ["R", vocab]),
            *self._caches("present"),
        ]

    def add_model(self) -> None:
        """Add every node, from the tokens to what a sampler needs."""
        # 1. What the layers share.
        for name, values in zip(("rotary.cos", "rotary.sin"), rotary_caches(self.config), strict=True):
            self.derived(name, values)
        self.add_shared()
        # 2. Embedding: rows are gathered as published and widened; the residual stream is [T, hidden].
        residual = self.add_embedding()
        normed = self._first_norm(residual)
        # 3. Layers. Each norm after the first also adds the branch before it to the residual stream.
        for layer in range(self.config.layers):
            attended, bias = self._attention(layer, normed)
            gamma_name = f"model.layers.{layer}.post_attention_layernorm.weight"
            normed, residual = self._norm(residual, attended, gamma_name, bias)
            mixed = self._experts(layer, normed)
            last = layer + 1 == self.config.layers
            gamma_name = "model.norm.weight" if last else f"model.layers.{layer + 1}.input_layernorm.weight"
            normed, residual = self._norm(residual, mixed, gamma_name)
        # 4. Logits of the wanted rows only, and what a sampler needs of them.
        self.add_head(self.node("Gather", [normed, "logit_rows"], "wanted"))

    def cache_names(self, side: str, layer: int) -> list[str]:
        """Keys and values of a layer; `side` is "past_key_values" (inputs) or "present" (outputs)."""
        return [f"{side}.{layer}.{part}" for part in ("key", "value")]

    def is_windowed(self, layer: int) -> bool:
        return self.config.layer_types[layer] == "sliding_attention"

    def _caches(self, side: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                name, self.cache_type, ["B", self.config.kv_heads, self.cache_capacity(layer), self.cache_row()]
            )
            for layer in range(self.config.layers)
            for name in self.cache_names(side, layer)
        ]

    def _first_norm(self, residual: str) -> str:
        gamma = self.dense("model.layers.0.input_layernorm.weight", self.residual_type)
        normed = self.node(
            "SimplifiedLayerNormalization", [residual, gamma], "layers.0.input_norm",
            epsilon=self.config.rms_norm_eps, axis=-1,
        )  # fmt: skip
        return self.converted(normed, self.residual_type, self.compute_type)

    def _norm(self, residual: str, branch: str, gamma_name: str, bias: str | None = None) -> tuple[str, str]:
        """The sum of residual, branch and bias: normalised in the compute type, and as it is. Both [T, hidden]."""
        stem, wide = gamma_name.removesuffix(".weight"), self.residual_type
        inputs = [residual, self.converted(branch, self.compute_type, wide), self.dense(gamma_name, wide)]
        normed = self.node(
            "SkipSimplifiedLayerNormalization",
            inputs if bias is None else [*inputs, bias],
            [f"{stem}.normed", "", "", f"{stem}.residual"],
            domain=CONTRIB_DOMAIN,
            epsilon=self.config.rms_norm_eps,
        )
        return self.converted(normed, wide, self.compute_type), f"{stem}.residual"

    def _attention(self, layer: int, x: str) -> tuple[str, str | None]:
        stem = f"model.layers.{layer}.self_attn"
        qkv = self.projection(x, [f"{stem}.{which}_proj" for which in "qkv"], f"{stem}.qkv.rows")
        return self.add_attention(layer, qkv, self.dense(f"{stem}.sinks"))

    def _experts(self, layer: int, x: str) -> str:
        stem = f"model.layers.{layer}.mlp"
        weight, bias = self.dense(f"{stem}.router.weight"), self.dense(f"{stem}.router.bias")
        return self.add_experts(stem, x, self.linear(x, weight, bias, f"{stem}.router.logits"))
