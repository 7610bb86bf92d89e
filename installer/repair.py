"""Repairs an installed release from its archive: puts back exactly what differs, is missing, or is one too many.

    verify the archive -> compare the release with the signed files -> copy the blobs that are damaged
                       -> exchange files one by one, each by a rename -> manifest -> receipt

Weights that are right are not copied again. A file is exchanged and never written in place, because somebody may hold
the old one open. A kill leaves the release with fewer differences, and the same command goes on. Another release that
shares a damaged blob gets the new one, too.

`installer.damage` says which archives may repair which release, and finds what differs in its files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from installer.accepted import read_copies
from installer.archive import ByteStream, Sha256Hex
from installer.damage import DamagedBlobs, signed_files
from installer.directories import remove_unlisted
from installer.durable import remove_tree, sync_directory, sync_file_system, write_durably
from installer.environment import environment_files, host_interpreter, members_of, run_self_test
from installer.errors import InstallerError, MediaError, StorageFullError
from installer.formats.manifest import (
    MANIFEST,
    Difference,
    Entry,
    Fault,
    Manifest,
    ManifestError,
    compare_code,
    compare_data,
    encode_manifest,
    is_bulk,
    load_manifest,
)
from installer.install import make_receipt
from installer.owner import Owner, find_owner, hand_over
from installer.preflight import this_host
from installer.progress import SILENT, Progress
from installer.receipt import RECEIPT, Receipt, usable_receipt
from installer.site import FULL, Site, open_existing_site
from installer.store import blob_path, is_blob, make_directories
from installer.verify import VerifiedArchive, verify_archive


@dataclass(frozen=True)
class Repair:
    """What was put right. Paths are relative to the release."""

    receipt: Receipt
    differences: tuple[Difference, ...]  # as they were before
    copied_bytes: int  # from the archive
    others: tuple[str, ...]  # files of other releases that shared a damaged blob, relative to `releases`


def repair(
    archive: ByteStream,
    root: bytes,
    prefix: Path,
    *,
    now: datetime,
    environ: Mapping[str, str],
    progress: Progress = SILENT,
) -> Repair:
    """Make the release of `archive` in the site at `prefix` what was signed.

    Raises:
        NoReleaseError: no such release lies there.
        InstallerError: refused or impossible. What was put right before stays right.
    """
    with open_existing_site(prefix) as site:
        sink = DamagedBlobs(site, root, progress)
        try:
            verified = verify_archive(
                archive, root, sink=sink, trust_dir=site.trust, kept=read_copies(site),
                allow_downgrade=True, allow_expired=True, progress=progress,
            )  # fmt: skip
        except MediaError:
            sink.staging.suspend()
            raise
        except Exception:  # a full disk or memory, too
            sink.staging.discard()
            raise
        owner = find_owner(None, site.prefix)
        try:
            done = _Repairing(site, verified, sink).run(now, environ, progress, owner)
        except OSError as exc:
            sink.staging.discard()
            if exc.errno not in FULL:
                raise
            raise StorageFullError(
                "the disk is full (or a quota or file size limit was met); what was put back stays: free some room, "
                "then run the command again"
            ) from exc
        finally:
            remove_tree(site.unfinished(verified.release.version))
        if owner is not None:
            hand_over(site.prefix, owner)
        return done


class _Repairing:
    """The steps after the archive was verified. Each file is exchanged by one rename from the working directory."""

    def __init__(self, site: Site, verified: VerifiedArchive, sink: DamagedBlobs) -> None:
        self._site, self._verified, self._sink = site, verified, sink
        self._release = site.release(verified.release.version)
        self._work = site.unfinished(verified.release.version)
        self._blobs = {target.path: target.sha256 for target in verified.metadata.targets}
        self._members = verified.metadata.members
        self._found = dict.fromkeys(sink.differences)

    def run(self, now: datetime, environ: Mapping[str, str], progress: Progress, owner: Owner | None) -> Repair:
        """Put everything right, from the blobs to the receipt."""
        before = _manifest_files(self._release)
        self._sink.staging.commit()
        _keep_times(self._site, self._sink.needed, before)
        remove_tree(self._work)
        make_directories(self._work, self._work)
        signed = signed_files(self._verified.metadata)
        self._exchange(self._sink.differences, signed)
        environment = self._repair_environment(progress)
        self._write_manifest(signed | environment)
        receipt = self._write_receipt(now, environ, progress, owner)
        left = compare_code(str(self._release), Manifest(environment, ""))
        left += compare_data(str(self._release), Manifest(signed, ""))
        if left:
            raise InstallerError(f"{left[0]} still: stop whoever changes {self._release}, then run this again")
        differences = tuple(sorted(self._found, key=lambda difference: difference.path))
        others = tuple(_mend_others(self._site, receipt.version, self._sink.needed))
        return Repair(receipt, differences, sum(self._sink.needed.values()), others)

    def _repair_environment(self, progress: Progress) -> dict[str, Entry]:
        """Make the packages anew beside the release if any of their files differs, and take only what differs."""
        interpreter, python = host_interpreter(), this_host().python
        members = members_of(self._release, self._verified.release, self._verified.metadata.targets, python)
        size_bytes = sum(member.size_bytes for member in members.values())
        progress.stage("Comparing its Python packages", size_bytes)
        expected = environment_files(members, interpreter, python, progress=progress)
        wrong = compare_code(str(self._release), Manifest(expected, ""))
        if wrong:
            progress.stage("Installing its Python packages", size_bytes)
            environment_files(members, interpreter, python, write_to=self._work, progress=progress)
            self._exchange(wrong, expected)
            self._found |= dict.fromkeys(wrong)
        return expected

    def _exchange(self, differences: tuple[Difference, ...], expected: Mapping[str, Entry]) -> None:
        """Remove what is not listed, then put every listed file that differs in its place."""
        remove_unlisted(self._release, expected)
        for path in (difference.path for difference in differences if difference.path in expected):
            place, source = self._release / path, self._source(path)
            make_directories(self._release, place.parent)
            if place.is_dir() and not place.is_symlink():
                remove_tree(place)
            source.replace(place)

    def _source(self, path: str) -> Path:
        """A right copy of the file, in the working directory."""
        source = self._work / path
        make_directories(self._work, source.parent)
        if path in self._blobs:
            os.link(blob_path(self._site, self._blobs[path]), source)
        elif path in self._members:
            write_durably(source, self._members[path])
            source.chmod(0o444)
        return source  # otherwise a file of the environment, which lies there

    def _write_manifest(self, files: dict[str, Entry]) -> None:
        timed = {
            path: replace(entry, mtime_ns=(self._release / path).stat().st_mtime_ns) if is_bulk(path) else entry
            for path, entry in files.items()
        }
        data, path = encode_manifest(timed), self._release / MANIFEST
        if not _holds(path, data):
            self._found[Difference(MANIFEST, "differs" if os.path.lexists(path) else "is missing")] = None
            remove_tree(path)
            write_durably(path, data)
            path.chmod(0o444)

    def _write_receipt(
        self, now: datetime, environ: Mapping[str, str], progress: Progress, owner: Owner | None
    ) -> Receipt:
        """The receipt, written anew if it does not fit. A release that was never tested under this Python is tested."""
        release, interpreter = self._verified.release, host_interpreter()
        manifest = hashlib.sha256((self._release / MANIFEST).read_bytes()).hexdigest()
        known = usable_receipt(self._release)
        if (known is None or known.interpreter != interpreter) and release.known_answers is not None:
            progress.stage("Testing it with its known answers")
            run_self_test(self._release, environ, owner)
        fresh = make_receipt(self._verified, manifest, interpreter, now)
        if known is not None:
            fresh = replace(known, manifest_sha256=manifest, interpreter=interpreter, python=fresh.python)
        sync_file_system(self._release)
        if fresh != known:
            if known is None or not self._found:
                self._found[Difference(RECEIPT, _receipt_fault(self._release, known))] = None
            remove_tree(self._release / RECEIPT)
            self._site.write_receipt(fresh, self._release)
        return fresh


def _receipt_fault(release: Path, known: Receipt | None) -> Fault:
    if known is not None:
        return "differs"
    return "cannot be used" if os.path.lexists(release / RECEIPT) else "is missing"


def _manifest_files(release: Path) -> dict[str, Entry]:
    """What the manifest lists, for its times alone; nothing if it cannot be used."""
    try:
        return dict(load_manifest(str(release), has_receipt=False).files)
    except ManifestError:
        return {}


def _keep_times(site: Site, blobs: Mapping[Sha256Hex, int], before: Mapping[str, Entry]) -> None:
    """Give fresh blobs the times that manifests name, so that no start hashes them for their time alone."""
    for entry in before.values():
        digest = Sha256Hex(entry.sha256)
        if digest in blobs and entry.mtime_ns is not None:
            os.utime(blob_path(site, digest), ns=(entry.mtime_ns, entry.mtime_ns))


def _holds(path: Path, data: bytes) -> bool:
    """Whether `path` is a plain file, as the installer makes them, of these bytes."""
    return is_blob(path, Sha256Hex(hashlib.sha256(data).hexdigest()))


def _mend_others(site: Site, version: str, blobs: Mapping[Sha256Hex, int]) -> Iterator[str]:
    """Link the new blobs into the other releases that had the damaged ones; the paths, relative to `releases`."""
    for other in site.versions():
        release = site.release(other)
        for path, entry in _manifest_files(release).items() if other != version else ():
            digest = Sha256Hex(entry.sha256)
            if digest not in blobs or is_blob(release / path, digest) or not (release / path).parent.is_dir():
                continue
            fresh = site.prefix / "releases" / f".{other}.new"
            remove_tree(fresh)
            os.link(blob_path(site, digest), fresh)
            fresh.replace(release / path)
            sync_directory((release / path).parent)
            yield f"{other}/{path}"
