"""The ONNX graph of a gpt-oss model, as docs/architecture.md describes it, without its data.

`plan_graph` is pure: it returns the graph and the list of what to store, in the order of the computation;
`bundler.export` reads and writes it. Weights are stored as published. What a kernel wants instead is derived by nodes
whose inputs are all constant. ONNX Runtime folds them when it loads the session, given graph optimisation of at least
the basic level and ``optimization.constant_folding_max_output_size_in_bytes=0`` (by default it leaves results over
1 GiB to every run):

    norms, biases      Cast to the compute type
    matrices, CUDA     likewise (Concat first where q, k and v become one, or a tensor was split)

On CPU the operators of appliance/kernels take MXFP4 blocks and scales and bfloat16 matrices as stored: Embedding, which
reads rows where they lie, ExpertLayer, and Dense for attention and head, which the target holds in 8 bits or in
bfloat16 as the graph says; `packing.json` lists what the last two read. Attention and TopLogits are the others. On
CUDA, QMoE takes MXFP4 itself, in another order of nibbles (`bundler.mxfp4.pair_along_rows`).

Computation is float32 on CPU. On CUDA projections, attention, router, experts and unembedding are float16; the residual
stream and norms are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from bundler.errors import ExportError
from bundler.graph_builder import DECODED_TOKENS, KERNEL_DOMAIN, Accelerator, DenseKind, GraphBuilder, Packing, Weight
from bundler.model_config import MXFP4_BLOCK, ModelConfig
from bundler.mxfp4 import pair_along_rows
from bundler.rotary import rotary_caches
from installer.formats.graph import GraphFacts, encode_graph_facts

OPSET = 21
IR_VERSION = 12  # the first with FLOAT8E8M0
TOP_K = 256
# Bits of a prompt's activations in the experts' products on CPUs. What 8 cost is of the size of what 8-bit attention
# and head weights cost (docs/performance.md): who keeps those as published gets 16.
PROMPT_BITS: dict[DenseKind, int] = {"int8": 8, "bf16": 16}
MAX_SHARD_BYTES = 1 << 30
# QMoE interleaves 64 of what it sums over; ONNX Runtime 1.31 does not check (measured: errors above 1 at 96 and 160).
_CUDA_EXPERT_MULTIPLE = 64
_CPU_HEAD_MULTIPLE = 16  # lanes of appliance/kernels
_LOGIT_PARTS = 256  # of a row of logits, at most; 201,088 = 128 * 1,571

_CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class GraphPlan:
    """A graph without initialisers, and the initialisers it lacks."""

    graph: onnx.GraphProto
    weights: tuple[Weight, ...]
    packings: tuple[Packing, ...]
    metadata: dict[str, str]


def plan_graph(
    config: ModelConfig,
    accelerator: Accelerator,
    *,
    dense: DenseKind = "int8",
    max_weight_bytes: int = MAX_SHARD_BYTES,
) -> GraphPlan:
    """The graph of a model of this configuration.

    Args:
        dense: how the CPU's operators hold attention and head; CUDA takes float16.
        max_weight_bytes: larger tensors are stored in parts along their first axis and joined by a Concat.
    Raises:
        ExportError: the accelerator's kernels cannot compute a model of these sizes.
    """
    if accelerator == "cuda":
        _require_cuda_sizes(config)
    else:
        _require_cpu_sizes(config)
    builder = GraphBuilder(config, accelerator, max_weight_bytes, dense)
    _add_model(builder)
    inputs, outputs = _interface(config, accelerator)
    graph = helper.make_graph(builder.nodes, "gpt-oss", inputs, outputs, initializer=builder.tables)
    facts = GraphFacts(
        accelerator,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        vocab=config.vocab,
        context=config.context,
        dense=dense,
        window=config.sliding_window,
    )
    return GraphPlan(graph, tuple(builder.weights), tuple(builder.packings), encode_graph_facts(facts))


def _require_cpu_sizes(config: ModelConfig) -> None:
    if config.head_dim % _CPU_HEAD_MULTIPLE:
        raise ExportError(
            f"head_dim is {config.head_dim}; the CPU's attention needs a multiple of {_CPU_HEAD_MULTIPLE}: "
            "build for cuda"
        )


def _require_cuda_sizes(config: ModelConfig) -> None:
    for name, size in (("hidden_size", config.hidden), ("intermediate_size", config.intermediate)):
        if size % _CUDA_EXPERT_MULTIPLE:
            raise ExportError(
                f"{name} is {size}; the CUDA kernel for MXFP4 experts needs a multiple of {_CUDA_EXPERT_MULTIPLE} and "
                "computes nonsense otherwise: build for cpu"
            )


def _interface(
    config: ModelConfig, accelerator: Accelerator
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    declare = helper.make_tensor_value_info
    cache_type = TensorProto.FLOAT if accelerator == "cpu" else TensorProto.FLOAT16
    if accelerator == "cpu":
        inputs = [
            declare("input_ids", TensorProto.INT64, ["T"]),
            declare("token_slots", TensorProto.INT32, ["T"]),
            declare("token_positions", TensorProto.INT32, ["T"]),
            declare(DECODED_TOKENS, TensorProto.INT64, []),
        ]
    else:
        inputs = [
            declare("input_ids", TensorProto.INT64, ["B", "S"]),
            declare("seqlens_k", TensorProto.INT32, ["B"]),
            declare("total_sequence_length", TensorProto.INT32, []),
        ]
    inputs.append(declare("logit_rows", TensorProto.INT64, ["R"]))
    top = min(TOP_K, config.vocab)
    outputs = [
        declare("top_logits", TensorProto.FLOAT, ["R", top]),
        declare("top_ids", TensorProto.INT64, ["R", top]),
        declare("logsumexp", TensorProto.FLOAT, ["R"]),
        declare("logits", TensorProto.FLOAT, ["R", config.vocab]),
    ]
    for layer, kind in enumerate(config.layer_types):
        # The CPU's operator keeps a windowed layer in a ring, so that its capacity is another.
        capacity = "W" if kind == "sliding_attention" and accelerator == "cpu" else "C"
        cache_shape: list[str | int | None] = ["B", config.kv_heads, capacity, config.head_dim]
        for part in ("key", "value"):
            inputs.append(declare(f"past_key_values.{layer}.{part}", cache_type, cache_shape))
            outputs.append(declare(f"present.{layer}.{part}", cache_type, cache_shape))
    return inputs, outputs


def _add_model(builder: GraphBuilder) -> None:
    config = builder.config
    # 1. What the layers share.
    _add_shared(builder)
    # 2. Embedding: rows are gathered as published and widened; the residual stream is [T, hidden].
    residual = _add_embedding(builder)
    gamma = builder.dense("model.layers.0.input_layernorm.weight", builder.residual_type)
    wide = builder.node(
        "SimplifiedLayerNormalization", [residual, gamma], "layers.0.input_norm", epsilon=config.rms_norm_eps, axis=-1
    )
    normed = builder.converted(wide, builder.residual_type, builder.compute_type)
    # 3. Layers. Each norm after the first also adds the branch before it to the residual stream.
    for layer in range(config.layers):
        attended, bias = _add_attention(builder, layer, normed)
        gamma_name = f"model.layers.{layer}.post_attention_layernorm.weight"
        normed, residual = _add_norm(builder, residual, attended, gamma_name, bias)
        mixed = _add_experts(builder, layer, normed)
        last = layer + 1 == config.layers
        gamma_name = "model.norm.weight" if last else f"model.layers.{layer + 1}.input_layernorm.weight"
        normed, residual = _add_norm(builder, residual, mixed, gamma_name)
    # 4. Logits of the wanted rows only, and what a sampler needs of them.
    wanted = builder.node("Gather", [normed, "logit_rows"], "wanted")
    if builder.cuda:
        _add_cuda_head(builder, wanted)
    else:
        _add_cpu_head(builder, wanted)


def _add_embedding(builder: GraphBuilder) -> str:
    """The rows of input_ids, [T, hidden]."""
    name = "model.embed_tokens.weight"
    if not builder.cuda:
        parts = [part.name for part in builder.stored_parts(name)]
        return builder.node("Embedding", ["input_ids", *parts], "embedding", domain=KERNEL_DOMAIN)
    builder.table("shape.tokens", np.array([-1, builder.config.hidden], np.int64))
    rows = builder.node("Gather", [builder.stored(name), "input_ids"], "embedding.rows")
    tokens = builder.node("Reshape", [rows, "shape.tokens"], "embedding.tokens")
    return builder.cast(tokens, builder.residual_type)


def _add_cpu_head(builder: GraphBuilder, wanted: str) -> None:
    every_row = builder.table("every_row", np.array(np.iinfo(np.int64).max))
    logits = builder.projection(wanted, ["lm_head"], "logits", biased=False, decoded=every_row)
    builder.node(
        "TopLogits", [logits], ["top_logits", "top_ids", "logsumexp"],
        domain=KERNEL_DOMAIN, k=min(TOP_K, builder.config.vocab),
    )  # fmt: skip


def _add_cuda_head(builder: GraphBuilder, wanted: str) -> None:
    """Logits, and their logsumexp in two steps: of equal parts of each row, then of the parts.

    ReduceLogSumExp takes 27 ms of a step for 32 rows of 201,088 (measured, ONNX Runtime 1.31 on an H200). LogSoftmax is
    quick where rows are short, and any column of x - LogSoftmax(x) is the logsumexp of x.
    """
    product = builder.linear(wanted, builder.dense("lm_head.weight"), None, "logits.half")
    builder.node("Cast", [product], "logits", to=TensorProto.FLOAT)
    builder.table("first_column", np.array(0, np.int64))
    parts = next(count for count in range(_LOGIT_PARTS, 0, -1) if builder.config.vocab % count == 0)
    builder.table("shape.parts", np.array([-1, builder.config.vocab // parts], np.int64))
    builder.table("shape.part_sums", np.array([-1, parts], np.int64))
    rows = builder.node("Reshape", ["logits", "shape.parts"], "logits.parts")
    sums = builder.node("Reshape", [_add_logsumexp(builder, rows, "part_sums"), "shape.part_sums"], "part_sums.rows")
    _add_logsumexp(builder, sums, "logsumexp")
    builder.table("top_k", np.array([min(TOP_K, builder.config.vocab)], np.int64))
    builder.node("TopK", ["logits", "top_k"], ["top_logits", "top_ids"], axis=-1, largest=1, sorted=1)


def _add_logsumexp(builder: GraphBuilder, x: str, output: str) -> str:
    logarithms = builder.node("LogSoftmax", [x], f"{x}.log_softmax", axis=-1)
    columns = [builder.node("Gather", [value, "first_column"], f"{value}.first", axis=1) for value in (x, logarithms)]
    return builder.node("Sub", columns, output)


def _add_shared(builder: GraphBuilder) -> None:
    config = builder.config
    for name, values in zip(("rotary.cos", "rotary.sin"), rotary_caches(config), strict=True):
        builder.derived(name, values)
    if not builder.cuda:
        return
    width = (config.heads + 2 * config.kv_heads) * config.head_dim
    builder.table("shape.heads", np.array([-1, config.heads * config.head_dim], np.int64))
    builder.table("shape.qkv_width", np.array([width], np.int64))
    builder.node("Shape", ["input_ids"], "shape.batch")  # attention alone needs [B, S] apart; the rest works on [T, ..]
    builder.node("Concat", ["shape.batch", "shape.qkv_width"], "shape.qkv", axis=0)
    builder.table("experts.ones", np.ones(config.experts, np.float32))


def _add_norm(
    builder: GraphBuilder, residual: str, branch: str, gamma_name: str, bias: str | None = None
) -> tuple[str, str]:
    """The sum of residual, branch and bias: normalised in the compute type, and as it is. Both [T, hidden]."""
    stem, wide = gamma_name.removesuffix(".weight"), builder.residual_type
    inputs = [residual, builder.converted(branch, builder.compute_type, wide), builder.dense(gamma_name, wide)]
    normed = builder.node(
        "SkipSimplifiedLayerNormalization",
        inputs if bias is None else [*inputs, bias],
        [f"{stem}.normed", "", "", f"{stem}.residual"],
        domain=_CONTRIB,
        epsilon=builder.config.rms_norm_eps,
    )
    return builder.converted(normed, wide, builder.compute_type), f"{stem}.residual"


def _add_attention(builder: GraphBuilder, layer: int, x: str) -> tuple[str, str | None]:
    """Projections and attention of one layer, [T, hidden], and the bias that the norm after it is to add."""
    config = builder.config
    stem = f"model.layers.{layer}.self_attn"
    qkv = builder.projection(x, [f"{stem}.{which}_proj" for which in "qkv"], f"{stem}.qkv.rows")
    past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
    outputs = [f"{stem}.attended", *(f"present.{layer}.{part}" for part in ("key", "value"))]
    sinks = builder.dense(f"{stem}.sinks")
    sliding = config.layer_types[layer] == "sliding_attention"
    if not builder.cuda:
        attended = builder.node(
            "Attention",
            [qkv, *past, "token_slots", "token_positions", "rotary.cos", "rotary.sin", sinks],
            outputs,
            domain=KERNEL_DOMAIN,
            heads=config.heads,
            kv_heads=config.kv_heads,
            window=config.sliding_window if sliding else 0,
        )
        return builder.projection(attended, [f"{stem}.o_proj"], f"{stem}.output"), None
    batch = builder.node("Reshape", [qkv, "shape.qkv"], f"{stem}.qkv")
    attended = builder.node(
        "GroupQueryAttention",
        [batch, "", "", *past, "seqlens_k", "total_sequence_length", "rotary.cos", "rotary.sin", "", "", sinks],
        outputs,
        domain=_CONTRIB,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        do_rotary=1,
        local_window_size=config.sliding_window if sliding else -1,
    )
    flat = builder.node("Reshape", [attended, "shape.heads"], f"{stem}.attended.rows")
    # The norm adds the bias in passing; Gemm would copy it first.
    product = builder.linear(flat, builder.dense(f"{stem}.o_proj.weight"), None, f"{stem}.output")
    return product, builder.dense(f"{stem}.o_proj.bias", builder.residual_type)


def _add_experts(builder: GraphBuilder, layer: int, x: str) -> str:
    """Router and experts of one layer, [T, hidden]."""
    stem = f"model.layers.{layer}.mlp"
    weight, bias = builder.dense(f"{stem}.router.weight"), builder.dense(f"{stem}.router.bias")
    router = builder.linear(x, weight, bias, f"{stem}.router.logits")
    if builder.cuda:
        return _add_qmoe(builder, stem, x, router)
    return _add_native_experts(builder, stem, x, router)


def _add_native_experts(builder: GraphBuilder, stem: str, x: str, router: str) -> str:
    config = builder.config
    inputs, packed = [x, DECODED_TOKENS, router], []
    for name in ("gate_up_proj", "down_proj"):
        published = [builder.stored(f"{stem}.experts.{name}_{part}") for part in ("blocks", "scales")]
        inputs += [*published, builder.dense(f"{stem}.experts.{name}_bias")]
        packed += published
    sizes = {"experts": config.experts, "hidden": config.hidden, "inner": config.intermediate}
    return builder.node(
        "ExpertLayer",
        inputs,
        f"{stem}.output",
        domain=KERNEL_DOMAIN,
        key=builder.packing("mxfp4", sizes, *packed),
        top_k=config.experts_per_token,
        alpha=1.702,
        limit=config.swiglu_limit,
        prompt_bits=PROMPT_BITS[builder.dense_kind],
    )


def _add_qmoe(builder: GraphBuilder, stem: str, x: str, router: str) -> str:
    config = builder.config
    inputs = [x, router]
    for name in ("gate_up_proj", "down_proj"):
        inputs += [*_add_mxfp4_cuda(builder, f"{stem}.experts.{name}"), builder.dense(f"{stem}.experts.{name}_bias")]
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
        expert_weight_bits=4,
        quant_type="fp4",
    )


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
