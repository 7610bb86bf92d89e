"""Fine-tunes with experts in 16 or 32 bits, in every form that tools save: rounded to MXFP4, and the error is told."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bundler import export
from bundler.checkpoint import Checkpoint, open_checkpoint
from bundler.checkpoint_writer import write_checkpoint
from bundler.checkpoints import experts
from bundler.errors import CheckpointError
from bundler.export import export_graph
from bundler.graph.plan import Accelerator
from bundler.mxfp4 import quantise
from tests.bundler.checkpoint_forms import (
    BF16,
    F16,
    F32,
    FORMS,
    PROJECTIONS,
    Form,
    Model,
    Tensors,
    fused,
    listed,
    take_apart,
    write_wide,
)
from tests.reference.gpt_oss import decode_mxfp4

ACCELERATORS: tuple[Accelerator, ...] = ("cpu", "cuda")
STEM = "model.layers.{}.mlp.experts.{}"


@pytest.fixture(scope="module")
def published(small_checkpoint: Path) -> Model:
    return take_apart(small_checkpoint)


@pytest.fixture(scope="module")
def tuned(published: Model) -> Model:
    """The same sizes with experts that MXFP4 cannot hold exactly."""
    rng = np.random.default_rng(9)
    weights = {at: rng.standard_normal(w.shape, np.float32) / np.float32(8) for at, w in published.weights.items()}
    return Model(published.config, published.dense, weights, published.biases)


def _experts(checkpoint: Checkpoint, layer: int, projection: str) -> NDArray[np.float64]:
    stem = STEM.format(layer, projection)
    return decode_mxfp4(checkpoint.read(f"{stem}_blocks"), checkpoint.read(f"{stem}_scales"))


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=["bf16", "f16", "f32"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_widened_experts_keep_every_number(form: Form, dtype: Any, published: Model, tmp_path: Path) -> None:
    if dtype is F16:  # of the published range, float16 holds what is neither huge nor tiny
        published = Model(
            published.config, published.dense, {at: w.astype(F16).astype(F32) for at, w in published.weights.items()},
            published.biases,
        )  # fmt: skip
    checkpoint = open_checkpoint(write_wide(tmp_path / "wide", published, form, dtype))
    for (layer, projection), weights in published.weights.items():
        np.testing.assert_array_equal(_experts(checkpoint, layer, projection), weights)
        read = checkpoint.read(f"{STEM.format(layer, projection)}_bias")
        np.testing.assert_array_equal(read, published.biases[layer, projection])
    converted = checkpoint.converted()
    assert converted is not None
    assert converted.expert_errors == {"0": 0.0, "1": 0.0, "2": 0.0}
    assert "no weight changed" in converted.sentences


def test_a_widened_checkpoint_gives_the_published_graph_byte_for_byte(tuned: Model, tmp_path: Path) -> None:
    """Also for CUDA, which stores nibbles in another order."""
    published: Tensors = dict(tuned.dense)
    rounded = {}
    for (layer, projection), weights in tuned.weights.items():
        stem = STEM.format(layer, projection)
        blocks, scales = published[f"{stem}_blocks"], published[f"{stem}_scales"] = quantise(weights)
        published[f"{stem}_bias"] = tuned.biases[layer, projection]
        rounded[layer, projection] = decode_mxfp4(blocks, scales).astype(np.float32)
    write_checkpoint(tmp_path / "published", tuned.config, published.items())
    wide = write_wide(tmp_path / "wide", replace(tuned, weights=rounded), fused)
    for accelerator in ACCELERATORS:
        files = []
        for directory in (tmp_path / "published", wide):
            out = tmp_path / f"{directory.name}-{accelerator}"
            export_graph(open_checkpoint(directory), out, accelerator=accelerator, dense="bf16")
            files.append({path.name: path.read_bytes() for path in out.iterdir()})
        assert files[0] == files[1]


def counted_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call rounds from now on."""
    rows: list[int] = []

    def counted(weights: NDArray[np.float32]) -> Any:
        rows.append(len(weights))
        return quantise(weights)

    monkeypatch.setattr(experts, "quantise", counted)
    return rows


@pytest.mark.parametrize("piece_bytes", [1 << 10, 1 << 12, 1 << 25])
@pytest.mark.parametrize("shard_bytes", [1 << 14, 1 << 30])
def test_experts_are_rounded_once_for_both_graphs(
    piece_bytes: int, shard_bytes: int, tuned: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks and scales come in pieces of different numbers of experts, and large ones in parts."""
    monkeypatch.setattr(export, "PIECE_BYTES", piece_bytes)
    checkpoint = open_checkpoint(write_wide(tmp_path / "wide", tuned, fused))
    expected = tmp_path / "cuda-alone"
    export_graph(checkpoint, expected, accelerator="cuda")
    rows = counted_rows(monkeypatch)
    cpu = export_graph(checkpoint, tmp_path / "cpu", accelerator="cpu", max_shard_bytes=shard_bytes)
    assert sum(rows) == sum(len(matrix) for weights in tuned.weights.values() for matrix in weights)
    assert any("blocks.part" in name for name in cpu.weights) == (shard_bytes == 1 << 14)
    rows.clear()
    after = checkpoint.reading({name: cpu.reader(name) for name in checkpoint.rounded})
    export_graph(after, tmp_path / "cuda", accelerator="cuda")
    assert rows == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "cuda").iterdir()} == {
        p.name: p.read_bytes() for p in expected.iterdir()
    }


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_tuned_experts_are_rounded_to_the_nearest(form: Form, tuned: Model, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_wide(tmp_path / "wide", tuned, form))
    for (layer, projection), weights in tuned.weights.items():
        stored = weights.astype(BF16).astype(np.float32)
        blocks, scales = quantise(stored)
        stem = STEM.format(layer, projection)
        np.testing.assert_array_equal(checkpoint.read(f"{stem}_blocks"), blocks)
        np.testing.assert_array_equal(checkpoint.read(f"{stem}_scales"), scales)


def test_the_error_of_each_layer_is_that_of_its_matrices(tuned: Model, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_wide(tmp_path / "wide", tuned, fused))
    expected = {}
    for layer in range(3):
        error = total = 0.0
        for projection in PROJECTIONS:
            weights = tuned.weights[layer, projection].astype(BF16).astype(np.float64)
            error += float(((_experts(checkpoint, layer, projection) - weights) ** 2).sum())
            total += float((weights**2).sum())
        expected[str(layer)] = (error / total) ** 0.5
    converted = checkpoint.converted()
    assert converted is not None
    assert converted.experts_from == "bfloat16"
    assert converted.expert_errors == pytest.approx(expected, rel=1e-3)
    assert converted.mean_error == pytest.approx(sum(expected.values()) / 3, rel=1e-3)
    assert 0.08 < converted.mean_error < 0.14
    assert f"mean relative error {100 * converted.mean_error:.2g} %" in converted.sentences


def test_some_rows_and_scales_first_are_the_same(tuned: Model, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_wide(tmp_path / "wide", tuned, listed))
    stem = STEM.format(1, "gate_up_proj")
    scales = checkpoint.read(f"{stem}_scales", range(1, 3))
    np.testing.assert_array_equal(scales, checkpoint.read(f"{stem}_scales")[1:3])
    blocks = checkpoint.read(f"{stem}_blocks")
    np.testing.assert_array_equal(checkpoint.read(f"{stem}_blocks", range(3, 4)), blocks[3:4])
    np.testing.assert_array_equal(checkpoint.read(f"{stem}_scales", range(3, 4)), checkpoint.read(f"{stem}_scales")[3:])


PREFIXES: dict[str, Callable[[str], str]] = {
    "module": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "peft-merged": lambda name: f"base_model.model.{name}",
    "language-model": lambda name: name.replace("model.", "model.language_model.", 1),
    "language-model-first": lambda name: f"language_model.{name}",
    "fsdp": lambda name: name.replace(".mlp.", "._fsdp_wrapped_module.mlp.").replace("model.", "module.model.", 1),
    "checkpointed": lambda name: name.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."),
    "no-model": lambda name: name.removeprefix("model."),
    "unsloth-router": lambda name: name.replace("router.", "router.linear."),
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", [fused, listed], ids=["fused", "listed"])
def test_names_of_training_tools_are_understood(prefix: str, form: Form, tuned: Model, tmp_path: Path) -> None:
    plain = open_checkpoint(write_wide(tmp_path / "plain", tuned, form))
    wrapped = open_checkpoint(write_wide(tmp_path / "wrapped", tuned, form, rename=PREFIXES[prefix]))
    for name in plain.specs:
        assert plain.read(name).tobytes() == wrapped.read(name).tobytes(), name


def test_a_published_checkpoint_may_have_prefixes_too(small_checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(small_checkpoint / "model.safetensors")
    (tmp_path / "config.json").write_bytes((small_checkpoint / "config.json").read_bytes())
    save_file({f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.converted() is None
    for name, tensor in tensors.items():
        assert checkpoint.read(name).tobytes() == tensor.tobytes()


def test_each_layer_may_have_its_own_form(published: Model, small_checkpoint: Path, tmp_path: Path) -> None:
    """A layer that was not trained stays as published, byte for byte."""
    directory = write_wide(tmp_path / "mixed", published, fused, layers=(1,))
    tensors = load_file(small_checkpoint / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if ".experts." in n and ".layers.1." not in n}
    save_file(load_file(directory / "model.safetensors") | kept, directory / "model.safetensors")
    checkpoint = open_checkpoint(directory)
    for name in checkpoint.specs:
        np.testing.assert_array_equal(checkpoint.read(name).view(np.uint8), tensors[name].view(np.uint8), err_msg=name)
    converted = checkpoint.converted()
    assert converted is not None
    assert set(converted.expert_errors) == {"1"}


@pytest.mark.parametrize(("dtype", "word"), [(F16, "float16"), (F32, "float32")], ids=["f16", "f32"])
def test_other_weights_are_rounded_to_bfloat16_and_it_is_said(
    dtype: Any, word: str, tuned: Model, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    dense = {name: rng.standard_normal(tensor.shape).astype(np.float32) for name, tensor in tuned.dense.items()}
    model = Model(tuned.config, dense, tuned.weights, tuned.biases)
    checkpoint = open_checkpoint(write_wide(tmp_path / "wide", model, fused, dtype, dense_dtype=dtype))
    for name, tensor in dense.items():
        np.testing.assert_array_equal(checkpoint.read(name), tensor.astype(dtype).astype(BF16), err_msg=name)
    converted = checkpoint.converted()
    assert converted is not None
    assert (converted.experts_from, converted.dense_from) == (word, word)
    assert f"rounded from {word} to bfloat16" in converted.sentences


def _change(directory: Path, change: Callable[[Tensors], object]) -> Path:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    return directory


FUSED = STEM.format(0, "gate_up_proj")
REFUSED: dict[str, tuple[Form, Callable[[Tensors], object], str]] = {
    "published-way-round": (
        fused, lambda t: t.update({FUSED: np.ascontiguousarray(t[FUSED].swapaxes(1, 2))}), "is BF16 [4, 256, 64]",
    ),
    "one-expert-short": (fused, lambda t: t.update({FUSED: t[FUSED][:3].copy()}), "is BF16 [3, 64, 256]"),
    "listed-expert-missing": (
        listed, lambda t: t.pop(f"{FUSED}s.2.weight"), "weight of expert 2 of layer 0, gate_up_proj, is missing",
    ),
    "up-missing": (
        FORMS["apart"], lambda t: t.pop("model.layers.0.mlp.experts.1.up_proj.weight"),
        "weight of expert 1 of layer 0, gate_up_proj, is missing",
    ),
    "bias-missing": (listed, lambda t: t.pop(f"{FUSED}s.3.bias"), "bias of expert 3 of layer 0"),
    "every-bias-missing": (fused, lambda t: t.pop(f"{FUSED}_bias"), f"{FUSED}_bias is missing"),
    "expert-beyond": (listed, lambda t: t.update({f"{FUSED}s.4.bias": t[f"{FUSED}s.3.bias"]}), "is not a tensor of"),
    "name-twice": (fused, lambda t: t.update({f"module.{FUSED}": t[FUSED]}), f"both mean {FUSED}"),
    "form-twice": (
        fused, lambda t: t.update({f"{FUSED}_blocks": np.zeros((4, 256, 2, 16), np.uint8)}), "are there twice",
    ),
    "fp8-type": (
        fused, lambda t: t.update({FUSED: t[FUSED].astype("float8_e4m3fn")}), "is F8_E4M3 [4, 64, 256]",
    ),
    "unmerged-adapter": (
        fused, lambda t: t.update({"model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((2, 64), np.float32)}),
        "an adapter that was saved beside the weights",
    ),
    "base-layer": (
        fused, lambda t: t.update({"model.layers.0.self_attn.q_proj.base_layer.weight": np.zeros((2, 64), np.float32)}),
        "an adapter that was saved beside the weights",
    ),
    "bnb-leftover": (
        listed, lambda t: t.update({f"{FUSED}s.0.weight.absmax": np.zeros(4, np.float32)}), "with bitsandbytes",
    ),
    "gptq-leftover": (
        listed, lambda t: t.update({f"{FUSED}s.0.qweight": np.zeros(4, np.int32)}), "quantised with GPTQ or AWQ",
    ),
    "fp8-leftover": (
        fused, lambda t: t.update({"model.layers.0.self_attn.q_proj.weight_scale": np.zeros(4, np.float32)}), "in FP8",
    ),
    "mlx-leftover": (
        fused, lambda t: t.update({"model.layers.0.self_attn.q_proj.biases": np.zeros(4, np.float32)}), "for MLX",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_experts_are_refused_by_name(case: str, tuned: Model, tmp_path: Path) -> None:
    form, change, fault = REFUSED[case]
    directory = _change(write_wide(tmp_path / "wide", tuned, form), change)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(directory)
    assert fault in refusal.value.fault


def test_published_and_wide_experts_together_are_refused(tuned: Model, small_checkpoint: Path, tmp_path: Path) -> None:
    published = load_file(small_checkpoint / "model.safetensors")
    extra = {n: published[n] for n in (f"{FUSED}_blocks", f"{FUSED}_scales")}
    directory = _change(write_wide(tmp_path / "wide", tuned, fused), lambda tensors: tensors.update(extra))
    with pytest.raises(CheckpointError, match="layer 0, gate_up_proj, are there twice: in MXFP4 and in more bits"):
        open_checkpoint(directory)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_experts_that_are_no_numbers_are_refused(value: float, tuned: Model, tmp_path: Path) -> None:
    def plant(tensors: Tensors) -> None:
        tensors[FUSED] = tensors[FUSED].copy()
        tensors[FUSED][3, -1, -1] = value

    checkpoint = open_checkpoint(_change(write_wide(tmp_path / "wide", tuned, fused), plant))
    with pytest.raises(CheckpointError, match=f"{FUSED} holds an infinity or NaN"):
        checkpoint.read(f"{FUSED}_blocks")


def test_a_number_beyond_bfloat16_is_refused(tuned: Model, tmp_path: Path) -> None:
    directory = write_wide(tmp_path / "wide", tuned, fused, F32, dense_dtype=F32)
    _change(directory, lambda tensors: tensors["model.norm.weight"].__setitem__(0, np.float32(3.4e38)))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight does not fit into bfloat16"):
        open_checkpoint(directory).read("model.norm.weight")


def test_rounding_holds_one_expert_for_each_thread_beside_the_result(
    tmp_path: Path, published: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest piece in memory is the result; the same tensor in bfloat16 would take four times as much."""
    config = {**published.config, "hidden_size": 512, "intermediate_size": 512, "num_local_experts": 16,
              "num_hidden_layers": 1, "layer_types": ["full_attention"], "vocab_size": 64}  # fmt: skip
    model = _filled(config)
    checkpoint = open_checkpoint(write_wide(tmp_path / "wide", model, fused))
    stem = STEM.format(0, "gate_up_proj")
    result = checkpoint.specs[f"{stem}_blocks"].size_bytes
    one_expert = 2 * 1024 * 512  # bfloat16
    checkpoint.read(f"{stem}_blocks", range(0, 1))  # whatever is imported late
    monkeypatch.setattr("bundler.checkpoints.experts._MOST_THREADS", 1)
    tracemalloc.start()
    try:
        checkpoint.read(f"{stem}_blocks")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    bound = 1.2 * result + 4 * one_expert
    assert bound < 4 * result, "the bound would not show a whole tensor in 16 bits"
    assert peak < bound, (peak, result, one_expert)


def _filled(config: dict[str, Any]) -> Model:
    """A model of one layer with every number 1."""
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    heads, kv = (config[name] * config["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    layer = "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden), "lm_head.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,), f"{layer}input_layernorm.weight": (hidden,),
        f"{layer}post_attention_layernorm.weight": (hidden,),
        f"{layer}self_attn.sinks": (config["num_attention_heads"],),
        f"{layer}mlp.router.weight": (experts, hidden), f"{layer}mlp.router.bias": (experts,),
        f"{layer}self_attn.o_proj.weight": (hidden, heads), f"{layer}self_attn.o_proj.bias": (hidden,),
    }  # fmt: skip
    for which, rows in (("q", heads), ("k", kv), ("v", kv)):
        shapes |= {
            f"{layer}self_attn.{which}_proj.weight": (rows, hidden),
            f"{layer}self_attn.{which}_proj.bias": (rows,),
        }
    weights = {
        (0, "gate_up_proj"): np.ones((experts, 2 * inner, hidden), np.float32),
        (0, "down_proj"): np.ones((experts, hidden, inner), np.float32),
    }
    biases = {at: np.ones(matrix.shape[:2], BF16) for at, matrix in weights.items()}
    return Model(config, {name: np.ones(shape, BF16) for name, shape in shapes.items()}, weights, biases)
