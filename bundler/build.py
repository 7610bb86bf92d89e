"""Builds an archive from a checkpoint: assembles a release in a working directory, signs it, writes it, verifies it.

The working directory `.NAME.build` lies beside the output. Every build removes it at the end, and first empties one
that a killed build left. A second build of the same output is refused meanwhile. The output gets its name only when it
is complete and verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bundler.archive import ReleaseTree, write_archive
from bundler.contents import BuildRequest, assemble_release
from bundler.errors import BuildError, why_unwritten
from bundler.keys import load_keys
from bundler.ledger import decide_signing
from bundler.private_keys import Secret
from bundler.working import working_directory
from installer.archive import Sha256Hex
from installer.formats.advisories import FILE as ADVISORIES
from installer.formats.advisories import Advisories, parse_advisories
from installer.media.contents import opened_contents
from installer.media.delta import Base, Delta, make_delta
from installer.progress import SILENT, Progress
from installer.targets import contents_digest
from installer.verify import VerifiedArchive, blob_order, blob_sizes


@dataclass(frozen=True)
class SigningRequest:
    """Who signs, and what the signature says."""

    keys: Path
    expires: datetime  # for contents that these keys have not signed before
    metadata_version: int | None  # None: the ledger beside the keys decides
    secret: Secret | None = None  # asks for the passphrase of the keys


def build(
    out: Path,
    request: BuildRequest,
    signing: SigningRequest,
    *,
    now: datetime,
    base: Path | None = None,
    volume_bytes: int | None = None,
    progress: Progress = SILENT,
) -> Built:
    """Build the archive `out`.

    Args:
        volume_bytes: write volumes in place of `out`; see `write_archive`.
        base: the archive of an earlier release, signed with these keys; `out` is a delta that leaves out what it has.
    Raises:
        BundlerError: a subclass; `out` is what it was before.
    """
    keys = load_keys(signing.keys, signing.secret)
    older = None if base is None else read_base(base, keys.roots[-1])
    tree = out.with_name(f".{out.name}.build")
    try:
        with working_directory(tree):
            release = assemble_release(tree, request, progress)
            decision = decide_signing(
                keys, release.targets, lifetime_end=signing.expires, version=signing.metadata_version, now=now
            )
            delta = None if older is None else delta_against(older, release)
            progress.stage("Writing and verifying the archive", 2 * release.size_bytes)
            verified = write_archive(out, release, keys, decision, progress, delta=delta, volume_bytes=volume_bytes)
            return Built(verified, parse_advisories((tree / ADVISORIES).read_bytes()) if request.advisories else None)
    except OSError as exc:
        raise BuildError(f"cannot build {out}: {why_unwritten(exc)}; nothing was left behind") from exc


@dataclass(frozen=True)
class Built:
    """An archive that was built and verified, and what its release says of known vulnerabilities."""

    verified: VerifiedArchive
    advisories: Advisories | None


@dataclass(frozen=True)
class OlderRelease:
    """The base of a delta, and the blobs that a site with it has."""

    base: Base
    blobs: frozenset[Sha256Hex]


def read_base(archive: Path, root: bytes) -> OlderRelease:
    """Read which files the archive of an earlier release has. It may be in volumes, be a delta itself, or be expired.

    Raises:
        InstallerError: it is no archive, or not signed by keys that the root trusts.
    """
    with opened_contents([archive], [], root) as contents:
        return OlderRelease(contents.base, frozenset(blob_sizes(contents.targets)))


def delta_against(older: OlderRelease, release: ReleaseTree) -> Delta:
    """What an archive of this release leaves out for a site that has the older one.

    Raises:
        BuildError: they have nothing in common, or are one release.
    """
    if contents_digest(release.targets) == older.base.contents:
        raise BuildError(f"the base {older.base} is this very release, so there is no delta")
    delta = make_delta(older.base, older.blobs, list(blob_order(release.targets)))
    if delta is None:
        raise BuildError(f"the release has no file in common with the base {older.base}; build it without --base")
    return delta
