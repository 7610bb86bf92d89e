"""Reads the directory of an installed release; see docs/architecture.md, "A release directory".

The installer verified every byte against signed metadata before it made this directory. This module checks what a
process relies on when it opens the directory: the form of the description (installer/formats/release.py), that every
named file exists, and the digest of the vocabulary (the only file whose content this code knows without the signer).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.errors import ApplianceError
from installer.formats.clock import signed_at
from installer.formats.fields import FormatError
from installer.formats.release import DESCRIPTOR, MAX_DESCRIPTOR_BYTES, ModelCard, parse_release
from installer.formats.vocabulary import check_digest

_TARGETS: Final = "metadata/targets.json"  # the installer verified its signatures
_MAX_TARGETS_BYTES: Final = 5_000_000  # what the installer takes


class ReleaseError(ApplianceError):
    """The release cannot be used: a file is missing, unreadable or has the wrong content."""


@dataclass(frozen=True)
class InstalledRelease:
    """The description of an installed release, with absolute paths. ``graphs`` maps an accelerator to its graph."""

    path: Path
    name: str
    version: str
    graphs: Mapping[str, Path]
    config: Path
    vocabulary: Path
    known_answers: Path | None
    dense: str | None  # how the CPU graph holds attention and head: "int8" or "bf16"
    model: ModelCard
    installed_s: int  # when release.json was written, in seconds since 1970
    signed_s: int | None = None  # when its contents were signed; None where its metadata does not say

    @property
    def created_s(self) -> int:
        """A time that a release keeps when it is installed again, if it was signed with one."""
        return self.installed_s if self.signed_s is None else self.signed_s


def load_release(path: Path) -> InstalledRelease:
    """Read ``release.json`` under ``path``.

    Raises:
        ReleaseError: the description is missing, malformed or of another format, or names a file that is not there.
    """
    descriptor = path / DESCRIPTOR
    try:
        with descriptor.open("rb") as stream:
            described = parse_release(stream.read(MAX_DESCRIPTOR_BYTES))
            installed_s = int(os.fstat(stream.fileno()).st_mtime)
    except OSError as exc:
        raise ReleaseError(f"{descriptor}: cannot be read: {exc.strerror}") from exc
    except FormatError as exc:
        raise ReleaseError(f"{descriptor}: is not a release description: {exc}") from exc
    return InstalledRelease(
        path=path,
        name=described.name,
        version=described.version,
        graphs={kind: _file(path, graph) for kind, graph in described.graphs.items()},
        config=_file(path, described.config),
        vocabulary=_file(path, described.vocabulary),
        known_answers=None if described.known_answers is None else _file(path, described.known_answers),
        dense=described.dense,
        model=described.model,
        installed_s=installed_s,
        signed_s=_signed_s(path),
    )


def _signed_s(path: Path) -> int | None:
    """When the contents were signed. A release that was never in an archive (of a test, or by hand) has no metadata."""
    try:
        with (path / _TARGETS).open("rb") as stream:
            version = json.loads(stream.read(_MAX_TARGETS_BYTES))["signed"]["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    signed = signed_at(version) if type(version) is int else None
    return None if signed is None else int(signed.timestamp())


def verify_vocabulary(path: Path) -> None:
    """Check that the file is o200k_base.

    Raises:
        ReleaseError: it cannot be read, or its SHA-256 differs.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise ReleaseError(f"{path}: cannot be read: {exc.strerror}") from exc
    try:
        check_digest(digest)
    except FormatError as exc:
        raise ReleaseError(f"{path}: {exc}") from exc


def _file(release: Path, name: str) -> Path:
    path = release / name
    if not path.is_file():
        raise ReleaseError(f"{path}: is missing from the release")
    return path
