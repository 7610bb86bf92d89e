"""What people give by mistake is refused in words that say what it is and what to give instead; nothing is run."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bundler.checkpoint import open_checkpoint
from bundler.checkpoints.files import INDEX, SINGLE
from bundler.errors import CheckpointError
from bundler.random_checkpoint import random_config, write_random_checkpoint

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 4792272488\n"
HTML = b"\n<!DOCTYPE html>\n<html><title>Sign in</title>"
GGUF = b"GGUF\x03\0\0\0" + bytes(64)


class _Bomb:
    """A pickle that leaves a file if anybody opens it."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("pickle-was-run",)


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Bomb()))
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return stream.getvalue()


CONTENTS = {
    "lfs": (LFS, "Git LFS pointer", "git lfs pull"),
    "gguf": (GGUF, "a GGUF file of llama.cpp", "that it was converted from"),
    "html": (HTML, "a web page", "download it again"),
    "zip": (_zip(), "a zip (or a PyTorch file", "unpacked"),
    "pickle": (pickle.dumps(_Bomb()), "a Python pickle, which is never opened", "safetensors"),
    "gzip": (gzip.compress(b"weights"), "a compressed file", "unpacked"),
    "tar": (_tar(), "a tar archive", "unpacked"),
    "zeros": (bytes(4096), "full of zeros", "download it again"),
}


@pytest.fixture
def checkpoint(small_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_checkpoint, tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def _nothing_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "pickle-was-run").exists()


def _refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_in_place_of_the_weights(content: str, checkpoint: Path) -> None:
    data, fault, instead = CONTENTS[content]
    (checkpoint / SINGLE).write_bytes(data)
    refusal = _refusal(checkpoint)
    assert refusal.path == checkpoint / SINGLE
    assert fault in refusal.fault
    assert instead in refusal.expected


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_in_place_of_a_shard(content: str, tmp_path: Path) -> None:
    config = random_config(
        layers=2, hidden=32, intermediate=32, experts=2, experts_per_token=1, heads=2, kv_heads=1, head_dim=16, vocab=40
    )
    write_random_checkpoint(tmp_path / "sharded", config, seed=5, max_shard_bytes=8000)
    shard = sorted((tmp_path / "sharded").glob("model-*"))[1]
    shard.write_bytes(CONTENTS[content][0])
    refusal = _refusal(tmp_path / "sharded")
    assert refusal.path == shard
    assert CONTENTS[content][1] in refusal.fault


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_in_place_of_the_directory(content: str, tmp_path: Path) -> None:
    data, fault, _ = CONTENTS[content]
    (tmp_path / "gpt-oss-20b.bin").write_bytes(data)
    assert fault in _refusal(tmp_path / "gpt-oss-20b.bin").fault


def test_a_file_in_place_of_the_index(checkpoint: Path) -> None:
    (checkpoint / SINGLE).unlink()
    (checkpoint / INDEX).write_bytes(LFS)
    assert "Git LFS pointer" in _refusal(checkpoint).fault


def test_one_file_of_a_checkpoint(checkpoint: Path) -> None:
    assert _refusal(checkpoint / SINGLE).fault == "is one file of a checkpoint"


def test_nothing(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "absent").fault == "does not exist"


def _files(*names: str) -> Callable[[Path], object]:
    def make(directory: Path) -> None:
        for name in names:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{}")

    return make


DIRECTORIES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "gguf": (_files("gpt-oss-20b-MXFP4.gguf"), "holds GGUF files of llama.cpp", "that they were converted from"),
    "adapter": (
        _files("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"),
        "is a LoRA adapter without its base", "with --adapter",
    ),
    "adapter-with-config": (
        _files("config.json", "adapter_config.json", "adapter_model.safetensors"),
        "is a LoRA adapter without its base", "with --adapter",
    ),
    "adapter-beside-weights": (
        _files("config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"),
        "holds a checkpoint and an adapter", "in a directory of its own",
    ),
    "pickles": (_files("config.json", "pytorch_model.bin"), "Python pickles, which are never opened", "safetensors"),
    "pth": (_files("config.json", "consolidated.00.pth"), "Python pickles, which are never opened", "safetensors"),
    "fsdp": (
        _files("config.json", "optimizer.pt", "pytorch_model_fsdp_0/.metadata"),
        "the shards of a training run", "merge the shards",
    ),
    "deepspeed": (_files("config.json", "global_step100/rank_00.pt"), "the shards of a training run", "merge"),
    "cache": (
        _files("refs/main", "snapshots/6cee5e8/config.json", "blobs/0123"),
        "is a Hugging Face cache", "snapshots/6cee5e8",
    ),
    "empty-cache": (_files("refs/main", "snapshots/x", "blobs/0123"), "is a Hugging Face cache", "snapshot"),
    "original": (
        _files("config.json", "dtypes.json", "model--00001-of-00007.safetensors"),
        "is OpenAI's own layout", "the directory above it",
    ),
    "original-alone": (_files("original/config.json"), "holds only OpenAI's own layout", "the Hugging Face layout"),
    "metal": (_files("model.bin"), "OpenAI's layout for Apple GPUs", "the directory above it"),
    "metal-alone": (_files("metal/model.bin"), "OpenAI's layout for Apple GPUs", "the directory above it"),
    "mlx-npz": (_files("config.json", "weights.npz"), "holds NumPy files", "safetensors"),
    "adapter-without-config": (
        _files("adapter_model.safetensors"), "is a LoRA adapter without its base, and without adapter_config.json",
        "the whole directory that PEFT wrote",
    ),
    "empty": (_files(), "is empty", "a directory with config.json"),
    "readme-alone": (_files("README.md", ".gitattributes"), "holds no config.json", "a directory with config.json"),
    "one-above": (_files("gpt-oss-20b/config.json", "README.md"), "holds no config.json", "the checkpoint in it"),
    "shards-without-index": (
        _files("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        "is missing, and 2 shards lie there", "download it again",
    ),
    "half-a-download": (
        _files("config.json", "model.safetensors.incomplete"), "is a download that has not ended", "download it again",
    ),
    "another-name": (
        _files("config.json", "weights.safetensors"), "is weights under another name", "the name model.safetensors",
    ),
    "weights-are-a-directory": (_files("config.json", "model.safetensors/x"), "is a directory", "the file of weights"),
    "zip": (_files("gpt-oss-20b.zip"), "an archive that is not unpacked", "the directory with its contents"),
    "onnx": (_files("model.onnx", "config.json"), "for another framework", "safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", DIRECTORIES)
def test_a_directory_with_something_else(case: str, tmp_path: Path) -> None:
    make, fault, instead = DIRECTORIES[case]
    directory = tmp_path / "given"
    directory.mkdir()
    make(directory)
    if (directory / "config.json").exists():
        config = random_config(
            layers=2, hidden=32, intermediate=32, experts=2, experts_per_token=1, heads=2, kv_heads=1, head_dim=16,
            vocab=40,
        )  # fmt: skip
        (directory / "config.json").write_text(json.dumps(config))
    refusal = _refusal(directory)
    assert fault in refusal.fault
    assert instead in refusal.expected


def test_a_cache_copied_without_its_blobs(checkpoint: Path) -> None:
    (checkpoint / SINGLE).unlink()
    (checkpoint / SINGLE).symlink_to("../../blobs/0123abcd")
    refusal = _refusal(checkpoint)
    assert "is a link to ../../blobs/0123abcd, which is absent" in refusal.fault
    assert "cp -rL" in refusal.expected


def test_a_snapshot_of_a_cache_is_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--openai--gpt-oss-20b"
    for part in ("blobs", "refs", "snapshots/6cee5e8"):
        (cache / part).mkdir(parents=True)
    for number, path in enumerate(sorted(checkpoint.iterdir())):
        path.rename(cache / "blobs" / str(number))
        (cache / "snapshots/6cee5e8" / path.name).symlink_to(f"../../blobs/{number}")
    assert open_checkpoint(cache / "snapshots/6cee5e8").converted() is None


def test_a_whole_repository_is_a_checkpoint(checkpoint: Path) -> None:
    _files("original/config.json", "original/dtypes.json", "metal/model.bin", "README.md", "training_args.bin")(
        checkpoint
    )
    assert open_checkpoint(checkpoint).converted() is None


def test_an_index_of_another_checkpoint_beside_the_weights(checkpoint: Path) -> None:
    weight_map = {"model.norm.weight": "model-00001-of-00002.safetensors"}
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refusal = _refusal(checkpoint)
    assert refusal.path == checkpoint / INDEX
    assert f"names other files than {SINGLE}" in refusal.fault
    assert "delete it" in refusal.expected


def test_an_index_that_promises_a_tensor_that_moved(checkpoint: Path) -> None:
    names = [*open_checkpoint(checkpoint).specs, "model.layers.3.self_attn.sinks"]
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, SINGLE)}))
    refusal = _refusal(checkpoint)
    assert "model.layers.3.self_attn.sinks is missing, though the index places it there" in refusal.fault
    assert "the index of this very checkpoint" in refusal.expected


Tensors = dict[str, NDArray[Any]]
Q_PROJ, GATE_UP = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.experts.gate_up_proj"
ONE = np.zeros((4, 64), np.float32)


def _as(name: str, dtype: Any) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: tensors[name].astype(dtype)}


def _with(name: str, tensor: NDArray[Any]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: tensor}


def _renamed(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str, str]] = {
    "fp8": (_as(Q_PROJ, ml_dtypes.float8_e4m3fn), "weights quantised in FP8", "the checkpoint that this one was"),
    "fp8-e5m2": (_as(Q_PROJ, ml_dtypes.float8_e5m2), "weights quantised in FP8", "the checkpoint that this one was"),
    "float64": (_as(Q_PROJ, np.float64), "numbers of 64 bits", "the checkpoint saved in bfloat16"),
    "int8": (_as(Q_PROJ, np.int8), "whole numbers, as another quantisation", "the checkpoint that this one was"),
    "both-forms": (
        _with(GATE_UP, np.zeros((4, 64, 256), np.float32)),
        "the experts of layer 0, gate_up_proj, are there twice", "one of the two",
    ),
    "classifier": (_with("score.weight", ONE), "a head that classifies or rates", "a checkpoint that answers"),
    "value-head": (_with("v_head.summary.weight", ONE), "a head that classifies or rates", "without that head"),
    "more-layers": (
        _with("model.layers.3.mlp.router.weight", ONE),
        "is not a tensor of this model", "the config.json of these weights",
    ),
    "twice": (
        _with("module.model.norm.weight", np.zeros(64, np.float32)), "both mean model.norm.weight", "one of them",
    ),
    "unknown-wrapper": (
        _renamed(lambda name: f"state_dict.{name}"), "holds no tensor of gpt-oss's names; one is called state_dict.",
        "names such as model.embed_tokens.weight",
    ),
    "openai-names": (
        lambda _: {"block.0.attn.qkv.weight": ONE, "unembedding.weight": ONE},
        "is named as in OpenAI's own layout", "the directory above it",
    ),
    "nothing": (lambda _: {}, "holds no tensor", "names such as model.embed_tokens.weight"),
    "no-head": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"},
        "lm_head.weight is missing", "BF16 [300, 64]",
    ),
    "a-scalar": (_with("model.norm.weight", np.array(1, np.float32)), "model.norm.weight is F32 []", "BF16 [64]"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_other_tensors_are_called_what_they_are(case: str, checkpoint: Path) -> None:
    change, fault, instead = TENSORS[case]
    save_file(change(load_file(checkpoint / SINGLE)), checkpoint / SINGLE)
    refusal = _refusal(checkpoint)
    assert fault in refusal.fault
    assert instead in refusal.expected


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_json_that_is_no_index(text: str, checkpoint: Path) -> None:
    (checkpoint / INDEX).write_text(text)
    refusal = _refusal(checkpoint)
    assert refusal.fault == "is no index of tensors"
    assert "fetch it again" in refusal.expected
