"""The ONNX graph of a gpt-oss model, as docs/architecture.md describes it, without its data.

`plan_graph` is pure: it returns the graph and the list of what to store, in the order of the computation;
`bundler.export` reads and writes it. Weights are stored as published. What a kernel wants instead is derived by nodes
whose inputs are all constant. ONNX Runtime folds them when it loads the session, given graph optimisation of at least
the basic level and ``optimization.constant_folding_max_output_size_in_bytes=0`` (by default it leaves results over
1 GiB to every run):

    dense matrices     Cast to the compute type (Concat first where q, k and v become one, or a tensor was split)
    experts, CPU       Gather from a table of 256 byte pairs: q = 2 * E2M1 + 128; scales 2 ** (e - 127) / 2 likewise.
                       QMoE with 8 bits then computes (q - 128) * scale, which is the MXFP4 number exactly.
                       The engine must set ``ORT_QMOE_CPU_QNBIT_GEMM=fp32``.
    experts, CUDA      nothing: QMoE takes MXFP4 itself, in another order of nibbles (`bundler.mxfp4.pair_along_rows`)

Computation is float32 on CPU. On CUDA projections, attention, experts and unembedding are float16; the residual stream,
norms and router are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from bundler.graph_builder import Accelerator, GraphBuilder, Weight
from bundler.model_config import MXFP4_BLOCK, ModelConfig
from bundler.mxfp4 import E2M1, SCALE_BIAS, pair_along_rows
from bundler.rotary import rotary_caches

FORMAT = 1
OPSET = 21
IR_VERSION = 12  # the first with FLOAT8E8M0
TOP_K = 256
MAX_SHARD_BYTES = 1 << 30

_CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class GraphPlan:
    """A graph without initialisers, and the initialisers it lacks."""

    graph: onnx.GraphProto
    weights: tuple[Weight, ...]
    metadata: dict[str, str]


def plan_graph(config: ModelConfig, accelerator: Accelerator, *, max_weight_bytes: int = MAX_SHARD_BYTES) -> GraphPlan:
    """The graph of a model of this configuration.

    Args:
        max_weight_bytes: larger tensors are stored in parts along their first axis and joined by a Concat.
    """
    builder = GraphBuilder(config, accelerator, max_weight_bytes)
    _add_model(builder)
    inputs, outputs = _interface(config, accelerator)
    graph = helper.make_graph(builder.nodes, "gpt-oss", inputs, outputs, initializer=builder.tables)
    metadata = {
        "format": FORMAT,
        "accelerator": accelerator,
        "layers": config.layers,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab": config.vocab,
        "context": config.context,
    }
    return GraphPlan(graph, tuple(builder.weights), {f"gpt_oss.{key}": str(value) for key, value in metadata.items()})


def _interface(
    config: ModelConfig, accelerator: Accelerator
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    declare = helper.make_tensor_value_info
    cache_type = TensorProto.FLOAT if accelerator == "cpu" else TensorProto.FLOAT16
    cache_shape: list[str | int | None] = ["B", config.kv_heads, "C", config.head_dim]
    inputs = [
        declare("input_ids", TensorProto.INT64, ["B", "S"]),
        declare("seqlens_k", TensorProto.INT32, ["B"]),
        declare("total_sequence_length", TensorProto.INT32, []),
        declare("logit_rows", TensorProto.INT64, ["R"]),
    ]
    top = min(TOP_K, config.vocab)
    outputs = [
        declare("top_logits", TensorProto.FLOAT, ["R", top]),
        declare("top_ids", TensorProto.INT64, ["R", top]),
        declare("logsumexp", TensorProto.FLOAT, ["R"]),
        declare("logits", TensorProto.FLOAT, ["R", config.vocab]),
    ]
    for layer in range(config.layers):
        for part in ("key", "value"):
            inputs.append(declare(f"past_key_values.{layer}.{part}", cache_type, cache_shape))
            outputs.append(declare(f"present.{layer}.{part}", cache_type, cache_shape))
    return inputs, outputs


def _add_model(builder: GraphBuilder) -> None:
    config = builder.config
    # 1. Constants shared by the layers.
    _add_shared_constants(builder)
    # 2. Embedding: rows are gathered as published and widened; the residual stream is float32, [T, hidden].
    rows = builder.node("Gather", [builder.stored("model.embed_tokens.weight"), "input_ids"], "embedding.rows")
    residual = builder.cast(builder.node("Reshape", [rows, "shape.tokens"], "embedding.tokens"), TensorProto.FLOAT)
    gamma = builder.dense("model.layers.0.input_layernorm.weight", TensorProto.FLOAT)
    normed = builder.node(
        "SimplifiedLayerNormalization", [residual, gamma], "layers.0.input_norm", epsilon=config.rms_norm_eps, axis=-1
    )
    # 3. Layers. Each norm after the first also adds the branch before it to the residual stream.
    for layer in range(config.layers):
        attended = _add_attention(builder, layer, normed)
        normed, residual = _add_norm(
            builder, residual, attended, f"model.layers.{layer}.post_attention_layernorm.weight"
        )
        mixed = _add_experts(builder, layer, normed)
        last = layer + 1 == config.layers
        gamma_name = "model.norm.weight" if last else f"model.layers.{layer + 1}.input_layernorm.weight"
        normed, residual = _add_norm(builder, residual, mixed, gamma_name)
    # 4. Logits of the wanted rows only, and what a sampler needs of them.
    wanted = builder.node("Gather", [normed, "logit_rows"], "wanted")
    if builder.cuda:
        half = builder.linear(builder.cast(wanted), builder.dense("lm_head.weight"), None, "logits.half")
        builder.node("Cast", [half], "logits", to=TensorProto.FLOAT)
    else:
        builder.linear(wanted, builder.dense("lm_head.weight"), None, "logits")
    builder.node("TopK", ["logits", "top_k"], ["top_logits", "top_ids"], axis=-1, largest=1, sorted=1)
    sums = builder.node("ReduceLogSumExp", ["logits", "last_axis"], "logsumexp.unshaped", keepdims=0)
    # ONNX Runtime 1.31 returns [0, vocabulary] where R is 0; the Reshape makes it [R] whatever R is.
    builder.node("Reshape", [sums, builder.node("Shape", ["logit_rows"], "shape.wanted")], "logsumexp", allowzero=1)


def _add_shared_constants(builder: GraphBuilder) -> None:
    config = builder.config
    width = (config.heads + 2 * config.kv_heads) * config.head_dim
    builder.table("shape.tokens", np.array([-1, config.hidden], np.int64))
    builder.table("shape.heads", np.array([-1, config.heads * config.head_dim], np.int64))
    builder.table("shape.qkv_width", np.array([width], np.int64))
    builder.node("Shape", ["input_ids"], "shape.batch")  # attention alone needs [B, S] apart; the rest works on [T, ..]
    builder.node("Concat", ["shape.batch", "shape.qkv_width"], "shape.qkv", axis=0)
    builder.table("top_k", np.array([min(TOP_K, config.vocab)], np.int64))
    builder.table("last_axis", np.array([-1], np.int64))
    cosines, sines = rotary_caches(config)
    builder.weights.append(Weight("rotary.cos", TensorProto.FLOAT, cosines.shape, lambda _checkpoint: cosines))
    builder.weights.append(Weight("rotary.sin", TensorProto.FLOAT, sines.shape, lambda _checkpoint: sines))
    if builder.cuda:
        builder.cast("rotary.cos")
        builder.cast("rotary.sin")
        builder.table("experts.ones", np.ones(config.experts, np.float32))
    else:
        doubled = (2 * E2M1 + 128).astype(np.uint8)
        byte = np.arange(256)
        builder.table("experts.code_pairs", np.stack([doubled[byte & 15], doubled[byte >> 4]], axis=-1))
        builder.table("experts.scales", np.ldexp(np.float32(1), byte - SCALE_BIAS - 1))  # 255 (NaN) was refused


def _add_norm(builder: GraphBuilder, residual: str, branch: str, gamma_name: str) -> tuple[str, str]:
    """The normalised sum and the sum, both float32 [T, hidden]."""
    if builder.cuda:
        branch = builder.cast(branch, TensorProto.FLOAT)
    gamma = builder.dense(gamma_name, TensorProto.FLOAT)
    stem = gamma_name.removesuffix(".weight")
    normed = builder.node(
        "SkipSimplifiedLayerNormalization",
        [residual, branch, gamma],
        [f"{stem}.normed", "", "", f"{stem}.residual"],
        domain=_CONTRIB,
        epsilon=builder.config.rms_norm_eps,
    )
    return normed, f"{stem}.residual"


def _add_attention(builder: GraphBuilder, layer: int, x: str) -> str:
    """Projections and attention of one layer: float32 [T, hidden] to the compute type [T, hidden]."""
    config = builder.config
    stem = f"model.layers.{layer}.self_attn"
    if builder.cuda:
        x = builder.cast(x)
    packed = {}
    for part in ("weight", "bias"):
        projections = [builder.stored(f"{stem}.{which}_proj.{part}") for which in "qkv"]
        packed[part] = builder.cast(builder.node("Concat", projections, f"{stem}.qkv.{part}", axis=0))
    rows = builder.linear(x, packed["weight"], packed["bias"], f"{stem}.qkv.rows")
    qkv = builder.node("Reshape", [rows, "shape.qkv"], f"{stem}.qkv")
    sliding = config.layer_types[layer] == "sliding_attention"
    caches = ["rotary.cos.float16", "rotary.sin.float16"] if builder.cuda else ["rotary.cos", "rotary.sin"]
    past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
    present = [f"present.{layer}.{part}" for part in ("key", "value")]
    attended = builder.node(
        "GroupQueryAttention",
        [qkv, "", "", *past, "seqlens_k", "total_sequence_length", *caches, "", "", builder.dense(f"{stem}.sinks")],
        [f"{stem}.attended", *present],
        domain=_CONTRIB,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        do_rotary=1,
        local_window_size=config.sliding_window if sliding else -1,
    )
    flat = builder.node("Reshape", [attended, "shape.heads"], f"{stem}.attended.rows")
    weight, bias = builder.dense(f"{stem}.o_proj.weight"), builder.dense(f"{stem}.o_proj.bias")
    return builder.linear(flat, weight, bias, f"{stem}.output")


def _add_experts(builder: GraphBuilder, layer: int, x: str) -> str:
    """Router and experts of one layer: float32 [T, hidden] to the compute type [T, hidden]."""
    config = builder.config
    stem = f"model.layers.{layer}.mlp"
    weight = builder.dense(f"{stem}.router.weight", TensorProto.FLOAT)
    bias = builder.dense(f"{stem}.router.bias", TensorProto.FLOAT)
    router = builder.linear(x, weight, bias, f"{stem}.router.logits")
    if builder.cuda:
        x, router = builder.cast(x), builder.cast(router)
    projection = _add_mxfp4_cuda if builder.cuda else _add_mxfp4_cpu
    inputs = [x, router]
    for name in ("gate_up_proj", "down_proj"):
        inputs += [*projection(builder, f"{stem}.experts.{name}"), builder.dense(f"{stem}.experts.{name}_bias")]
    if builder.cuda:
        inputs += [""] * 7 + ["experts.ones", "experts.ones"]  # 15, 16: global scales
    return builder.node(
        "QMoE",
        inputs,
        f"{stem}.output",
        domain=_CONTRIB,
        k=config.experts_per_token,
        activation_type="swiglu",
        swiglu_fusion=1,  # gate and up rows take turns, as published
        activation_alpha=1.702,
        activation_beta=1.0,
        swiglu_limit=config.swiglu_limit,
        normalize_routing_weights=1,
        block_size=MXFP4_BLOCK,
        expert_weight_bits=4 if builder.cuda else 8,
        quant_type="fp4" if builder.cuda else "int",
    )


def _add_mxfp4_cpu(builder: GraphBuilder, name: str) -> list[str]:
    """Bytes q [E, rows, K] and float32 scales [E, rows, K/32] of a projection."""
    experts, rows, blocks, _ = builder.specs[f"{name}_blocks"].shape
    shape = builder.table(f"{name}.shape", np.array([experts, rows, blocks * MXFP4_BLOCK], np.int64))
    indices = builder.cast(builder.stored(f"{name}_blocks"), TensorProto.INT32)
    pairs = builder.node("Gather", ["experts.code_pairs", indices], f"{name}.pairs")
    codes = builder.node("Reshape", [pairs, shape], f"{name}.codes")
    exponents = builder.cast(builder.stored(f"{name}_scales"), TensorProto.INT32)
    return [codes, builder.node("Gather", ["experts.scales", exponents], f"{name}.scales")]


def _add_mxfp4_cuda(builder: GraphBuilder, name: str) -> list[str]:
    """Nibble pairs [E, K, rows/2] and E8M0 scales [E, rows, K/32] of a projection."""
    experts, rows, blocks, _ = builder.specs[f"{name}_blocks"].shape
    builder.weights.append(
        Weight(
            f"{name}_blocks",
            TensorProto.UINT8,
            (experts, blocks * MXFP4_BLOCK, rows // 2),
            lambda checkpoint: pair_along_rows(checkpoint.read(f"{name}_blocks")),
        )
    )
    builder.weights.append(
        Weight(
            f"{name}_scales",
            TensorProto.FLOAT8E8M0,
            (experts, rows, blocks),
            lambda checkpoint: checkpoint.read(f"{name}_scales"),
        )
    )
    return [f"{name}_blocks", f"{name}_scales"]
