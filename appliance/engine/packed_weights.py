"""Weights that are packed once for the native operators, kept in a file of the site, and memory-mapped from then on.

    packed = open_packed(packing, model_dir, cache_dir, operators, threads=2)
    packed.offer(operators)            # then create the session; keep `packed` as long as the session lives

The packing (``packing.json``, installer/formats/packing.py) says which stored weights each node reads. The cache is one
file of packed weights and a description with a digest of each. At every start the cache is read completely and compared
with its digests, and made anew if anything differs. The digest is XXH3 (128 bits), which is as fast as memory; SHA-256
would take a quarter of a minute for gpt-oss-120b. A run that is killed leaves only a temporary file, which the next run
removes.

The digests find damage, not malice: a program that can write the cache can write the description, too. Against malice
the recorder compares both files with what the record says of them (`appliance.runtime.packed_watch`).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from appliance.engine.operators import Bytes, DenseKind, DenseShape, ExpertShape, Operators
from appliance.errors import ApplianceError
from installer.formats.fields import FormatError
from installer.formats.packing import PACKING_NAME, Entry, Source, parse_packing

LAYOUT = 2  # the order of packed weights (kernels/paths.h); a change makes every cache anew
_ALIGNMENT_BYTES = 4096
_ASKED_BYTES = 1 << 17  # Linux reads no more for one request than its read-ahead window, 128 KiB by default
_DATA, _DESCRIPTION = "packed.bin", "packed.json"
_UNFINISHED = ".partial"


class PackingError(ApplianceError):
    """The packed weights cannot be made or read."""


@dataclass(frozen=True)
class ExpertPacking:
    """An expert layer; its sources are gate_up blocks, gate_up scales, down blocks, down scales."""

    key: int
    shape: ExpertShape
    sources: tuple[Source, ...]

    def packed_bytes(self, operators: Operators) -> int:
        return operators.expert_bytes(self.shape)

    def pack(self, operators: Operators, sources: Sequence[Bytes], out: Bytes, threads: int) -> None:
        operators.pack_experts(self.shape, sources, out, threads=threads)


@dataclass(frozen=True)
class DensePacking:
    """A dense weight; its source is the bfloat16 matrix."""

    key: int
    kind: DenseKind
    shape: DenseShape
    sources: tuple[Source, ...]

    def packed_bytes(self, operators: Operators) -> int:
        return operators.dense_bytes(self.kind, self.shape)

    def pack(self, operators: Operators, sources: Sequence[Bytes], out: Bytes, threads: int) -> None:
        operators.pack_dense(self.kind, self.shape, sources[0], out, threads=threads)


@dataclass(frozen=True)
class Packing:
    """What to pack, as packing.json says. ``digest`` is its SHA-256, which the cache's description names as "plan"."""

    entries: tuple[ExpertPacking | DensePacking, ...]
    digest: str


@dataclass(frozen=True)
class PackedWeights:
    """The mapped cache, by the keys of the nodes."""

    weights: dict[int, Bytes]
    size_bytes: int
    made: bool  # False: it was found

    def offer(self, operators: Operators) -> None:
        """Give all of them to the sessions created from now on."""
        for key, packed in self.weights.items():
            operators.offer(key, packed)


def load_packing(model_dir: Path) -> Packing:
    """Read the packing.json beside a graph.

    Raises:
        PackingError: it cannot be read or does not say which weights to pack.
    """
    path = model_dir / PACKING_NAME
    try:
        data = path.read_bytes()
        entries = tuple(_packing_of(entry) for entry in parse_packing(data))
    except OSError as exc:
        raise PackingError(f"{path}: cannot be read: {exc.strerror}") from exc
    except FormatError as exc:
        raise PackingError(f"{path}: does not say which weights to pack: {exc}") from exc
    return Packing(entries, hashlib.sha256(data).hexdigest())


def open_packed(
    packing: Packing, model_dir: Path, cache_dir: Path, operators: Operators, *, threads: int
) -> PackedWeights:
    """The packed weights of a packing: from the cache if it is sound, otherwise packed now.

    Raises:
        PackingError: a stored weight is missing, or the cache cannot be written.
    """
    found = _read_cache(packing, cache_dir, operators, threads)
    if found is not None:
        return found
    try:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_cache(packing, model_dir, cache_dir, operators, threads)
    except OSError as exc:
        with suppress(OSError):
            (cache_dir / f"{_DATA}{_UNFINISHED}").unlink(missing_ok=True)
        needed = sum(entry.packed_bytes(operators) for entry in packing.entries)
        raise PackingError(
            f"{cache_dir}: the packed weights ({needed / 1e9:.1f} GB) cannot be written: {exc.strerror or exc}"
        ) from exc
    made = _read_cache(packing, cache_dir, operators, threads)
    if made is None:
        raise PackingError(f"{cache_dir}: the packed weights differ from what was just written; is the disk failing?")
    return PackedWeights(made.weights, made.size_bytes, made=True)


def has_packed(packing: Packing, cache_dir: Path, operators: Operators) -> bool:
    """Whether the cache belongs to this packing. Its digests are not compared here, but by `open_packed`."""
    return _description(packing, cache_dir, operators) is not None


def pack_into_memory(
    entry: ExpertPacking | DensePacking, model_dir: Path, operators: Operators, *, threads: int
) -> Bytes:
    """One node's weights, packed into this process's own memory.

    Raises:
        PackingError: a stored weight is missing, or there is too little memory.
    """
    size = entry.packed_bytes(operators)
    try:
        pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as exc:
        raise PackingError(f"{size / 1e9:.1f} GB of memory are needed for packed weights: free some") from exc
    packed = np.frombuffer(pages, np.uint8)
    entry.pack(operators, [_stored(model_dir, source) for source in entry.sources], packed, threads)
    return packed


def read_ahead(entry: ExpertPacking | DensePacking, model_dir: Path) -> None:
    """Ask the kernel to read one node's stored weights, so that they are in memory when they are packed.

    Raises:
        OSError: a file is missing.
    """
    for source in entry.sources:
        descriptor = os.open(model_dir / source.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for at in range(source.offset, source.offset + source.size_bytes, _ASKED_BYTES):
                os.posix_fadvise(descriptor, at, _ASKED_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _packing_of(entry: Entry) -> ExpertPacking | DensePacking:
    if entry.kind == "mxfp4":
        return ExpertPacking(entry.key, ExpertShape(**entry.sizes), entry.sources)
    return DensePacking(entry.key, entry.kind, DenseShape(**entry.sizes), entry.sources)


def _offsets(packing: Packing, operators: Operators) -> tuple[list[tuple[int, int]], int]:
    """Offset and size of each entry in the cache file, and the file's size."""
    places, end = [], 0
    for entry in packing.entries:
        size = entry.packed_bytes(operators)
        places.append((end, size))
        end += size + -size % _ALIGNMENT_BYTES
    return places, end


def _read_cache(packing: Packing, cache_dir: Path, operators: Operators, threads: int) -> PackedWeights | None:
    """The mapped cache; None if it is damaged or does not belong to this packing."""
    description = _description(packing, cache_dir, operators)
    if description is None:
        return None
    places, size = _offsets(packing, operators)
    mapped = _mapped(cache_dir / _DATA, mmap.ACCESS_READ)
    views = [mapped[offset : offset + length] for offset, length in places]
    if description.get("xxh3_128") != _digests(views, threads):
        return None
    weights = {entry.key: view for entry, view in zip(packing.entries, views, strict=True)}
    return PackedWeights(weights, size, made=False)


def _description(packing: Packing, cache_dir: Path, operators: Operators) -> dict[str, Any] | None:
    """What the cache says of itself; None if it does not belong to this packing."""
    size = _offsets(packing, operators)[1]
    try:
        description = json.loads((cache_dir / _DESCRIPTION).read_bytes())
        if (cache_dir / _DATA).stat().st_size != size:
            return None
    except (OSError, ValueError):
        return None
    if not isinstance(description, dict) or description.get("plan") != packing.digest:
        return None
    return description if description.get("layout") == LAYOUT and size else None


def _write_cache(packing: Packing, model_dir: Path, cache_dir: Path, operators: Operators, threads: int) -> None:
    places, size = _offsets(packing, operators)
    unfinished = cache_dir / f"{_DATA}{_UNFINISHED}"
    unfinished.unlink(missing_ok=True)
    (cache_dir / _DESCRIPTION).unlink(missing_ok=True)
    with open(unfinished, "xb", opener=partial(os.open, mode=0o600)) as stream:
        os.posix_fallocate(stream.fileno(), 0, size)  # a full disk is an error here, not a signal at a mapped page
    mapped = _mapped(unfinished, mmap.ACCESS_WRITE)
    for entry, (offset, length) in zip(packing.entries, places, strict=True):
        sources = [_stored(model_dir, source) for source in entry.sources]
        entry.pack(operators, sources, mapped[offset : offset + length], threads)
    digests = _digests([mapped[offset : offset + length] for offset, length in places], threads)
    del mapped
    with open(unfinished, "rb") as stream:
        os.fsync(stream.fileno())  # writes the pages of the mapping, too
    os.replace(unfinished, cache_dir / _DATA)
    description = cache_dir / f"{_DESCRIPTION}{_UNFINISHED}"
    description.write_text(json.dumps({"plan": packing.digest, "layout": LAYOUT, "xxh3_128": digests}))
    _flush(description)
    os.replace(description, cache_dir / _DESCRIPTION)
    _flush(cache_dir)


def _mapped(path: Path, access: int) -> Bytes:
    """A mapped file, in huge pages where the file system has them (ext4 since Linux 6.16, XFS).

    A decode step reads gigabytes once, and translating the addresses of small pages costs a fifth of the bandwidth.
    """
    with open(path, "rb" if access == mmap.ACCESS_READ else "r+b") as stream:
        pages = mmap.mmap(stream.fileno(), 0, access=access)
    with suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def _stored(model_dir: Path, source: Source) -> Bytes:
    path = model_dir / source.file
    try:
        mapped = np.memmap(path, np.uint8, mode="r", offset=source.offset, shape=(source.size_bytes,))
    except (OSError, ValueError) as exc:
        raise PackingError(f"{path}: lacks weights that packing.json names: {exc}") from exc
    return mapped


def _digests(views: Sequence[Bytes], threads: int) -> list[str]:
    """XXH3 (128 bits) of each view. The library releases the interpreter's lock."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(lambda view: xxh3_128_hexdigest(view.data), views))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot flush a directory
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
