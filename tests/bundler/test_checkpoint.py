"""The checkpoint reader: sizes from config.json, every header checked, every fault named."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bundler.checkpoint import CONFIG, open_checkpoint
from bundler.checkpoint_writer import write_checkpoint
from bundler.checkpoints import files
from bundler.checkpoints.files import INDEX, SINGLE
from bundler.errors import CheckpointError, ExportError
from bundler.random_checkpoint import random_config, random_tensors, write_random_checkpoint

Tensors = dict[str, NDArray[Any]]

ROUTER = "model.layers.1.mlp.router.weight"
BLOCKS = "model.layers.0.mlp.experts.down_proj_blocks"
SCALES = "model.layers.0.mlp.experts.down_proj_scales"


@pytest.fixture
def checkpoint(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy in one file, to be damaged."""
    return shutil.copytree(small_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint in several shards, to be damaged."""
    config = random_config(
        layers=2, hidden=32, intermediate=32, experts=2, experts_per_token=1, heads=2, kv_heads=1, head_dim=16, vocab=40
    )
    write_random_checkpoint(tmp_path / "sharded", config, seed=5, max_shard_bytes=8000)
    return tmp_path / "sharded"


def test_reads_back_what_was_written(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    config = json.loads((checkpoint / CONFIG).read_bytes())
    written = dict(random_tensors(config, seed=1))
    assert list(written) == list(opened.specs)
    for name, tensor in written.items():
        read = opened.read(name)
        assert read.dtype == tensor.dtype
        np.testing.assert_array_equal(read.view(np.uint8), tensor.view(np.uint8), err_msg=name)
    assert opened.config_bytes == (checkpoint / CONFIG).read_bytes()


def test_reads_some_rows(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    np.testing.assert_array_equal(opened.read("lm_head.weight", range(7, 20)), opened.read("lm_head.weight")[7:20])


def test_shards_hold_the_same_as_one_file(sharded: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in sharded.iterdir())
    shards = [name for name in names if name.startswith("model-")]
    assert names == [CONFIG, *shards, INDEX]
    assert len(shards) > 2
    config = json.loads((sharded / CONFIG).read_bytes())
    write_random_checkpoint(tmp_path / "single", config, seed=5)
    one, many = open_checkpoint(tmp_path / "single"), open_checkpoint(sharded)
    assert [one.read(n).tobytes() for n in one.specs] == [many.read(n).tobytes() for n in many.specs]


def test_opening_needs_no_other_module_to_know_bfloat16(checkpoint: Path) -> None:
    program = (
        "import sys, pathlib, bundler.checkpoint as c; "
        "print(c.open_checkpoint(pathlib.Path(sys.argv[1])).read('model.norm.weight').dtype)"
    )
    done = subprocess.run([sys.executable, "-c", program, checkpoint], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "bfloat16"


def test_every_size_comes_from_the_configuration(tmp_path: Path) -> None:
    config = random_config(
        layers=1, hidden=96, intermediate=160, experts=5, experts_per_token=3,
        heads=6, kv_heads=3, head_dim=24, vocab=77,
    )  # fmt: skip
    write_random_checkpoint(tmp_path / "c", config, seed=0)
    specs = open_checkpoint(tmp_path / "c").specs
    assert specs["model.layers.0.self_attn.q_proj.weight"].shape == (144, 96)
    assert specs["model.layers.0.self_attn.k_proj.bias"].shape == (72,)
    assert specs["model.layers.0.mlp.experts.gate_up_proj_blocks"].shape == (5, 320, 3, 16)
    assert specs["model.layers.0.mlp.experts.down_proj_scales"].shape == (5, 96, 5)


def test_published_20b_configuration_gives_the_published_layout() -> None:
    from bundler.layout import expected_tensors
    from bundler.model_config import parse_model_config

    config = random_config(
        layers=24, hidden=2880, intermediate=2880, experts=32, experts_per_token=4,
        heads=64, kv_heads=8, head_dim=64, vocab=201088,
    )  # fmt: skip
    specs = expected_tensors(parse_model_config(config))
    assert len(specs) == 459
    assert specs["model.layers.23.mlp.experts.gate_up_proj_blocks"].shape == (32, 5760, 90, 16)
    assert specs["model.layers.23.mlp.experts.down_proj_scales"].shape == (32, 2880, 90)
    assert sum(spec.size_bytes for spec in specs.values()) == 13_761_264_768  # metadata.total_size as published


def _set(field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        *path, last = field.split(".")
        for part in path:
            config = config[part]
        if value is None:
            del config[last]
        else:
            config[last] = value

    return change


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model_type", "llama", '"gpt_oss"'),
        ("model_type", None, '"gpt_oss"'),
        ("hidden_act", "gelu", '"silu"'),
        ("attention_bias", False, "true"),
        ("tie_word_embeddings", True, "false"),
        ("num_hidden_layers", 0, "a whole number of at least 1"),
        ("num_hidden_layers", "3", "a whole number of at least 1"),
        ("num_hidden_layers", True, "a whole number of at least 1"),
        ("hidden_size", None, "a whole number of at least 1"),
        ("hidden_size", 65, "a multiple of 32"),
        ("intermediate_size", 97, "a multiple of 32"),
        ("num_attention_heads", 5, "a multiple of num_key_value_heads"),
        ("head_dim", 12, "a multiple of 8"),
        ("num_experts_per_tok", 5, "at most num_local_experts"),
        ("vocab_size", -1, "a whole number of at least 1"),
        ("max_position_embeddings", 131073, "at most rope_scaling.factor times"),
        ("layer_types", ["sliding_attention"], "3 times"),
        ("layer_types", ["sliding_attention", "chunked", "full_attention"], "3 times"),
        ("sliding_window", None, "a whole number of at least 1"),
        ("swiglu_alpha", 1.5, "1.702"),
        ("swiglu_limit", -7, "a number greater than 0"),
        ("rms_norm_eps", "1e-5", "a number greater than 0"),
        ("rope_theta", 0, "a number greater than 0"),
        ("rope_scaling", None, "an object"),
        ("rope_scaling", 7, "an object"),
        ("rope_theta", 10**400, "a number greater than 0"),
        ("rope_scaling.rope_type", "linear", '"yarn"'),
        ("rope_scaling.factor", 0.5, "a number of at least 1"),
        ("rope_scaling.original_max_position_embeddings", 4096.5, "a whole number"),
        ("rope_scaling.beta_fast", False, "a number greater than 0"),
        ("rope_scaling.truncate", 0, "true or false"),
        ("rope_scaling.mscale", 1.0, "none but"),
    ],
)
def test_names_the_field_at_fault(checkpoint: Path, field: str, value: Any, expected: str) -> None:
    config = json.loads((checkpoint / CONFIG).read_bytes())
    _set(field, value)(config)
    (checkpoint / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(checkpoint)
    assert refusal.value.path == checkpoint / CONFIG
    assert field in refusal.value.fault
    assert expected in refusal.value.expected


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_refuses_a_configuration_that_is_no_json_object(checkpoint: Path, text: bytes) -> None:
    (checkpoint / CONFIG).write_bytes(text)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(checkpoint)
    assert refusal.value.path == checkpoint / CONFIG


def _rewrite(path: Path, change: Callable[[Tensors], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _transpose(tensors: Tensors) -> None:
    tensors[ROUTER] = np.ascontiguousarray(tensors[ROUTER].T)


@pytest.mark.parametrize(
    ("change", "fault", "expected"),
    [
        (lambda t: t.pop(ROUTER), f"{ROUTER} is missing", "BF16 [4, 64]"),
        (_transpose, f"{ROUTER} is BF16 [64, 4]", "BF16 [4, 64]"),
        (
            lambda t: t.update({BLOCKS: t[BLOCKS].view(np.uint16)}),
            f"{BLOCKS} is U16 [4, 64, 4, 8]",
            "U8 [4, 64, 4, 16]",
        ),
        (
            lambda t: t.update(extra=t[ROUTER]),
            "extra is not a tensor of this model",
            "the 60 tensors that config.json speaks of, or the config.json of these weights",
        ),
    ],
)
def test_names_the_tensor_at_fault(
    checkpoint: Path, change: Callable[[Tensors], None], fault: str, expected: str
) -> None:
    _rewrite(checkpoint / SINGLE, change)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(checkpoint)
    assert (refusal.value.path, refusal.value.fault) == (checkpoint / SINGLE, fault)
    assert refusal.value.expected == expected
    assert str(refusal.value) == f"{checkpoint / SINGLE}: {fault}; expected {expected}"


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_refuses_a_truncated_file(checkpoint: Path, keep: int) -> None:
    data = (checkpoint / SINGLE).read_bytes()
    (checkpoint / SINGLE).write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=r"truncated or corrupt .*download it again") as refusal:
        open_checkpoint(checkpoint)
    assert refusal.value.path == checkpoint / SINGLE


def test_refuses_a_truncated_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"truncated or corrupt .*download it again") as refusal:
        open_checkpoint(sharded)
    assert refusal.value.path == shard


def test_refuses_trailing_bytes(checkpoint: Path) -> None:
    with (checkpoint / SINGLE).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match=r"truncated or corrupt .*download it again"):
        open_checkpoint(checkpoint)


def test_refuses_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(tmp_path)
    assert (refusal.value.path, refusal.value.fault) == (tmp_path, "is empty")


def test_refuses_a_checkpoint_without_weights(checkpoint: Path) -> None:
    (checkpoint / SINGLE).unlink()
    with pytest.raises(CheckpointError, match="no such file") as refusal:
        open_checkpoint(checkpoint)
    assert refusal.value.path == checkpoint / SINGLE


def _edit_index(sharded: Path, change: Callable[[dict[str, str]], None]) -> None:
    index = json.loads((sharded / INDEX).read_bytes())
    change(index["weight_map"])
    (sharded / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("shard", "fault"),
    [
        ("model-00009-of-00009.safetensors", "which is absent"),
        ("../sharded/config.json", "is said to be in '../sharded/config.json'"),
        ("/etc/passwd", "is said to be in '/etc/passwd'"),
    ],
)
def test_refuses_an_index_that_names_no_shard_of_the_directory(sharded: Path, shard: str, fault: str) -> None:
    _edit_index(sharded, lambda weight_map: weight_map.update({ROUTER: shard}))
    with pytest.raises(CheckpointError, match=fault) as refusal:
        open_checkpoint(sharded)
    assert refusal.value.path == sharded / INDEX


def test_refuses_an_index_that_omits_a_tensor(sharded: Path) -> None:
    _edit_index(sharded, lambda weight_map: weight_map.__delitem__(ROUTER))
    with pytest.raises(CheckpointError, match=f"holds {ROUTER}, which the index does not place there"):
        open_checkpoint(sharded)


def test_refuses_an_index_that_misplaces_a_tensor(sharded: Path) -> None:
    other = sorted(path.name for path in sharded.glob("model-*"))[0]
    _edit_index(sharded, lambda weight_map: weight_map.update({ROUTER: other}))
    with pytest.raises(CheckpointError, match=f"holds {ROUTER}, which the index does not place there"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}'])
def test_refuses_an_unreadable_index(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="unreadable") as refusal:
        open_checkpoint(sharded)
    assert refusal.value.path == sharded / INDEX


def _plant(name: str, value: Any) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1)[-1] = value

    return change


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        (SCALES, 255, "holds the scale 255"),
        (ROUTER, np.nan, "holds an infinity or NaN"),
        (ROUTER, -np.inf, "holds an infinity or NaN"),
    ],
)
def test_refuses_to_read_what_is_no_number(checkpoint: Path, name: str, value: float, fault: str) -> None:
    _rewrite(checkpoint / SINGLE, _plant(name, value))
    with pytest.raises(CheckpointError, match=fault):
        open_checkpoint(checkpoint).read(name)


def test_largest_finite_numbers_are_read(checkpoint: Path) -> None:
    _rewrite(checkpoint / SINGLE, _plant(ROUTER, 3.3895e38))
    _rewrite(checkpoint / SINGLE, _plant(SCALES, 254))
    opened = open_checkpoint(checkpoint)
    assert opened.read(SCALES).reshape(-1)[-1] == 254
    assert opened.read(ROUTER).reshape(-1)[-1] > 3e38


def test_a_shard_that_vanishes_after_opening_is_named(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    (checkpoint / SINGLE).unlink()
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight cannot be read"):
        opened.read("model.norm.weight")


def test_a_shard_that_changes_after_opening_is_named(checkpoint: Path) -> None:
    """Its header may say other places now."""
    opened = open_checkpoint(checkpoint)
    assert opened.read("model.norm.weight").size
    data = (checkpoint / SINGLE).read_bytes()
    (checkpoint / SINGLE).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(checkpoint / SINGLE, (5, 5))
    with pytest.raises(CheckpointError, match="changed while it was read") as refusal:
        opened.read("model.norm.weight")
    assert refusal.value.path == checkpoint / SINGLE


def test_rows_of_a_tensor_are_those_that_the_library_reads(sharded: Path) -> None:
    opened, seen = open_checkpoint(sharded), 0
    for shard in sharded.glob("model-*"):
        for name, tensor in load_file(shard).items():
            assert np.array_equal(opened.read(name).view(np.uint8), tensor.view(np.uint8)), name
            some = range(1, len(tensor) - 1)
            assert np.array_equal(opened.read(name, some).view(np.uint8), tensor[1:-1].view(np.uint8)), name
            seen += 1
    assert seen == len(opened.specs)


def test_a_header_is_read_once_however_many_pieces_are(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path, **options: Any) -> Any:
        read.append(path)
        return safe_open(path, **options)

    monkeypatch.setattr(files, "safe_open", counted)
    opened = open_checkpoint(sharded)
    for name, spec in opened.specs.items():
        for row in range(min(3, spec.shape[0])):
            opened.read(name, range(row, row + 1))
    assert sorted(read) == sorted(sharded.glob("model-*"))


@pytest.mark.parametrize(
    "header",
    [b"[]", b'{"a": 1}', b'{"a": {}}', b'{"a": {"data_offsets": []}}', b'{"a": ', b"\xff" * 9, b"[" * 100_000],
    ids=["list", "number", "no offsets", "empty offsets", "half", "no text", "deep"],
)
def test_refuses_a_header_that_names_no_places(checkpoint: Path, header: bytes) -> None:
    (checkpoint / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        open_checkpoint(checkpoint)


def test_writing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def tensors() -> Any:
        yield "a", np.zeros(10, np.uint8)
        yield "b", np.zeros(10, np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "c", {}, tensors(), max_shard_bytes=10)
    assert list((tmp_path / "c").iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(ExportError, match="the checkpoint could not be written"):
            write_checkpoint(tmp_path / "c", {}, [("a", np.zeros(50_000, np.uint8))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "c").iterdir()) == []
