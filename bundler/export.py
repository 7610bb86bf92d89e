"""Writes a checkpoint's ONNX graph: ``model.onnx`` and its weights in ``weights-00001.bin``, .. beside it.

It writes one weight after the other, in the order of the computation, and each in pieces, so that no weight is in
memory as a whole. It hashes what it writes. Everything goes into a staging directory beside the destination, is flushed
to disk, and gets its name by one rename: the destination is complete or absent. The next run removes a staging
directory that a killed run left. Exporting the same checkpoint twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bundler.checkpoint import Checkpoint
from bundler.errors import ExportError
from bundler.graph.builder import Weight
from bundler.graph.cpu import KERNEL_DOMAIN, DenseKind
from bundler.graph.plan import IR_VERSION, MAX_SHARD_BYTES, OPSET, Accelerator, GraphPlan, plan_graph
from installer.archive import Sha256Hex
from installer.durable import sync_directory
from installer.formats.packing import PACKING_NAME, Entry, Source, encode_packing
from installer.hashing import RunningDigest
from installer.progress import SILENT, Progress

MODEL = "model.onnx"
ALIGNMENT_BYTES = 4096  # each weight in a shard begins at a multiple, so that it can be mapped (ONNX, External Data)
PIECE_BYTES = 32 << 20  # of a weight in memory: the embedding of gpt-oss-20b alone has 1.2 GB

_HASHED_BYTES = 2 << 20  # of a piece at a time, so that what waits to be hashed is a small part of it


@dataclass(frozen=True)
class ExportedFile:
    """One file of the graph's directory."""

    path: Path
    size_bytes: int
    sha256: Sha256Hex  # of what was written


@dataclass(frozen=True)
class ExportedWeight:
    """Where a weight of bytes lies."""

    path: Path
    offset: int
    shape: tuple[int, ...]

    def read(self, rows: range) -> NDArray[np.uint8]:
        """These rows of it.

        Raises:
            ExportError: they cannot be read.
        """
        row_bytes = math.prod(self.shape[1:])
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset + rows.start * row_bytes)
                return np.fromfile(file, np.uint8, len(rows) * row_bytes).reshape(len(rows), *self.shape[1:])
        except (OSError, ValueError) as exc:
            raise ExportError(f"{self.path}: cannot be read again: {exc}") from exc


@dataclass(frozen=True)
class ExportedGraph:
    """A complete graph on disk."""

    accelerator: Accelerator
    model: Path
    files: tuple[ExportedFile, ...]  # the model first, then its shards in order
    weights: Mapping[str, ExportedWeight]

    def reader(self, tensor: str) -> Callable[[range], NDArray[np.uint8]]:
        """Reads rows of a tensor of bytes, which the graph stores as published: whole or in parts."""
        parts = [self.weights[tensor]] if tensor in self.weights else list(self._parts(tensor))

        def read(rows: range) -> NDArray[np.uint8]:
            pieces, first = [], 0
            for part in parts:
                end = first + part.shape[0]
                some = range(max(rows.start, first) - first, min(rows.stop, end) - first)
                pieces += [part.read(some)] if len(some) else []
                first = end
            return np.concatenate(pieces)

        return read

    def _parts(self, tensor: str) -> Iterator[ExportedWeight]:
        for number in itertools.count():
            if (part := self.weights.get(f"{tensor}.part{number}")) is None:
                return
            yield part


def export_graph(
    checkpoint: Checkpoint,
    out: Path,
    *,
    accelerator: Accelerator,
    dense: DenseKind = "int8",
    progress: Progress = SILENT,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ExportedGraph:
    """Write the graph into the new directory ``out``.

    Raises:
        CheckpointError: a tensor cannot be read, or holds something that is not a number.
        ExportError: ``out`` exists, a tensor fits into no shard, or the disk is full or not writable; nothing is left.
    """
    plan = plan_graph(checkpoint.config, accelerator, dense=dense, max_weight_bytes=max_shard_bytes)
    progress.stage(f"Exporting the {accelerator.upper()} graph", sum(weight.size_bytes for weight in plan.weights))
    with _staging(out) as staging, ThreadPoolExecutor(max_workers=1) as hasher:
        with closing(_ShardWriter(staging, max_shard_bytes, hasher)) as shards:
            _write_weights(plan, checkpoint, shards, progress)
        written = {MODEL: _write_bytes(staging / MODEL, _model_bytes(plan)), **shards.digests}
        if plan.packings:
            written[PACKING_NAME] = _write_bytes(staging / PACKING_NAME, _packing_bytes(plan))
    files = tuple(ExportedFile(out / name, (out / name).stat().st_size, digest) for name, digest in written.items())
    weights = {
        name: ExportedWeight(out / place["location"], int(place["offset"]), shape)
        for name, (place, shape) in _places(plan).items()
    }
    return ExportedGraph(accelerator, out / MODEL, files, weights)


def _write_weights(plan: GraphPlan, checkpoint: Checkpoint, shards: _ShardWriter, progress: Progress) -> None:
    for weight in plan.weights:
        plan.graph.initializer.append(shards.write(weight, checkpoint))
        progress.bytes_done(weight.size_bytes)
    shards.finish_shard()


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A fresh directory that becomes ``out`` if the body succeeds and disappears if it does not."""
    staging = out.with_name(f".{out.name}.partial")
    if out.exists():
        raise ExportError(f"{out}: already exists; the graph goes into a new directory")
    try:
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(parents=True)
        yield staging
        staging.rename(out)
        sync_directory(out.parent)
    except OSError as exc:
        shutil.rmtree(staging, ignore_errors=True)
        raise ExportError(f"{out}: the graph could not be written: {exc.strerror or exc}") from exc
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


class _ShardWriter:
    """Appends weights to shards; a weight that does not fit into the rest of a shard starts the next one."""

    def __init__(self, directory: Path, limit_bytes: int, hasher: ThreadPoolExecutor) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.digests: dict[str, Sha256Hex] = {}  # of the shards that are finished
        self._hasher = hasher
        self._name = ""
        self._file: BinaryIO | None = None
        self._digest = RunningDigest(hasher)

    def write(self, weight: Weight, checkpoint: Checkpoint) -> onnx.TensorProto:
        """Store one weight and return its initialiser."""
        if weight.size_bytes > self.limit_bytes:
            raise ExportError(
                f"{weight.name} takes {weight.size_bytes} bytes; a weight shard holds at most {self.limit_bytes}"
            )
        file = self._file_for(weight.size_bytes)
        offset = file.tell()
        for rows in weight.pieces(PIECE_BYTES):
            self._append(file, np.ascontiguousarray(weight.load(checkpoint, rows)).reshape(-1).view(np.uint8).data)
        written = file.tell() - offset
        if written != weight.size_bytes:
            raise RuntimeError(f"internal error: {weight.name} has {written} bytes, planned {weight.size_bytes}")
        tensor = TensorProto(name=weight.name, data_type=weight.onnx_type, dims=weight.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._name), ("offset", offset), ("length", weight.size_bytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def _file_for(self, size_bytes: int) -> BinaryIO:
        """The shard to write to, padded to the alignment."""
        if self._file is not None:
            padding = -self._file.tell() % ALIGNMENT_BYTES
            if self._file.tell() + padding + size_bytes <= self.limit_bytes:
                self._append(self._file, memoryview(bytes(padding)))
                return self._file
            self.finish_shard()
        self._name = f"weights-{len(self.digests) + 1:05}.bin"
        self._digest = RunningDigest(self._hasher)
        self._file = open(self.directory / self._name, "xb")  # noqa: SIM115 (see close)
        return self._file

    def _append(self, file: BinaryIO, data: memoryview) -> None:
        for at in range(0, len(data), _HASHED_BYTES):
            self._digest.update(data[at : at + _HASHED_BYTES])
        file.write(data)

    def finish_shard(self) -> None:
        """Flush the shard to disk, so that it survives a crash."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self.digests[self._name] = Sha256Hex(self._digest.hexdigest())
            self.close()

    def close(self) -> None:
        """Close the shard, finished or not."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def _packing_bytes(plan: GraphPlan) -> bytes:
    """Where the weights of each native operator lie, by the key of its node."""
    places = _places(plan)
    entries = [
        Entry(packing.key, packing.kind, packing.sizes, tuple(_source(places[name][0]) for name in packing.weights))
        for packing in plan.packings
    ]
    return encode_packing(entries)


def _places(plan: GraphPlan) -> dict[str, tuple[dict[str, str], tuple[int, ...]]]:
    """Where each weight lies beside the graph, and its shape."""
    return {
        tensor.name: ({entry.key: entry.value for entry in tensor.external_data}, tuple(tensor.dims))
        for tensor in plan.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }


def _source(place: dict[str, str]) -> Source:
    return Source(place["location"], int(place["offset"]), int(place["length"]))


def _model_bytes(plan: GraphPlan) -> bytes:
    native = [helper.make_opsetid(KERNEL_DOMAIN, 1)] if plan.packings else []
    model = helper.make_model(
        plan.graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1), *native],
        producer_name="gpt-oss-appliance",
        producer_version=version("gpt-oss-appliance"),
    )
    helper.set_model_props(model, dict(sorted(plan.metadata.items())))
    return bytes(model.SerializeToString(deterministic=True))


def _write_bytes(path: Path, data: bytes) -> Sha256Hex:
    """Write a file, flush it to disk, and give its digest."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return Sha256Hex(hashlib.sha256(data).hexdigest())
