"""The files of a release as signed metadata lists them: each with one digest and a path inside the release."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile, Targets

from installer.archive import MAX_TARGET_BYTES, MAX_TARGETS, Sha256Hex
from installer.errors import EscapingPathError, LimitError, MalformedMetadataError

MAX_PATH_CHARACTERS = 240
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]*")
_MADE_ON_THE_HOST = {"venv", "metadata", "manifest.json", "receipt.json"}


@dataclass(frozen=True)
class Target:
    """One file of the release: its path, and the only contents it may have."""

    path: str
    sha256: Sha256Hex
    size_bytes: int


def contents_digest(targets: Iterable[Target]) -> Sha256Hex:
    """SHA-256 of the sorted lines `digest size path`."""
    lines = sorted(f"{t.sha256} {t.size_bytes} {t.path}\n" for t in targets)
    return Sha256Hex(hashlib.sha256("".join(lines).encode()).hexdigest())


def parse_targets(targets: Targets) -> tuple[Target, ...]:
    """The release's files. Each has a path inside the release and a size within the limits."""
    if len(targets.targets) > MAX_TARGETS:
        raise LimitError("the number of targets", MAX_TARGETS, len(targets.targets))
    parsed = tuple(_parse_target(path, info) for path, info in sorted(targets.targets.items()))
    if len(set((t.sha256, t.size_bytes) for t in parsed)) != len({t.sha256 for t in parsed}):
        raise MalformedMetadataError("two targets have the same digest but different sizes")
    directories = {str(parent) for target in parsed for parent in Path(target.path).parents}
    for target in parsed:
        if target.path in directories:
            raise EscapingPathError(target.path, "it is both a file and a directory")
    return parsed


def _parse_target(path: str, info: TargetFile) -> Target:
    components = path.split("/")
    if len(path) > MAX_PATH_CHARACTERS or not all(_COMPONENT.fullmatch(c) for c in components):
        raise EscapingPathError(path, "only plain relative paths of letters, digits and ._+@- are allowed")
    if components[0] in _MADE_ON_THE_HOST:
        raise EscapingPathError(path, "this place is made on the host")
    if set(info.hashes) != {"sha256"} or not re.fullmatch(r"[0-9a-f]{64}", info.hashes["sha256"]):
        raise MalformedMetadataError(f"target {path} must have exactly one hash, SHA-256")
    if info.length > MAX_TARGET_BYTES:
        raise LimitError(f"the size of {path}", MAX_TARGET_BYTES, info.length)
    return Target(path, Sha256Hex(info.hashes["sha256"]), info.length)
