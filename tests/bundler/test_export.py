"""The export writes the checkpoint's own bytes, in shards, the same every time, completely or not at all."""

from __future__ import annotations

import hashlib
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from safetensors.numpy import load_file, save_file

import bundler.export
from bundler.checkpoint import Checkpoint, open_checkpoint
from bundler.errors import CheckpointError, ExportError
from bundler.export import ALIGNMENT_BYTES, ExportedGraph, export_graph
from bundler.graph.plan import Accelerator
from tests.bundler.onnx_model import GraphRunner, open_session
from tests.installer.recorded_progress import RecordedProgress
from tests.reference.gpt_oss import decode_mxfp4

SHARD_BYTES = 20_000  # several shards, and matrices that do not fit into one

pytestmark = pytest.mark.usefixtures("exact_operators")


@pytest.fixture(scope="module")
def cpu(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    out = tmp_path_factory.mktemp("export") / "cpu"
    return export_graph(open_checkpoint(small_checkpoint), out, accelerator="cpu", dense="bf16")


@pytest.fixture(scope="module")
def sharded(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    out = tmp_path_factory.mktemp("export") / "sharded"
    checkpoint = open_checkpoint(small_checkpoint)
    return export_graph(checkpoint, out, accelerator="cpu", dense="bf16", max_shard_bytes=SHARD_BYTES)


def _external(model: Path) -> dict[str, tuple[TensorProto, bytes]]:
    """Every initialiser stored beside the graph and its bytes, read by the offsets in the graph."""
    stored = {}
    for tensor in onnx.load(model, load_external_data=False).graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            where = {entry.key: entry.value for entry in tensor.external_data}
            data = (model.parent / where["location"]).read_bytes()
            offset, length = int(where["offset"]), int(where["length"])
            assert offset % ALIGNMENT_BYTES == 0
            assert offset + length <= len(data)
            stored[tensor.name] = (tensor, data[offset : offset + length])
    return stored


def _published(checkpoint: Path) -> dict[str, NDArray[Any]]:
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.parametrize("graph", ["cpu", "sharded"])
def test_every_file_has_the_digest_of_what_lies_there(graph: str, request: pytest.FixtureRequest) -> None:
    exported: ExportedGraph = request.getfixturevalue(graph)
    directory = exported.model.parent
    found = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    assert {file.path: file.sha256 for file in exported.files} == found
    assert {file.path: file.size_bytes for file in exported.files} == {path: path.stat().st_size for path in found}


def test_cpu_graph_stores_every_tensor_byte_for_byte_and_no_other(small_checkpoint: Path, cpu: ExportedGraph) -> None:
    stored, published = _external(cpu.model), _published(small_checkpoint)
    assert set(stored) == set(published) | {"rotary.cos", "rotary.sin"}
    for name, tensor in published.items():
        proto, data = stored[name]
        assert tuple(proto.dims) == tensor.shape, name
        assert proto.data_type == (TensorProto.UINT8 if tensor.dtype == np.uint8 else TensorProto.BFLOAT16), name
        assert data == tensor.tobytes(), name


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_a_weight_is_written_in_pieces_of_a_few_rows(
    accelerator: Accelerator, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, read, taken = open_checkpoint(small_checkpoint), Checkpoint.read, list[NDArray[Any]]()

    def read_noted(of: Checkpoint, name: str, rows: range | None = None) -> NDArray[Any]:
        taken.append(read(of, name, rows))
        return taken[-1]

    whole = export_graph(checkpoint, tmp_path / "whole", accelerator=accelerator)
    monkeypatch.setattr(Checkpoint, "read", read_noted)
    monkeypatch.setattr(bundler.export, "PIECE_BYTES", 1000)
    in_pieces = export_graph(checkpoint, tmp_path / "pieces", accelerator=accelerator)
    assert [f.path.read_bytes() for f in in_pieces.files] == [f.path.read_bytes() for f in whole.files]
    assert {len(rows) for rows in taken if rows.nbytes > 1000} == {1}, "more than the limit only where one row is more"
    assert len(taken) > len(checkpoint.specs)


def test_split_tensors_are_the_published_bytes_in_order(small_checkpoint: Path, sharded: ExportedGraph) -> None:
    stored, published = _external(sharded.model), _published(small_checkpoint)
    for name, tensor in published.items():
        numbered = [f"{name}.part{number}" for number in range(len(stored))]
        parts = [name] if name in stored else [part for part in numbered if part in stored]
        assert b"".join(stored.pop(part)[1] for part in parts) == tensor.tobytes(), name
    assert set(stored) == {"rotary.cos", "rotary.sin"}


def test_no_shard_exceeds_its_limit(sharded: ExportedGraph) -> None:
    shards = sharded.files[1:-1]
    assert len(shards) > 5
    assert [file.path.name for file in shards] == [f"weights-{n + 1:05}.bin" for n in range(len(shards))]
    assert max(file.size_bytes for file in shards) <= SHARD_BYTES


def test_sharding_changes_no_logit(cpu: ExportedGraph, sharded: ExportedGraph) -> None:
    ids = np.random.default_rng(0).integers(0, 300, 20)
    whole, parts = (GraphRunner(open_session(graph.model)).prefill(ids) for graph in (cpu, sharded))
    np.testing.assert_array_equal(whole, parts)


def test_cuda_graph_stores_the_published_nibbles_permuted(small_checkpoint: Path, tmp_path: Path) -> None:
    graph = export_graph(open_checkpoint(small_checkpoint), tmp_path / "cuda", accelerator="cuda")
    stored, published = _external(graph.model), _published(small_checkpoint)
    assert set(stored) == set(published) | {"rotary.cos", "rotary.sin"}
    for name, tensor in published.items():
        proto, data = stored[name]
        if not name.endswith("_blocks"):
            assert data == tensor.tobytes(), name
            continue
        scales = published[name.replace("_blocks", "_scales")]
        ours = np.frombuffer(data, np.uint8).reshape(proto.dims)
        nibbles = np.stack([ours & 15, ours >> 4], axis=-1).reshape(*proto.dims[:2], -1).swapaxes(1, 2)
        packed = (nibbles[..., 0::2] | nibbles[..., 1::2] << 4).reshape(tensor.shape)
        np.testing.assert_array_equal(packed, tensor, err_msg=name)
        np.testing.assert_array_equal(decode_mxfp4(packed, scales), decode_mxfp4(tensor, scales), err_msg=name)


def test_files_listed_are_the_files_there(cpu: ExportedGraph, sharded: ExportedGraph) -> None:
    for graph in (cpu, sharded):
        directory = graph.model.parent
        assert graph.files[0].path == graph.model
        listed = {file.path: file.size_bytes for file in graph.files}
        assert listed == {path: path.stat().st_size for path in directory.iterdir()}


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_exporting_twice_gives_the_same_bytes(small_checkpoint: Path, tmp_path: Path, accelerator: Accelerator) -> None:
    copy = shutil.copytree(small_checkpoint, tmp_path / "elsewhere")
    export_graph(open_checkpoint(small_checkpoint), tmp_path / "one", accelerator=accelerator)
    program = (
        "import pathlib, sys; from bundler.checkpoint import open_checkpoint; from bundler.export import export_graph; "
        "export_graph(open_checkpoint(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]), accelerator=sys.argv[3])"
    )  # another process, another hash seed, another path
    subprocess.run([sys.executable, "-c", program, copy, tmp_path / "two", accelerator], check=True)
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")


def test_progress_ends_at_the_total(small_checkpoint: Path, tmp_path: Path) -> None:
    progress = RecordedProgress()
    checkpoint = open_checkpoint(small_checkpoint)
    export_graph(checkpoint, tmp_path / "out", accelerator="cpu", progress=progress)
    ((name, total, done),) = progress.stages
    assert name == "Exporting the CPU graph"
    assert total == done > sum(spec.size_bytes for spec in checkpoint.specs.values())


def test_an_existing_destination_is_refused_and_untouched(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("kept")
    with pytest.raises(ExportError, match="already exists"):
        export_graph(open_checkpoint(small_checkpoint), tmp_path / "out", accelerator="cpu")
    assert _names(tmp_path) == ["out", "out/precious"]


def _names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_weight_larger_than_a_shard_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"rotary\.cos takes 16384 bytes; a weight shard holds at most 16383"):
        export_graph(open_checkpoint(small_checkpoint), tmp_path / "out", accelerator="cpu", max_shard_bytes=16383)
    assert _names(tmp_path) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(small_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(small_checkpoint)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(ExportError, match="the graph could not be written: File too large"):
            export_graph(checkpoint, tmp_path / "out", accelerator="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _names(tmp_path) == []


def test_a_corrupt_tensor_leaves_nothing(small_checkpoint: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(small_checkpoint, tmp_path / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    name = "model.layers.2.mlp.experts.down_proj_scales"
    tensors[name] = np.full_like(tensors[name], 255)
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} holds the scale 255"):
        export_graph(open_checkpoint(damaged), tmp_path / "target" / "out", accelerator="cpu")
    assert _names(tmp_path / "target") == []


_KILLED = """
import os, pathlib, signal, sys
import bundler.export
from bundler.checkpoint import Checkpoint, open_checkpoint
from bundler.export import export_graph

class Progress:
    def stage(self, name, total_bytes):
        self.left = total_bytes

    def bytes_done(self, count):
        self.left -= 2 * count
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

checkpoint = open_checkpoint(pathlib.Path(sys.argv[1]))
export_graph(checkpoint, pathlib.Path(sys.argv[2]), accelerator="cpu", dense="bf16", progress=Progress())
"""


def test_a_killed_run_leaves_no_graph_and_the_next_one_cleans_up(
    small_checkpoint: Path, tmp_path: Path, cpu: ExportedGraph
) -> None:
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", _KILLED, small_checkpoint, out], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert _names(tmp_path) == [".out.partial", ".out.partial/weights-00001.bin"]
    export_graph(open_checkpoint(small_checkpoint), out, accelerator="cpu", dense="bf16")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert _digests(out) == _digests(cpu.model.parent)
