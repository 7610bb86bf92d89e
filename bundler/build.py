"""Builds an archive from a checkpoint: assembles a release in a working directory, signs it, writes it, verifies it.

The working directory `.NAME.build` lies beside the output. Every build removes it at the end, and first removes one
that a killed build left. The output gets its name only when it is complete and verified.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bundler.archive import write_archive
from bundler.contents import BuildRequest, assemble_release
from bundler.errors import BuildError
from bundler.keys import load_keys
from bundler.ledger import decide_signing
from bundler.private_keys import Secret
from installer.progress import SILENT, Progress
from installer.site import FULL
from installer.verify import VerifiedArchive


@dataclass(frozen=True)
class SigningRequest:
    """Who signs, and what the signature says."""

    keys: Path
    expires: datetime  # for contents that these keys have not signed before
    metadata_version: int | None  # None: the ledger beside the keys decides
    secret: Secret | None = None  # asks for the passphrase of the keys


def build(
    out: Path, request: BuildRequest, signing: SigningRequest, *, now: datetime, progress: Progress = SILENT
) -> VerifiedArchive:
    """Build the archive `out`.

    Raises:
        BundlerError: a subclass; `out` is what it was before.
    """
    keys = load_keys(signing.keys, signing.secret)
    tree = out.with_name(f".{out.name}.build")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(tree)
        tree.mkdir()
        try:
            release = assemble_release(tree, request, progress)
            decision = decide_signing(
                keys, release.targets, lifetime_end=signing.expires, version=signing.metadata_version, now=now
            )
            progress.stage("Writing and verifying the archive", 2 * release.size_bytes)
            return write_archive(out, release, keys, decision, progress)
        finally:
            _remove(tree)
    except OSError as exc:
        full = exc.errno in FULL
        why = "the disk is full" if full else f"{exc.strerror} ({exc.filename})"
        raise BuildError(f"cannot build {out}: {why}; nothing was left behind") from exc


def _remove(tree: Path) -> None:
    if tree.exists():
        shutil.rmtree(tree)
