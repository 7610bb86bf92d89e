"""CUDA's graph: ONNX Runtime's own operators.

Projections, attention, router, experts and unembedding are float16; the residual stream and the norms are float32.
QMoE takes MXFP4 itself, with the nibbles in another order (`bundler.mxfp4.pair_along_rows`).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from bundler.errors import ExportError
from bundler.graph.builder import Weight
from bundler.graph.model import CONTRIB_DOMAIN, SWIGLU_ALPHA, TOP_K, ModelGraph
from bundler.model_config import MXFP4_BLOCK
from bundler.mxfp4 import pair_along_rows

# QMoE interleaves 64 values along the axis it sums over, and ONNX Runtime 1.31 does not check that the size fits
# (measured: errors above 1 at 96 and 160).
_EXPERT_MULTIPLE = 64
_LOGIT_PARTS = 256  # at most, of a row of logits; 201,088 = 128 * 1,571


class CudaGraph(ModelGraph):
    """The model in ONNX Runtime's operators."""

    compute_type = TensorProto.FLOAT16
    residual_type = TensorProto.FLOAT
    cache_type = TensorProto.FLOAT16

    def require_sizes(self) -> None:
        for name, size in (("hidden_size", self.config.hidden), ("intermediate_size", self.config.intermediate)):
            if size % _EXPERT_MULTIPLE:
                raise ExportError(
                    f"{name} is {size}; the CUDA kernel for MXFP4 experts needs a multiple of {_EXPERT_MULTIPLE} and "
                    "computes nonsense otherwise: build for cpu"
                )

    def token_inputs(self) -> list[onnx.ValueInfoProto]:
        declare = helper.make_tensor_value_info
        return [
            declare("input_ids", TensorProto.INT64, ["B", "S"]),
            declare("seqlens_k", TensorProto.INT32, ["B"]),
            declare("total_sequence_length", TensorProto.INT32, []),
        ]

    def cache_capacity(self, layer: int) -> str:
        return "C"  # GroupQueryAttention keeps every position, also of a windowed layer

    def cache_row(self) -> int:
        return self.config.head_dim

    def add_shared(self) -> None:
        config = self.config
        width = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.table("shape.heads", np.array([-1, config.heads * config.head_dim], np.int64))
        self.table("shape.qkv_width", np.array([width], np.int64))
        self.node("Shape", ["input_ids"], "shape.batch")  # attention alone needs [B, S]; the rest works on [T, ..]
        self.node("Concat", ["shape.batch", "shape.qkv_width"], "shape.qkv", axis=0)
        self.table("experts.ones", np.ones(config.experts, np.float32))

    def add_embedding(self) -> str:
        self.table("shape.tokens", np.array([-1, self.config.hidden], np.int64))
        rows = self.node("Gather", [self.stored("model.embed_tokens.weight"), "input_ids"], "embedding.rows")
        return self.cast(self.node("Reshape", [rows, "shape.tokens"], "embedding.tokens"), self.residual_type)

    def projection(self, x: str, names: list[str], output: str) -> str:
        weight = self.joined(names, "weight", output)
        return self.linear(x, weight, self.joined(names, "bias", output), output)

    def add_attention(self, layer: int, qkv: str, sinks: str) -> tuple[str, str | None]:
        stem = f"model.layers.{layer}.self_attn"
        batch = self.node("Reshape", [qkv, "shape.qkv"], f"{stem}.qkv")
        past = self.cache_names("past_key_values", layer)
        attended = self.node(
            "GroupQueryAttention",
            [batch, "", "", *past, "seqlens_k", "total_sequence_length", "rotary.cos", "rotary.sin", "", "", sinks],
            [f"{stem}.attended", *self.cache_names("present", layer)],
            domain=CONTRIB_DOMAIN,
            num_heads=self.config.heads,
            kv_num_heads=self.config.kv_heads,
            do_rotary=1,
            local_window_size=self.config.sliding_window if self.is_windowed(layer) else -1,
        )
        flat = self.node("Reshape", [attended, "shape.heads"], f"{stem}.attended.rows")
        # The norm adds the bias on its way; Gemm would copy it first.
        product = self.linear(flat, self.dense(f"{stem}.o_proj.weight"), None, f"{stem}.output")
        return product, self.dense(f"{stem}.o_proj.bias", self.residual_type)

    def add_experts(self, stem: str, x: str, router: str) -> str:
        inputs = [x, router]
        for name in ("gate_up_proj", "down_proj"):
            inputs += [*self._mxfp4(f"{stem}.experts.{name}"), self.dense(f"{stem}.experts.{name}_bias")]
        inputs += [""] * 7 + ["experts.ones", "experts.ones"]  # 15, 16: global scales
        return self.node(
            "QMoE",
            inputs,
            f"{stem}.output",
            domain=CONTRIB_DOMAIN,
            k=self.config.experts_per_token,
            activation_type="swiglu",
            swiglu_fusion=1,  # gate and up rows take turns, as published
            activation_alpha=SWIGLU_ALPHA,
            activation_beta=1.0,
            swiglu_limit=self.config.swiglu_limit,
            normalize_routing_weights=1,
            block_size=MXFP4_BLOCK,
            expert_weight_bits=4,
            quant_type="fp4",
        )

    def add_head(self, wanted: str) -> None:
        """Add the logits, and their logsumexp in two steps: of equal parts of each row, then of the parts.

        ReduceLogSumExp takes 27 ms for 32 rows of 201,088 (measured, ONNX Runtime 1.31 on an H200). LogSoftmax is
        quick where rows are short, and any column of x - LogSoftmax(x) is the logsumexp of x.
        """
        product = self.linear(wanted, self.dense("lm_head.weight"), None, "logits.half")
        self.node("Cast", [product], "logits", to=TensorProto.FLOAT)
        self.table("first_column", np.array(0, np.int64))
        parts = next(count for count in range(_LOGIT_PARTS, 0, -1) if self.config.vocab % count == 0)
        self.table("shape.parts", np.array([-1, self.config.vocab // parts], np.int64))
        self.table("shape.part_sums", np.array([-1, parts], np.int64))
        rows = self.node("Reshape", ["logits", "shape.parts"], "logits.parts")
        sums = self.node("Reshape", [self._logsumexp(rows, "part_sums"), "shape.part_sums"], "part_sums.rows")
        self._logsumexp(sums, "logsumexp")
        self.table("top_k", np.array([min(TOP_K, self.config.vocab)], np.int64))
        self.node("TopK", ["logits", "top_k"], ["top_logits", "top_ids"], axis=-1, largest=1, sorted=1)

    def _logsumexp(self, x: str, output: str) -> str:
        logarithms = self.node("LogSoftmax", [x], f"{x}.log_softmax", axis=-1)
        columns = [self.node("Gather", [value, "first_column"], f"{value}.first", axis=1) for value in (x, logarithms)]
        return self.node("Sub", columns, output)

    def _mxfp4(self, name: str) -> list[str]:
        """Nibble pairs [E, K, rows/2] and E8M0 scales [E, rows, K/32] of a projection."""
        experts, rows, blocks, _ = self.specs[f"{name}_blocks"].shape
        self.weights.append(
            Weight(
                f"{name}_blocks",
                TensorProto.UINT8,
                (experts, blocks * MXFP4_BLOCK, rows // 2),
                lambda checkpoint, some: pair_along_rows(checkpoint.read(f"{name}_blocks", some)),
            )
        )
        self.weights.append(
            Weight(
                f"{name}_scales",
                TensorProto.FLOAT8E8M0,
                (experts, rows, blocks),
                lambda checkpoint, some: checkpoint.read(f"{name}_scales", some),
            )
        )
        return [f"{name}_blocks", f"{name}_scales"]
