"""packing.json: which stored weights each native operator reads, for the target to pack. It lies beside a CPU graph.

    {"format": 1, "entries": [
        {"key": 0, "kind": "mxfp4", "experts": .., "hidden": .., "inner": .., "sources": [four]},
        {"key": 1, "kind": "int8" or "bf16", "rows": .., "inner": .., "sources": [one]}]}

A source is {"file": name, "offset": bytes, "bytes": bytes}, a file beside the graph. Those of experts are gate_up
blocks, gate_up scales, down blocks, down scales; the one of a dense weight is its bfloat16 matrix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from installer.formats.fields import Fields, FormatError, objects, parse_object, text, whole

FORMAT = 1
PACKING_NAME = "packing.json"
PackedKind = Literal["mxfp4", "int8", "bf16"]
SIZES: Final[Mapping[PackedKind, tuple[str, ...]]] = {
    "mxfp4": ("experts", "hidden", "inner"),
    "int8": ("rows", "inner"),
    "bf16": ("rows", "inner"),
}
_SOURCES: Final[Mapping[PackedKind, int]] = {"mxfp4": 4, "int8": 1, "bf16": 1}


@dataclass(frozen=True)
class Source:
    """Where a stored weight lies: a file beside the graph."""

    file: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Entry:
    """What one operator reads. ``sizes`` has the names of ``SIZES``."""

    key: int  # of the operator's node
    kind: PackedKind
    sizes: Mapping[str, int]
    sources: tuple[Source, ...]


def encode_packing(entries: Sequence[Entry]) -> bytes:
    written = [
        {
            "key": entry.key,
            "kind": entry.kind,
            **entry.sizes,
            "sources": [{"file": s.file, "offset": s.offset, "bytes": s.size_bytes} for s in entry.sources],
        }
        for entry in entries
    ]
    return (json.dumps({"format": FORMAT, "entries": written}, indent=1) + "\n").encode()


def parse_packing(data: bytes) -> tuple[Entry, ...]:
    """Read the file's bytes.

    Raises:
        FormatError: it is not such a plan, or names a file that is not beside the graph.
    """
    return tuple(_entry(entry) for entry in objects(parse_object(data, version=FORMAT), "entries"))


def _entry(body: Fields) -> Entry:
    kind = _kind(text(body, "kind"))
    sources = tuple(_source(source) for source in objects(body, "sources"))
    if len(sources) != _SOURCES[kind]:
        raise FormatError(f"an entry of kind {kind} has {_SOURCES[kind]} sources, not {len(sources)}")
    return Entry(whole(body, "key"), kind, {name: whole(body, name, least=1) for name in SIZES[kind]}, sources)


def _kind(name: str) -> PackedKind:
    for kind in get_args(PackedKind):
        if name == kind:
            return kind  # type: ignore[no-any-return]  # one of the literals
    raise FormatError(f"unknown kind {name!r:.40}")


def _source(body: Fields) -> Source:
    name = text(body, "file")
    if "/" in name or name in (".", ".."):
        raise FormatError(f"the source {name!r:.80} is not a file beside the graph")
    return Source(name, whole(body, "offset"), whole(body, "bytes", least=1))
