"""packing.json: which stored weights each native operator reads, for the target to pack. It lies beside a CPU graph.

    {"format": 1, "entries": [
        {"key": 0, "kind": "mxfp4", "experts": .., "hidden": .., "inner": .., "sources": [four]},
        {"key": 1, "kind": "int8" or "bf16", "rows": .., "inner": .., "sources": [one]}]}

A source is {"file": name, "offset": bytes, "bytes": bytes}: part of a file beside the graph. Experts have four: gate_up
blocks, gate_up scales, down blocks, down scales. A dense weight has one: its bfloat16 matrix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from installer.formats.checks import Choose, FaultError, Length, Must, Rule
from installer.formats.fields import Positive, Text, Whole, parse_file

FORMAT = 1
PACKING_NAME = "packing.json"
PackedKind = Literal["mxfp4", "int8", "bf16"]
SIZES: Final[Mapping[PackedKind, tuple[str, ...]]] = {
    "mxfp4": ("experts", "hidden", "inner"),
    "int8": ("rows", "inner"),
    "bf16": ("rows", "inner"),
}


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
    return parse_file(_Plan, data, version=FORMAT).entries


def _beside(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise FaultError(f"is {name!r:.80}, which is not a file beside the graph")
    return name


@dataclass(frozen=True)
class _Source:
    file: Annotated[Text, Rule(_beside)]
    offset: Whole
    bytes: Positive


_SOURCE = Rule(lambda source: Source(source.file, source.offset, source.bytes), takes=_Source)


@dataclass(frozen=True)
class _Experts:
    key: Whole
    kind: Literal["mxfp4"]
    experts: Positive
    hidden: Positive
    inner: Positive
    sources: Annotated[tuple[Annotated[Source, _SOURCE], ...], Length(least=4, most=4)]


@dataclass(frozen=True)
class _Dense:
    key: Whole
    kind: Annotated[Literal["int8", "bf16"], Must(f"must be one of {', '.join(SIZES)}")]
    rows: Positive
    inner: Positive
    sources: Annotated[tuple[Annotated[Source, _SOURCE], ...], Length(least=1, most=1)]


def _form(body: Any) -> str:
    return "experts" if isinstance(body, dict) and body.get("kind") == "mxfp4" else "dense"


def _entry(read: _Experts | _Dense) -> Entry:
    return Entry(read.key, read.kind, {name: getattr(read, name) for name in SIZES[read.kind]}, read.sources)


@dataclass(frozen=True)
class _Plan:
    """The file."""

    entries: tuple[Annotated[Entry, Choose(_form, {"experts": _Experts, "dense": _Dense}), Rule(_entry)], ...]
