"""Writes a release directory into one signed archive, and verifies what it wrote with the installer's own code.

`installer.archive` defines the format. The archive gets its name only when it is complete and verified.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from bundler.errors import BuildError, why_unwritten
from bundler.keys import SigningKeys
from bundler.ledger import Signing
from bundler.sign import is_complete, sign_targets
from bundler.signing import read_unsigned, with_earlier_signatures, write_head, write_signing_file
from bundler.volumes import scratch_of, writing_volumes
from bundler.working import working_directory
from installer.archive import CHUNK_BYTES, DELTA, END_OF_ARCHIVE, Sha256Hex, member_header, padding_bytes, target_name
from installer.durable import sync_directory
from installer.errors import InstallerError
from installer.media.delta import Delta, encode_delta
from installer.progress import SILENT, Progress
from installer.targets import Target
from installer.verify import DiscardingSink, VerifiedArchive, blob_order, verify_archive


@dataclass(frozen=True)
class ReleaseTree:
    """A release directory, and the digest of each of its files."""

    directory: Path
    targets: tuple[Target, ...]  # ascending by path

    @property
    def size_bytes(self) -> int:
        return sum(target.size_bytes for target in self.targets)


def digest_tree(
    directory: Path, progress: Progress = SILENT, *, known: Mapping[Path, Sha256Hex] = MappingProxyType({})
) -> ReleaseTree:
    """Hash every file below `directory`.

    Args:
        known: digests that were computed when the files were written. `write_archive` reads them all again.
    Raises:
        BuildError: something there is neither a file nor a directory, or cannot be read.
    """
    targets = []
    try:
        for path in sorted(directory.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BuildError(f"{path} is neither a file nor a directory")
            if path.is_file():
                digest, size = (known[path], path.stat().st_size) if path in known else digest_file(path, progress)
                targets.append(Target(path.relative_to(directory).as_posix(), digest, size))
    except OSError as exc:
        raise BuildError(f"cannot read {exc.filename}: {exc.strerror}") from exc
    return ReleaseTree(directory, tuple(sorted(targets, key=lambda t: t.path)))


def write_archive(
    out: Path,
    tree: ReleaseTree,
    keys: SigningKeys,
    signing: Signing,
    progress: Progress = SILENT,
    *,
    delta: Delta | None = None,
    volume_bytes: int | None = None,
) -> VerifiedArchive:
    """Sign the tree with the keys that are here, write it to `out`, and verify what was written.

    If other people must sign, too, everything but their signatures is verified, and a small file for them to sign is
    left beside the archive (`bundler.signing`).

    Args:
        delta: what to leave out; the signatures cover the whole tree all the same.
        volume_bytes: write volumes that are smaller than this, in place of `out`, if nobody else must sign.
    Raises:
        BuildError: a file changed since it was hashed, the disk is full, or the result does not verify.
    """
    partial = out.with_name(f".{out.name}.partial")
    try:
        try:
            if scratch_of(out).exists():
                with working_directory(scratch_of(out)):  # removes what a killed run left
                    pass
            members = with_earlier_signatures(out, sign_targets(keys, tree.targets, signing))
            if volume_bytes is not None and is_complete(members):
                with writing_volumes(out, volume_bytes) as volumes:
                    _write_members(volumes, members, tree, delta, progress)
                    with closing(volumes.finish()) as stream:
                        verified = verify_archive(stream, keys.roots[-1], sink=DiscardingSink(), progress=progress)
                out.unlink(missing_ok=True)  # an earlier archive of this name
                return verified
            with partial.open("wb") as file:
                _write_members(file, members, tree, delta, progress)
                file.flush()
                os.fsync(file.fileno())
            verified = _verify(partial, members, keys, progress)
            while (later := with_earlier_signatures(out, members)) != members:  # somebody has signed meanwhile
                members = later
                write_head(partial, members)
                verified = _verify(partial, members, keys, progress)
            partial.replace(out)
            sync_directory(out.parent)
            if not is_complete(members):
                write_signing_file(out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as exc:
        raise BuildError(f"cannot write {out}: {why_unwritten(exc)}; nothing was left behind") from exc
    except InstallerError as exc:
        raise BuildError(f"the archive just written does not verify: {exc}") from exc
    return verified


def _verify(written: Path, members: Mapping[str, bytes], keys: SigningKeys, progress: Progress) -> VerifiedArchive:
    if not is_complete(members):
        verified = read_unsigned(written, keys.roots[-1], progress).verified
        if verified is None:
            raise RuntimeError("internal error: an archive was taken for a signing file")
        return verified
    with written.open("rb") as file:
        return verify_archive(file, keys.roots[-1], sink=DiscardingSink(), progress=progress)


class _Sink(Protocol):
    """What an archive is written to: a file, or volumes."""

    def write(self, data: bytes, /) -> int: ...


def _write_members(
    file: _Sink, metadata: Mapping[str, bytes], tree: ReleaseTree, delta: Delta | None, progress: Progress
) -> None:
    head = {**metadata, **({} if delta is None else {DELTA: encode_delta(delta)})}
    for name, data in head.items():
        file.write(member_header(name, len(data)) + data + bytes(padding_bytes(len(data))))
    left_out = frozenset(delta.absent if delta else ())
    paths = {target.sha256: tree.directory / target.path for target in tree.targets}
    for digest, size in blob_order(tree.targets).items():
        if digest in left_out:
            continue
        file.write(member_header(target_name(digest), size))
        _copy_blob(paths[digest], file, digest, progress)
        file.write(bytes(padding_bytes(size)))
    file.write(END_OF_ARCHIVE)


def _copy_blob(path: Path, file: _Sink, expected: Sha256Hex, progress: Progress) -> None:
    running = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            running.update(chunk)
            file.write(chunk)
            progress.bytes_done(len(chunk))
    if running.hexdigest() != expected:
        raise BuildError(f"{path} changed since it was hashed")


def digest_file(path: Path, progress: Progress) -> tuple[Sha256Hex, int]:
    """SHA-256 and size of a file; the progress is told of each chunk."""
    running, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            running.update(chunk)
            size += len(chunk)
            progress.bytes_done(len(chunk))
    return Sha256Hex(running.hexdigest()), size
