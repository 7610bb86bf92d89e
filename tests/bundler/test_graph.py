"""The graph keeps its contract: names, types, shapes, metadata, operators, and what ONNX Runtime makes of it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from appliance.engine.operators import load_operators
from appliance.engine.packed_weights import load_packing
from bundler.checkpoint import open_checkpoint
from bundler.errors import ExportError
from bundler.export import ExportedGraph, export_graph
from bundler.graph.cpu import DenseKind
from bundler.graph.plan import Accelerator, plan_graph
from bundler.model_config import ModelConfig, parse_model_config
from bundler.random_checkpoint import random_config
from bundler.rotary import inverse_frequencies, rotary_caches
from tests.bundler.cuda_on_cpu import with_8_bit_experts
from tests.bundler.onnx_model import Cache, GraphRunner, open_session
from tests.bundler.parity import relative_error
from tests.reference.gpt_oss import ReferenceModel

pytestmark = pytest.mark.usefixtures("exact_operators")


@pytest.fixture(scope="module")
def cpu(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    out = tmp_path_factory.mktemp("graph") / "cpu"
    return export_graph(open_checkpoint(small_checkpoint), out, accelerator="cpu", dense="bf16")


@pytest.fixture(scope="module")
def cuda(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    out = tmp_path_factory.mktemp("graph") / "cuda"
    return export_graph(open_checkpoint(small_checkpoint), out, accelerator="cuda")


@pytest.fixture(scope="module")
def runner(cpu: ExportedGraph) -> GraphRunner:
    return GraphRunner(open_session(cpu.model))


def _interface(values: Any) -> dict[str, tuple[int, list[str | int]]]:
    described = {}
    for value in values:
        tensor = value.type.tensor_type
        described[value.name] = (tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim])
    return described


@pytest.mark.parametrize(
    ("accelerator", "cache", "row"), [("cpu", TensorProto.UINT8, "D"), ("cuda", TensorProto.FLOAT16, 16)]
)
def test_inputs_and_outputs_are_those_of_the_contract(
    accelerator: str, cache: int, row: str | int, cpu: ExportedGraph, cuda: ExportedGraph
) -> None:
    graph = onnx.load(cpu.model if accelerator == "cpu" else cuda.model, load_external_data=False).graph
    layers = {f"{layer}.{part}": "C" for layer in range(3) for part in ("key", "value")}
    if accelerator == "cpu":  # a windowed layer's capacity is its own
        layers |= {name: "W" for name in layers if name.startswith(("0.", "2."))}
    tokens = (
        {
            "input_ids": (TensorProto.INT64, ["T"]),
            "token_slots": (TensorProto.INT32, ["T"]),
            "token_positions": (TensorProto.INT32, ["T"]),
            "decoded_tokens": (TensorProto.INT64, []),
        }
        if accelerator == "cpu"
        else {
            "input_ids": (TensorProto.INT64, ["B", "S"]),
            "seqlens_k": (TensorProto.INT32, ["B"]),
            "total_sequence_length": (TensorProto.INT32, []),
        }
    )
    assert _interface(graph.input) == {
        **tokens,
        "logit_rows": (TensorProto.INT64, ["R"]),
        **{f"past_key_values.{name}": (cache, ["B", 2, capacity, row]) for name, capacity in layers.items()},
    }
    assert _interface(graph.output) == {
        "top_logits": (TensorProto.FLOAT, ["R", 256]),
        "top_ids": (TensorProto.INT64, ["R", 256]),
        "logsumexp": (TensorProto.FLOAT, ["R"]),
        "logits": (TensorProto.FLOAT, ["R", 300]),
        **{f"present.{name}": (cache, ["B", 2, capacity, row]) for name, capacity in layers.items()},
    }


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_metadata_describe_the_model(accelerator: str, cpu: ExportedGraph, cuda: ExportedGraph) -> None:
    model = onnx.load(cpu.model if accelerator == "cpu" else cuda.model, load_external_data=False)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "gpt_oss.format": "5",
        "gpt_oss.accelerator": accelerator,
        "gpt_oss.layers": "3",
        "gpt_oss.heads": "4",
        "gpt_oss.kv_heads": "2",
        "gpt_oss.head_dim": "16",
        "gpt_oss.vocab": "300",
        "gpt_oss.context": "512",
        **({"gpt_oss.dense": "bf16", "gpt_oss.window": "8"} if accelerator == "cpu" else {}),
    }


def _optimised(model: Path, directory: Path, *, fold_limit_bytes: int = 0) -> Counter[str]:
    """Operators left after ONNX Runtime has optimised the graph."""
    target = directory / "optimised.onnx"
    open_session(model, fold_limit_bytes=fold_limit_bytes, optimised=target)
    return Counter(node.op_type for node in onnx.load(target, load_external_data=False).graph.node)


_FOLDED = {
    "Gather": 1,  # wanted rows
    "SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 6,
    "Embedding": 1, "Gemm": 3, "Dense": 2 * 3 + 1, "Attention": 3, "ExpertLayer": 3, "TopLogits": 1,
}  # fmt: skip


def test_everything_derived_from_weights_is_folded_at_load(cpu: ExportedGraph, tmp_path: Path) -> None:
    assert _optimised(cpu.model, tmp_path) == _FOLDED


def test_the_folding_limit_decides(cpu: ExportedGraph, tmp_path: Path, small_checkpoint: Path) -> None:
    """This is why the engine sets the option: with a limit below its size, a result is computed in every run."""
    assert _optimised(cpu.model, tmp_path, fold_limit_bytes=256)["Cast"] > 1
    ids = np.arange(12)
    session = open_session(cpu.model, fold_limit_bytes=256)
    expected = ReferenceModel(small_checkpoint).logits(ids)
    assert relative_error(GraphRunner(session).prefill(ids), expected) < 1e-5


def test_top_logits_and_logsumexp_are_those_of_the_logits(runner: GraphRunner) -> None:
    ids = np.random.default_rng(0).integers(0, 300, (1, 9))
    rows = [8, 0, 3]

    def run(output: str) -> NDArray[Any]:
        result: NDArray[Any] = runner.step(ids, [9], rows, Cache(runner.session, slots=1, capacity=16), output)
        return result

    logits = run("logits")
    assert logits.shape == (3, 300)
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :256]
    np.testing.assert_array_equal(run("top_ids"), order)
    np.testing.assert_array_equal(run("top_logits"), np.take_along_axis(logits, order, axis=-1))
    exact = [math.log(math.fsum(map(math.exp, row))) for row in logits.tolist()]
    np.testing.assert_allclose(run("logsumexp"), exact, rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "shape"),
    [("logits", (0, 300)), ("top_logits", (0, 256)), ("top_ids", (0, 256)), ("logsumexp", (0,))],
)
def test_no_wanted_row_gives_empty_outputs(runner: GraphRunner, output: str, shape: tuple[int, ...]) -> None:
    cache = Cache(runner.session, slots=1, capacity=8)
    assert runner.step(np.arange(4)[None], [4], [], cache, output).shape == shape


def test_ids_outside_the_vocabulary_are_refused(runner: GraphRunner) -> None:
    with pytest.raises(Exception, match="not below the vocabulary of 300"):
        runner.step(np.array([[300]]), [1], [0], Cache(runner.session, slots=1, capacity=8))


def _config(**changes: Any) -> ModelConfig:
    body = random_config(
        layers=1, hidden=32, intermediate=32, experts=1, experts_per_token=1, heads=1, kv_heads=1, head_dim=64, vocab=8,
        context=int(4096 * changes.get("factor", 32)),
    )  # fmt: skip
    body["rope_scaling"] |= changes
    return parse_model_config(body)


def test_rotary_caches_cover_the_context() -> None:
    cosines, sines = rotary_caches(_config())
    assert cosines.shape == sines.shape == (131072, 32)
    concentration = 0.1 * math.log(32) + 1
    np.testing.assert_allclose(cosines[0], concentration, rtol=1e-7)
    np.testing.assert_allclose(cosines.astype(float) ** 2 + sines.astype(float) ** 2, concentration**2, rtol=1e-6)
    angle = float(np.float32(131071) * np.float32(inverse_frequencies(_config())[1]))
    assert cosines[-1, 1] == np.float32(math.cos(angle) * concentration)


@pytest.mark.parametrize("changes", [{}, {"truncate": True}, {"factor": 4.0}, {"beta_fast": 8.0, "beta_slow": 2.0}])
def test_frequencies_are_those_of_transformers(parity_extra: None, changes: dict[str, Any]) -> None:
    import torch
    from transformers import GptOssConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = _config(**changes)
    scaling = {
        "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
        "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    } | changes  # fmt: skip
    theirs = GptOssConfig(head_dim=64, rope_theta=150000, rope_scaling=scaling)
    frequencies, concentration = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    np.testing.assert_allclose(inverse_frequencies(config), frequencies.numpy(), rtol=5e-7)
    assert concentration == pytest.approx(0.1 * math.log(config.yarn.factor) + 1)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_attention_windows_follow_the_layer_types(cpu: ExportedGraph, cuda: ExportedGraph) -> None:
    nodes = onnx.load(cpu.model, load_external_data=False).graph.node
    attention = [_attributes(node) for node in nodes if node.op_type == "Attention"]
    assert attention == [{"heads": 4, "kv_heads": 2, "window": window} for window in (8, 0, 8)]
    nodes = onnx.load(cuda.model, load_external_data=False).graph.node
    attention = [_attributes(node) for node in nodes if node.op_type == "GroupQueryAttention"]
    assert [node["local_window_size"] for node in attention] == [8, -1, 8]
    assert all((node["num_heads"], node["kv_num_heads"], node["do_rotary"]) == (4, 2, 1) for node in attention)


@pytest.mark.parametrize(
    ("accelerator", "sizes", "says"),
    [
        ("cpu", {"head_dim": 24}, "head_dim is 24; the CPU's attention needs a multiple of 16"),
        ("cuda", {"hidden": 96}, "hidden_size is 96; the CUDA kernel .* needs a multiple of 64"),
        ("cuda", {"intermediate": 160}, "intermediate_size is 160; the CUDA kernel"),
    ],
)
def test_sizes_that_a_kernel_cannot_compute_are_refused(
    accelerator: Accelerator, sizes: dict[str, int], says: str
) -> None:
    fits = {
        "layers": 1, "hidden": 64, "intermediate": 64, "experts": 4, "experts_per_token": 2, "heads": 2,
        "kv_heads": 2, "head_dim": 32, "vocab": 100,
    }  # fmt: skip
    with pytest.raises(ExportError, match=says):
        plan_graph(parse_model_config(random_config(**(fits | sizes))), accelerator)
    plan_graph(parse_model_config(random_config(**fits)), accelerator)


_QMOE = {
    "k": 2, "activation_type": b"swiglu", "swiglu_fusion": 1, "activation_alpha": pytest.approx(1.702),
    "activation_beta": 1.0, "swiglu_limit": 7.0, "normalize_routing_weights": 1, "block_size": 32,
}  # fmt: skip


def test_cpu_operators_keep_their_contract(cpu: ExportedGraph) -> None:
    nodes = onnx.load(cpu.model, load_external_data=False).graph.node
    experts = [_attributes(node) for node in nodes if node.op_type == "ExpertLayer"]
    dense = [_attributes(node) for node in nodes if node.op_type == "Dense"]
    assert [{**attributes, "key": 0} for attributes in experts] == [
        {"key": 0, "top_k": 2, "alpha": pytest.approx(1.702), "limit": 7.0, "prompt_bits": 16}
    ] * 3
    assert {attributes["kind"] for attributes in dense} == {1}
    assert sorted(attributes["parts"] for attributes in dense) == [1] * 4 + [3] * 3  # o and the head; q, k and v
    keys = [key for entry in dense for key in range(entry["key"], entry["key"] + entry["parts"])]
    keys += [attributes["key"] for attributes in experts]
    assert len(set(keys)) == len(keys) == 3 + 4 * 3 + 1


def test_experts_take_8_bits_of_a_prompt_where_attention_has_8_bits(small_checkpoint: Path) -> None:
    config = open_checkpoint(small_checkpoint).config
    kinds: tuple[tuple[DenseKind, int], ...] = (("int8", 8), ("bf16", 16))
    for dense, bits in kinds:
        nodes = plan_graph(config, "cpu", dense=dense).graph.node
        assert {_attributes(node)["prompt_bits"] for node in nodes if node.op_type == "ExpertLayer"} == {bits}


def test_every_row_of_the_head_is_multiplied_as_a_decoded_token(cpu: ExportedGraph) -> None:
    graph = onnx.load(cpu.model, load_external_data=False).graph
    counts = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "Dense"}
    head = counts.pop("logits")
    (every_row,) = (tensor for tensor in graph.initializer if tensor.name == head)
    assert numpy_helper.to_array(every_row) == np.iinfo(np.int64).max
    assert set(counts.values()) == {"decoded_tokens"}


def test_the_packing_names_the_bytes_of_every_native_operator(cpu: ExportedGraph, small_checkpoint: Path) -> None:
    packing = load_packing(cpu.model.parent)
    nodes = onnx.load(cpu.model, load_external_data=False).graph.node
    weights = {}
    for node in nodes:
        if node.op_type == "ExpertLayer":
            weights[_attributes(node)["key"]] = [node.input[at] for at in (3, 4, 6, 7)]
        if node.op_type == "Dense":
            weights |= {_attributes(node)["key"] + at: [name] for at, name in enumerate(node.input[3:])}
    assert {entry.key for entry in packing.entries} == set(weights)
    published = load_file(small_checkpoint / "model.safetensors")
    for entry in packing.entries:
        for name, source in zip(weights[entry.key], entry.sources, strict=True):
            stored = (cpu.model.parent / source.file).read_bytes()[source.offset : source.offset + source.size_bytes]
            assert stored == published[name].tobytes(), name


@pytest.mark.parametrize("path", load_operators().paths())
def test_every_path_of_the_operators_stays_close_to_the_model(
    path: str, small_checkpoint: Path, tmp_path: Path
) -> None:
    """The median leaves out a token that goes to another expert, whose logits differ more."""
    load_operators().use_path(path)
    ids = np.random.default_rng(5).integers(0, 300, 40)
    expected = ReferenceModel(small_checkpoint).logits(ids)
    limits: dict[DenseKind, float] = {"bf16": 2e-2, "int8": 8e-2}
    for dense, limit in limits.items():
        graph = export_graph(open_checkpoint(small_checkpoint), tmp_path / dense, accelerator="cpu", dense=dense)
        logits = GraphRunner(open_session(graph.model)).prefill(ids)
        errors = np.abs(logits - expected).max(axis=-1) / np.abs(expected).max(axis=-1)
        print(f"{path}, {dense}: median relative error {np.median(errors):.1e}")
        assert np.median(errors) < limit, dense


def test_cuda_experts_keep_the_operators_contract(cuda: ExportedGraph) -> None:
    model = onnx.load(cuda.model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "QMoE"]
    assert [_attributes(node) for node in nodes] == [{**_QMOE, "expert_weight_bits": 4, "quant_type": b"fp4"}] * 3
    for layer, node in enumerate(nodes):
        experts = f"model.layers.{layer}.mlp.experts"
        assert [node.input[at] for at in (2, 3, 5, 6)] == [
            f"{experts}.gate_up_proj_blocks", f"{experts}.gate_up_proj_scales",
            f"{experts}.down_proj_blocks", f"{experts}.down_proj_scales",
        ]  # fmt: skip
        assert list(node.input[8:15]) == [""] * 7
        assert node.input[15] == node.input[16]
        types = [(stored[node.input[at]].data_type, list(stored[node.input[at]].dims)) for at in (2, 3, 5, 6)]
        assert types == [
            (TensorProto.UINT8, [4, 64, 128]),
            (TensorProto.FLOAT8E8M0, [4, 256, 2]),
            (TensorProto.UINT8, [4, 128, 32]),
            (TensorProto.FLOAT8E8M0, [4, 64, 4]),
        ]
        np.testing.assert_array_equal(numpy_helper.to_array(stored[node.input[15]]), np.ones(4, np.float32))


def test_cuda_graph_passes_type_inference_and_lacks_only_the_expert_kernel(cuda: ExportedGraph) -> None:
    """ONNX Runtime for CPUs knows the schemas of CUDA's operators. It stops only at the kernel that it lacks."""
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED : Failed to find kernel for com\.microsoft\.QMoE"):
        open_session(cuda.model)


def test_cuda_graph_computes_the_model_in_half_precision(
    cuda: ExportedGraph, small_checkpoint: Path, tmp_path: Path
) -> None:
    runner = GraphRunner(open_session(with_8_bit_experts(cuda, tmp_path / "model.onnx")))
    ids = np.random.default_rng(1).integers(0, 300, 30)
    expected = ReferenceModel(small_checkpoint).logits(ids)
    error = relative_error(runner.prefill(ids), expected)
    print(f"half precision: relative error {error:.1e}")
    assert error < 2e-2  # 11 bits of mantissa through three layers
