"""Says what somebody gave the bundler instead of a checkpoint, and what to give instead.

Nothing here opens a format that it does not need: a file is told by its first bytes, a directory by its names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bundler.errors import CheckpointError

_HEAD_BYTES: Final = 512
_TAR_MAGIC_AT: Final = 257
_WEIGHTS: Final = "the safetensors files of the checkpoint"
_DIRECTORY: Final = "a directory with config.json and safetensors files, as published on Hugging Face"
_UNQUANTISED: Final = "MXFP4 as published, or 16 bits: give the checkpoint that this one was quantised from"
_TRAINING: Final = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
_UNFINISHED: Final = (".incomplete", ".part", ".crdownload", ".aria2", ".tmp", ".download")
_HEADS: Final = {"score", "classifier", "v_head", "value_head", "reward_head"}
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt")


def given_name(directory: Path) -> str:
    """What people call a directory: its name, or that of the repository if it is a snapshot of a Hugging Face cache."""
    path = directory.resolve()
    cache = path.parent.parent.name if path.parent.name == "snapshots" else ""
    return cache.rpartition("--")[2] if cache.startswith("models--") else path.name


def refuse_by_content(path: Path) -> None:
    """Refuse a file that could not be read as what it should be, if it begins like something else.

    Raises:
        CheckpointError: it does; the error says what it is.
    """
    if path.is_symlink() and not path.exists():
        fault = f"is a link to {path.readlink()}, which is absent: the cache was copied without its blobs"
        raise CheckpointError(path, fault, "the file itself: copy with `cp -rL`")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return  # absent, a directory or unreadable: the caller says so
    for is_one, what, instead in _CONTENTS:
        if is_one(head):
            raise CheckpointError(path, f"is {what}", instead)


def refuse_by_names(directory: Path) -> None:
    """Refuse a path that is no checkpoint directory.

    Raises:
        CheckpointError: it is none; the error says what it is.
    """
    if not directory.is_dir():
        is_weights = directory.is_file() and directory.suffix == ".safetensors"
        if not is_weights:  # the length that such a file begins with may look like another format
            refuse_by_content(directory)
        fault = "is one file of a checkpoint" if is_weights else "is a file" if directory.exists() else "does not exist"
        raise CheckpointError(directory, fault, _DIRECTORY)
    names = {path.name for path in directory.iterdir()}
    weights = any(name.endswith(".safetensors") and not name.startswith("adapter_") for name in names)
    for is_one, what, instead in _DIRECTORIES:
        if is_one(names, weights):
            raise CheckpointError(directory, what, instead(directory) if callable(instead) else instead)


def refuse_without_weights(directory: Path, single: str, index: str) -> None:
    """Refuse a directory that has neither the one file of weights nor the index of several.

    Raises:
        CheckpointError: always; the error says what lies there instead.
    """
    path = directory / single
    if path.is_dir():
        raise CheckpointError(path, "is a directory", "the file of weights")
    names = sorted(entry.name for entry in directory.iterdir())
    broken = [name for name in names if name.endswith(_UNFINISHED)]
    weights = [name for name in names if name.endswith(".safetensors")]
    if broken:
        raise CheckpointError(directory / broken[0], "is a download that has not ended", "the file: download it again")
    if len(weights) > 1:
        fault = f"is missing, and {len(weights)} shards lie there"
        raise CheckpointError(directory / index, fault, "the index of these shards: download it again")
    if weights:
        raise CheckpointError(directory / weights[0], "is weights under another name", f"the name {single}")
    raise CheckpointError(path, "no such file", f"the weights, or {index} naming their shards")


def refuse_by_type(path: Path, name: str, dtype: str, shape: str) -> None:
    """Refuse a tensor of a type that holds neither MXFP4 nor numbers of 16 or 32 bits.

    Raises:
        CheckpointError: it is of one.
    """
    if dtype.startswith("F8"):
        raise CheckpointError(path, f"{name} is {shape}: weights quantised in FP8", _UNQUANTISED)
    if dtype == "F64":
        fault = f"{name} is {shape}: numbers of 64 bits, which no tool trains with"
        raise CheckpointError(path, fault, "the checkpoint saved in bfloat16")
    if dtype in ("I8", "I16", "I32", "I64", "BOOL"):
        fault = f"{name} is {shape}: whole numbers, as another quantisation or a damaged export leaves them"
        raise CheckpointError(path, fault, _UNQUANTISED)


def refuse_by_config(body: Mapping[str, Any], path: Path) -> None:
    """Refuse the configuration of another layout, or of weights that are quantised otherwise than in MXFP4.

    Raises:
        CheckpointError: it is one; the error says which.
    """
    if "model_type" not in body and "num_experts" in body and "swiglu_limit" in body:
        expected = "the Hugging Face layout: the directory above it"
        raise CheckpointError(path, 'is that of OpenAI\'s own layout (the directory "original")', expected)
    for name in ("quantization_config", "compression_config", "quantization"):
        section = body.get(name)
        if not section:
            continue
        method = section.get("quant_method") if isinstance(section, dict) else None
        if name == "quantization_config" and method == "mxfp4":
            continue
        raise CheckpointError(path, f'"{name}" says that {_quantised(section, method)}', _UNQUANTISED)


def refuse_by_tensors(names: Mapping[str, Path]) -> None:
    """Refuse tensors that only another quantisation, or an adapter that was not merged, leaves in a checkpoint.

    Raises:
        CheckpointError: there is one; the error names it.
    """
    for name, path in names.items():
        for parts, what in _FOREIGN_TENSORS.items():
            if any(part in f"{name}." for part in parts):
                raise CheckpointError(path, f"{name} shows {what}", _UNQUANTISED)
        if name.removeprefix("module.").partition(".")[0] in _HEADS:
            fault = f"{name} shows a head that classifies or rates, and gpt-oss has none"
            raise CheckpointError(path, fault, "a checkpoint that answers (GptOssForCausalLM), without that head")
        if name.startswith(("block.", "embedding.", "unembedding.")):
            fault = f'{name} is named as in OpenAI\'s own layout (the directory "original")'
            raise CheckpointError(path, fault, "the Hugging Face layout: the directory above it")
        if "lora_" in name or ".base_layer." in name or "modules_to_save." in name:
            fault = f"{name} shows an adapter that was saved beside the weights and not merged into them"
            raise CheckpointError(path, fault, "a merged checkpoint (merge_and_unload), or base and --adapter apart")


def _quantised(section: Any, method: Any) -> str:
    """What the object says of the weights."""
    if not isinstance(section, dict):
        return f"the weights are quantised in an unknown way ({section!r:.40})"
    if method == "bitsandbytes":
        bits = "nf4, 4 bits" if section.get("load_in_4bit") or section.get("_load_in_4bit") else "8 bits"
        return f"the weights are quantised with bitsandbytes ({bits})"
    if method is None and "group_size" in section:
        return f"the weights are quantised for MLX ({section.get('bits')} bits)"
    return f"the weights are quantised with {_METHODS.get(str(method), repr(method))}"


def _starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(beginnings)


_METHODS: Final = {
    "awq": "AWQ", "gptq": "GPTQ", "fp8": "FP8", "fbgemm_fp8": "FP8", "compressed-tensors": "compressed-tensors",
    "modelopt": "NVIDIA ModelOpt", "quark": "AMD Quark", "hqq": "HQQ", "torchao": "torchao", "auto-round": "AutoRound",
}  # fmt: skip

_CONTENTS: Final[tuple[tuple[Callable[[bytes], bool], str, str], ...]] = (
    (_starts(b"version https://git-lfs.github.com/spec/"), "a Git LFS pointer and not the file that it stands for",
     "the file itself: `git lfs pull` in the clone fetches it"),
    (_starts(b"GGUF"), "a GGUF file of llama.cpp", f"{_WEIGHTS} that it was converted from"),
    (_starts(b"PK\x03\x04", b"PK\x05\x06"), "a zip (or a PyTorch file, which is one)", f"{_WEIGHTS}, unpacked"),
    (_starts(*(bytes([0x80, protocol]) for protocol in range(2, 6))),
     "a Python pickle, which is never opened: it can run code", _WEIGHTS),
    (_starts(b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"), "a compressed file",
     f"{_WEIGHTS}, unpacked"),
    (lambda head: head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar", "a tar archive", f"{_WEIGHTS}, unpacked"),
    (lambda head: head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml")),
     "a web page, such as a proxy or a server sends in place of a file", "the file itself: download it again"),
    (lambda head: len(head) > 0 and not any(head), "full of zeros, as a download that broke off leaves it",
     "the file itself: download it again"),
)  # fmt: skip


def _first_snapshot(directory: Path) -> str:
    snapshots = sorted((directory / "snapshots").glob("*"))
    return f"its snapshot: {snapshots[0]}" if snapshots else "a snapshot in it; there is none"


def _below(directory: Path) -> str:
    """The checkpoint that lies one directory further down, if there is one."""
    found = sorted(path.parent for path in directory.glob("*/config.json"))
    return f"the checkpoint in it: {found[0]}" if found else _DIRECTORY


def _has(*suffixes: str) -> Callable[[set[str], bool], bool]:
    return lambda names, weights: not weights and any(name.endswith(suffixes) for name in names - _TRAINING)


def _is_training_state(names: set[str], weights: bool) -> bool:
    beginnings = ("pytorch_model_fsdp", "global_step", "__0_")
    return not weights and any(name.startswith(beginnings) or name.endswith(".distcp") for name in names)


_DIRECTORIES: Final[tuple[tuple[Callable[[set[str], bool], bool], str, str | Callable[[Path], str]], ...]] = (
    (lambda names, weights: {"snapshots", "refs"} <= names or {"snapshots", "blobs"} <= names,
     "is a Hugging Face cache and no checkpoint", _first_snapshot),
    (lambda names, weights: not weights and "adapter_config.json" in names,
     "is a LoRA adapter without its base", "the base checkpoint, and this directory with --adapter"),
    (lambda names, weights: not weights and any(name.startswith("adapter_model.") for name in names),
     "is a LoRA adapter without its base, and without adapter_config.json",
     "the base checkpoint, and with --adapter the whole directory that PEFT wrote"),
    (lambda names, weights: any(name.startswith("adapter_model.") for name in names),
     "holds a checkpoint and an adapter: nothing says whether the adapter is merged already",
     "the adapter in a directory of its own with --adapter, or deleted if it was merged"),
    (lambda names, weights: "dtypes.json" in names,
     'is OpenAI\'s own layout (the directory "original")', "the Hugging Face layout: the directory above it"),
    (lambda names, weights: names == {"model.bin"} or (not weights and "metal" in names and "config.json" not in names),
     'is OpenAI\'s layout for Apple GPUs (the directory "metal")', "the Hugging Face layout: the directory above it"),
    (lambda names, weights: "original" in names and "config.json" not in names,
     'holds only OpenAI\'s own layout (the directory "original")', "the files of the Hugging Face layout beside it"),
    (_has(".gguf"), "holds GGUF files of llama.cpp", f"{_WEIGHTS} that they were converted from"),
    (_is_training_state, "holds the shards of a training run (FSDP or DeepSpeed)",
     "a model: merge the shards with the training tool, and save it as safetensors"),
    (_has(*_PICKLES), "holds weights as Python pickles, which are never opened: they can run code",
     "safetensors: save the model again with safe_serialization=True"),
    (_has(".npz"), "holds NumPy files, as older versions of MLX wrote them", _DIRECTORY),
    (_has(".h5", ".msgpack", ".onnx"), "holds weights for another framework", _DIRECTORY),
    (_has(".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".tar.zst"), "holds an archive that is not unpacked",
     "the directory with its contents"),
    (lambda names, weights: not names, "is empty", _DIRECTORY),
    (lambda names, weights: "config.json" not in names, "holds no config.json", _below),
)  # fmt: skip

_FOREIGN_TENSORS: Final[Mapping[tuple[str, ...], str]] = {
    (".absmax.", ".quant_map.", ".quant_state.", ".nested_absmax.", ".SCB."): "weights quantised with bitsandbytes",
    (".qweight.", ".qzeros.", ".g_idx."): "weights quantised with GPTQ or AWQ",
    (".weight_scale.", ".weight_scale_inv.", ".input_scale.", ".weight_scale_2."): "weights quantised in FP8 or NVFP4",
    (".weight_packed.", ".weight_shape."): "weights quantised with compressed-tensors",
    (".biases.", "_proj.scales."): "weights quantised for MLX",
}
