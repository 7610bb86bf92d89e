"""A LoRA adapter is merged exactly into what it changes, and into nothing else; what cannot be merged is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bundler.checkpoint import Checkpoint, open_checkpoint
from bundler.errors import CheckpointError
from bundler.mxfp4 import quantise
from bundler.random_checkpoint import random_config, write_random_checkpoint
from tests.bundler.lora_adapters import Adapter
from tests.reference.gpt_oss import decode_mxfp4

ROOT = "base_model.model.model.layers.{}."
ATTENTION = ROOT + "self_attn.{}_proj"
EXPERTS = "model.layers.{}.mlp.experts.{}"
GATE_UP, DOWN = (256, 64), (64, 128)  # rows and depth of the small checkpoint's experts


def _decoded(checkpoint: Checkpoint, layer: int, projection: str) -> NDArray[np.float64]:
    stem = EXPERTS.format(layer, projection)
    return decode_mxfp4(checkpoint.read(f"{stem}_blocks"), checkpoint.read(f"{stem}_scales"))


def _attention(adapter: Adapter, layer: int = 1) -> Adapter:
    for which, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
        name = f"model.layers.{layer}.self_attn.{which}_proj.weight"
        adapter.linear(ATTENTION.format(layer, which), name, rows, 64)
    return adapter


@pytest.fixture
def base(small_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(small_checkpoint)


def test_attention_router_and_head_are_changed_and_nothing_else(base: Checkpoint, tmp_path: Path) -> None:
    adapter = _attention(Adapter())
    adapter.linear(ROOT.format(0) + "mlp.router", "model.layers.0.mlp.router.weight", 4, 64)
    adapter.linear(ROOT.format(2) + "mlp.router.linear", "model.layers.2.mlp.router.weight", 4, 64)
    adapter.linear("base_model.model.lm_head", "lm_head.weight", 300, 64)
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "our adapter"))
    for name in base.specs:
        before, after = base.read(name), merged.read(name)
        if name not in adapter.added:
            np.testing.assert_array_equal(after.view(np.uint8), before.view(np.uint8), err_msg=name)
            continue
        wanted = before.astype(np.float64) + adapter.added[name]
        assert np.abs(adapter.added[name]).max() > 0.05
        np.testing.assert_allclose(after.astype(np.float64), wanted, rtol=2**-8, atol=1e-6, err_msg=name)
        rounded = wanted.astype(np.float32).astype(ml_dtypes.bfloat16)
        assert (after == rounded).mean() > 0.999, name  # float32 sums may differ at a halfway point
    converted = merged.converted()
    assert converted is not None
    assert (converted.adapter, converted.experts_from, converted.expert_errors) == ("our adapter", None, {})
    assert converted.sentences == "The LoRA adapter our adapter was merged into this model here."


def test_some_rows_are_changed_as_the_whole(base: Checkpoint, tmp_path: Path) -> None:
    adapter = Adapter()
    adapter.linear("base_model.model.lm_head", "lm_head.weight", 300, 64)
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "a"))
    np.testing.assert_array_equal(merged.read("lm_head.weight", range(7, 20)), merged.read("lm_head.weight")[7:20])


def _fused_both(adapter: Adapter, swapped: bool) -> None:
    module = ROOT.format(1) + "mlp.experts"
    adapter.fused(module, EXPERTS.format(1, "down_proj"), 4, *DOWN, swapped=swapped)
    adapter.fused(f"{module}.base_layer", EXPERTS.format(1, "gate_up_proj"), 4, *GATE_UP, swapped=swapped)


def _listed(adapter: Adapter) -> None:
    for name, rows, depth in (("gate_up_proj", *GATE_UP), ("down_proj", *DOWN)):
        for expert in (0, 3):
            module = ROOT.format(1) + f"mlp.experts.{name}s.{expert}"
            adapter.linear(module, f"{EXPERTS.format(1, name)}/{expert}", rows, depth)


def _named(adapter: Adapter) -> None:
    module = ROOT.format(1) + "mlp.experts.gate_up_proj"
    adapter.fused(module, EXPERTS.format(1, "gate_up_proj"), 4, *GATE_UP)


FORMS: dict[str, Callable[[Adapter], None]] = {
    "fused": lambda adapter: _fused_both(adapter, swapped=False),
    "fused-swapped": lambda adapter: _fused_both(adapter, swapped=True),
    "fused-named": _named,
    "listed": _listed,
}


@pytest.mark.parametrize("form", FORMS)
def test_experts_are_widened_changed_and_rounded(form: str, base: Checkpoint, tmp_path: Path) -> None:
    adapter = Adapter()
    FORMS[form](adapter)
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "a"))
    for layer in range(3):
        for projection in ("gate_up_proj", "down_proj"):
            before, after = _decoded(base, layer, projection), _decoded(merged, layer, projection)
            for expert in range(4):
                change = adapter.added.get(f"{EXPERTS.format(layer, projection)}/{expert}")
                if change is None:
                    np.testing.assert_array_equal(after[expert], before[expert])
                    continue
                wanted = decode_mxfp4(*quantise((before[expert] + change).astype(np.float32)))
                assert (after[expert] == wanted).mean() > 0.999
                assert (after[expert] == before[expert]).mean() < 0.9
    converted = merged.converted()
    assert converted is not None
    assert converted.experts_from == "MXFP4"
    assert "requantised here: the changed experts to MXFP4 again, mean relative error" in converted.sentences
    assert list(converted.expert_errors) == ["1"]
    assert 0.01 < converted.mean_error < 0.14
    sums = np.zeros(2)  # over the matrices of every projection that the adapter changes
    for projection in {name.rsplit(".", 1)[1].split("/")[0] for name in adapter.added}:
        stem = EXPERTS.format(1, projection)
        before = _decoded(base, 1, projection)
        nothing = np.zeros_like(before[0])
        added = np.stack([adapter.added.get(f"{stem}/{expert}", nothing) for expert in range(4)])
        sums += (added**2).sum(), ((before + added) ** 2).sum()
    assert converted.adapter_changes["1"] == pytest.approx((sums[0] / sums[1]) ** 0.5, rel=1e-3)
    assert converted.adapter_changes["1"] > converted.mean_error
    assert "The adapter changes these experts by" in converted.sentences
    assert "less than rounding" not in converted.sentences


def test_gate_and_up_apart_change_their_rows(base: Checkpoint, tmp_path: Path) -> None:
    adapter = Adapter()
    for half in ("gate", "up"):
        adapter.linear(ROOT.format(0) + f"mlp.experts.2.{half}_proj", half, 128, 64)
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "a"))
    before, after = _decoded(base, 0, "gate_up_proj"), _decoded(merged, 0, "gate_up_proj")
    wanted = before[2].copy()
    wanted[0::2] += adapter.added["gate"]
    wanted[1::2] += adapter.added["up"]
    assert (after[2] == decode_mxfp4(*quantise(wanted.astype(np.float32)))).mean() > 0.999
    np.testing.assert_array_equal(after[[0, 1, 3]], before[[0, 1, 3]])


def test_an_adapter_on_a_base_in_16_bits(base: Checkpoint, tmp_path: Path) -> None:
    from tests.bundler.checkpoint_forms import fused, take_apart, write_wide

    adapter = Adapter()
    FORMS["fused"](adapter)
    wide = write_wide(tmp_path / "wide", take_apart(base.directory), fused)
    written = adapter.write(tmp_path / "a")
    one, other = open_checkpoint(base.directory, written), open_checkpoint(wide, written)
    for layer in range(3):
        for projection in ("gate_up_proj", "down_proj"):
            np.testing.assert_array_equal(_decoded(one, layer, projection), _decoded(other, layer, projection))
    converted = other.converted()
    assert converted is not None
    assert {layer for layer, error in converted.expert_errors.items() if error} == {"1"}


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"use_rslora": True}, 16 / 4**0.5),
        ({"alpha_pattern": {"q_proj": 6}}, 6 / 4),
        ({"alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 6}}, 6 / 4),
        ({"alpha_pattern": {"k_proj": 6, "proj": 2}}, 16 / 4),
        ({"r": 64, "rank_pattern": {"q_proj": 4}}, 16 / 4),
        ({"r": 64, "rank_pattern": {"q_proj": 4}, "use_rslora": True}, 16 / 4**0.5),
    ],
    ids=["rslora", "alpha", "alpha-by-path", "alpha-of-another", "rank", "rank-rslora"],
)
def test_the_scaling_is_pefts(config: dict[str, Any], scaling: float, base: Checkpoint, tmp_path: Path) -> None:
    adapter, name = Adapter(), "model.layers.1.self_attn.q_proj.weight"
    adapter.linear(ATTENTION.format(1, "q"), name, 64, 64, scaling=scaling)
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "a", **config)).read(name).astype(np.float64)
    wanted = base.read(name).astype(np.float64) + adapter.added[name]
    np.testing.assert_allclose(merged, wanted, rtol=2**-8, atol=1e-6)


def _square(tmp_path: Path) -> Checkpoint:
    """A base whose down projections are square, as those of gpt-oss-20b and 120b are."""
    config = random_config(
        layers=1, hidden=64, intermediate=64, experts=2, experts_per_token=1, heads=2, kv_heads=1, head_dim=32, vocab=40
    )
    write_random_checkpoint(tmp_path / "square", config, seed=3)
    return open_checkpoint(tmp_path / "square")


@pytest.mark.parametrize("swapped", [False, True], ids=["plain", "swapped"])
def test_the_other_projection_tells_which_way_round_a_square_one_is(swapped: bool, tmp_path: Path) -> None:
    base, adapter, module = _square(tmp_path), Adapter(), ROOT.format(0) + "mlp.experts"
    adapter.fused(f"{module}.base_layer", EXPERTS.format(0, "gate_up_proj"), 2, 128, 64, swapped=swapped)
    adapter.fused(module, EXPERTS.format(0, "down_proj"), 2, 64, 64, swapped=swapped)
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "a", peft_version="0.21.2"))
    for projection in ("gate_up_proj", "down_proj"):
        before, after = _decoded(base, 0, projection), _decoded(merged, 0, projection)
        for expert in range(2):
            change = adapter.added[f"{EXPERTS.format(0, projection)}/{expert}"]
            wanted = decode_mxfp4(*quantise((before[expert] + change).astype(np.float32)))
            assert (after[expert] == wanted).mean() > 0.999


@pytest.mark.parametrize("version", [None, "0.17.1", "0.18.0.dev0"], ids=["unsaid", "old", "old-dev"])
def test_an_old_version_of_peft_never_swaps(version: str | None, tmp_path: Path) -> None:
    base, adapter = _square(tmp_path), Adapter()
    adapter.fused(ROOT.format(0) + "mlp.experts", EXPERTS.format(0, "down_proj"), 2, 64, 64)
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "a", peft_version=version))
    change = adapter.added[f"{EXPERTS.format(0, 'down_proj')}/1"]
    wanted = decode_mxfp4(*quantise((_decoded(base, 0, "down_proj")[1] + change).astype(np.float32)))
    assert (_decoded(merged, 0, "down_proj")[1] == wanted).mean() > 0.999


def test_a_square_projection_alone_of_a_new_version_is_refused(tmp_path: Path) -> None:
    base, adapter = _square(tmp_path), Adapter()
    adapter.fused(ROOT.format(0) + "mlp.experts", EXPERTS.format(0, "down_proj"), 2, 64, 64)
    with pytest.raises(CheckpointError, match="which way round") as refusal:
        open_checkpoint(base.directory, adapter.write(tmp_path / "a", peft_version="0.19.0"))
    assert "gate_up_proj" in refusal.value.expected


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "other-method": ({"peft_type": "IA3"}, '"peft_type" is "IA3"'),
    "no-method": ({"peft_type": None}, '"peft_type" is null'),
    "dora": ({"use_dora": True}, '"use_dora" is true: DoRA scales whole columns'),
    "biases": ({"bias": "lora_only"}, '"bias" is "lora_only": biases were trained, too'),
    "factor-biases": ({"lora_bias": True}, '"lora_bias" is true: the factors have biases'),
    "modules-to-save": ({"modules_to_save": ["embed_tokens"]}, "these modules were trained whole"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "this initialisation changed the base model"),
    "loftq": ({"init_lora_weights": "loftq"}, "this initialisation changed the base model"),
    "loftq-config": ({"loftq_config": {"loftq_bits": 4}}, '"loftq_config" is'),
    "token-indices": ({"trainable_token_indices": [200019]}, "rows of the embedding were trained"),
    "replication": ({"layer_replication": [[0, 2], [1, 3]]}, "it repeats layers"),
    "activated": ({"alora_invocation_tokens": [1, 2]}, "in force after certain tokens only"),
    "unknown": ({"use_wavelets": True}, '"use_wavelets" is true: this version does not know what it means'),
    "rank-differs": ({"r": 8}, "has rank 4, adapter_config.json says 8"),
    "no-rank": ({"r": None}, '"r" must be a whole number'),
    "alpha-zero": ({"lora_alpha": 0}, '"lora_alpha" must be a number greater than 0'),
    "pattern": ({"alpha_pattern": {"q_proj(": 4}}, "a pattern in it is none"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_cannot_be_merged_is_refused(case: str, base: Checkpoint, tmp_path: Path) -> None:
    config, fault = CONFIGS[case]
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(base.directory, _attention(Adapter()).write(tmp_path / "a", **config))
    assert fault in refusal.value.fault


def test_harmless_fields_are_left_alone(base: Checkpoint, tmp_path: Path) -> None:
    config = {
        "init_lora_weights": True, "lora_dropout": 0.05, "target_modules": ["q_proj"], "inference_mode": True,
        "target_parameters": ["mlp.experts.gate_up_proj"], "loftq_config": {}, "eva_config": None, "revision": None,
        "layers_to_transform": [1], "megatron_core": "megatron.core", "qalora_group_size": 16, "use_qalora": False,
        "auto_mapping": {"base_model_class": "GptOssForCausalLM"}, "peft_version": "0.21.2", "use_dora": False,
    }  # fmt: skip
    open_checkpoint(base.directory, _attention(Adapter()).write(tmp_path / "a", **config))


Q = ATTENTION.format(1, "q")


def _experts_twice(adapter: Adapter) -> None:
    for more in ("", ".base_layer"):
        adapter.fused(ROOT.format(1) + f"mlp.experts{more}", "x", 4, *GATE_UP)


TENSORS: dict[str, tuple[Callable[[Adapter], object], str]] = {
    "none": (lambda a: a.tensors.clear(), "holds no tensor"),
    "dora": (lambda a: a.tensors.update({f"{Q}.lora_magnitude_vector": a.factor(64)}), "DoRA scales whole columns"),
    "embedding": (
        lambda a: a.tensors.update({"base_model.model.model.embed_tokens.lora_embedding_A": a.factor(4, 300)}),
        "it changes the embedding",
    ),
    "embedding-linear": (
        lambda a: a.linear("base_model.model.model.embed_tokens", "x", 300, 64), "embed_tokens is not a matrix",
    ),
    "whole-module": (
        lambda a: a.tensors.update({"base_model.model.lm_head.modules_to_save.weight": a.factor(300, 64)}),
        "a module was trained whole",
    ),
    "plain-weight": (
        lambda a: a.tensors.update({"base_model.model.lm_head.weight": a.factor(300, 64)}), "cannot be merged",
    ),
    "copy-of-the-base": (
        lambda a: a.tensors.update({"base_model.model.lm_head.base_layer.weight": a.factor(300, 64)}),
        "a copy of a whole matrix of the base",
    ),
    "factor-bias": (lambda a: a.tensors.update({f"{Q}.lora_B.bias": a.factor(64)}), "biases were trained, too"),
    "half-a-pair": (lambda a: a.tensors.pop(f"{Q}.lora_B.weight"), "has no matching pair of factors"),
    "ranks-differ": (lambda a: a.tensors.update({f"{Q}.lora_B.weight": a.factor(64, 5)}), "no matching pair"),
    "empty-factor": (lambda a: a.tensors.update({f"{Q}.lora_A.weight": a.factor(0, 64)}), "F32 [0, 64]"),
    "flat-factor": (lambda a: a.tensors.update({f"{Q}.lora_A.weight": a.factor(256)}), "F32 [256]"),
    "integers": (lambda a: a.tensors.update({f"{Q}.lora_A.weight": np.zeros((4, 64), np.int8)}), "I8 [4, 64]"),
    "another-base": (lambda a: a.linear(Q, "x", 128, 64), "maps 64 numbers to 128"),
    "layer-beyond": (lambda a: a.linear(ATTENTION.format(3, "q"), "x", 64, 64), "is not a matrix of this model"),
    "norm": (lambda a: a.linear(ROOT.format(1) + "input_layernorm", "x", 64, 64), "is not a matrix of this model"),
    "expert-beyond": (
        lambda a: a.linear(ROOT.format(1) + "mlp.experts.down_projs.4", "x", *DOWN), "is not a matrix of this model",
    ),
    "experts-of-another": (
        lambda a: a.fused(ROOT.format(1) + "mlp.experts", "x", 3, *GATE_UP), "has rank 3, adapter_config.json says 4",
    ),
    "width-of-another": (
        lambda a: a.fused(ROOT.format(1) + "mlp.experts", "x", 4, 256, 32), "has factors F32 [16, 32] and F32",
    ),
    "experts-twice": (_experts_twice, "has factors for gate_up_proj twice"),
    "two-adapters": (
        lambda a: a.tensors.update({f"{Q}.lora_{f}.second.weight": a.tensors[f"{Q}.lora_{f}.weight"] for f in "AB"}),
        "holds several adapters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_cannot_be_merged_are_refused(case: str, base: Checkpoint, tmp_path: Path) -> None:
    change, fault = TENSORS[case]
    adapter = _attention(Adapter())
    change(adapter)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(base.directory, adapter.write(tmp_path / "a"))
    assert fault in refusal.value.fault


def test_factors_that_are_no_numbers_are_refused(base: Checkpoint, tmp_path: Path) -> None:
    adapter = _attention(Adapter())
    adapter.tensors[f"{Q}.lora_A.weight"][0, 0] = np.nan
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="holds an infinity or NaN"):
        merged.read("model.layers.1.self_attn.q_proj.weight")


def test_a_sum_that_becomes_infinite_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    adapter = Adapter()
    FORMS["listed"](adapter)
    for name in adapter.tensors:
        adapter.tensors[name] = np.full_like(adapter.tensors[name], 1e20)
    merged = open_checkpoint(base.directory, adapter.write(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="of layer 1 becomes infinite"):
        merged.read(f"{EXPERTS.format(1, 'gate_up_proj')}_blocks")


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (_empty, "holds no adapter_config.json"),
    "no-tensors": (lambda d: (d / "adapter_model.safetensors").unlink(), "no such file"),
    "pickle": (
        lambda d: (d / "adapter_model.safetensors").rename(d / "adapter_model.bin").write_bytes(pickle.dumps(1)),
        "is a Python pickle, which is never opened",
    ),
    "lfs": (
        lambda d: (d / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"),
        "is a Git LFS pointer",
    ),
    "truncated": (
        lambda d: (d / "adapter_model.safetensors").write_bytes((d / "adapter_model.safetensors").read_bytes()[:-1]),
        "truncated or corrupt",
    ),
    "no-json": (lambda d: (d / "adapter_config.json").write_text("{"), "not readable as JSON"),
    "list": (lambda d: (d / "adapter_config.json").write_text("[]"), "not a JSON object"),
    "whole-checkpoint": (
        lambda d: (d / "adapter_config.json").rename(d / "config.json"), "is a whole checkpoint and no adapter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_adapter_is_refused(case: str, base: Checkpoint, tmp_path: Path) -> None:
    change, fault = FILES[case]
    directory = _attention(Adapter()).write(tmp_path / "a")
    change(directory)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(base.directory, directory)
    assert fault in refusal.value.fault


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"GGUF" + bytes(20), "is a GGUF file"),
        (b"PK\x03\x04", "is a zip"),
        (b"x", "is a file"),
        (None, "does not exist"),
    ],
    ids=["gguf", "zip", "file", "absent"],
)
def test_what_is_no_directory_is_refused(data: bytes | None, fault: str, base: Checkpoint, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "adapter").write_bytes(data)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(base.directory, tmp_path / "adapter")
    assert fault in refusal.value.fault


def test_the_directorys_name_cannot_forge_a_line(base: Checkpoint, tmp_path: Path) -> None:
    directory = _attention(Adapter()).write(tmp_path / "good\n\x1b[2J\udcffverified")
    assert open_checkpoint(base.directory, directory).converted().adapter == "good??[2J?verified"  # type: ignore[union-attr]


def test_names_with_the_adapters_name_are_understood(base: Checkpoint, tmp_path: Path) -> None:
    directory = _attention(Adapter()).write(tmp_path / "a")
    tensors = load_file(directory / "adapter_model.safetensors")
    renamed = {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()}
    other = tmp_path / "b"
    other.mkdir()
    save_file(renamed, other / "adapter_model.safetensors")
    (other / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 16}))
    one, two = open_checkpoint(base.directory, directory), open_checkpoint(base.directory, other)
    for name in one.specs:
        assert one.read(name).tobytes() == two.read(name).tobytes()
