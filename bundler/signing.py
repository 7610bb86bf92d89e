"""Adds people's signatures to an archive, or to the small file that travels in its place.

    NAME.airgap            the archive; its head (the metadata members) is written again in place, and nothing else
    NAME.airgap.signing    the head and release.json, in the archive's own encoding: what people elsewhere sign

Nobody signs what was not checked: the metadata must be one release under one chain of roots. Of an archive every byte
is verified first, by the installer's own code, under keys that are made for this moment, because the real ones are not
all there yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from bundler.errors import SigningError
from bundler.keys import SigningKeys
from bundler.ledger import Signing
from bundler.private_keys import make_signer
from bundler.roots import ROLES, Group, first_root, root_bytes, sign_root
from bundler.sign import is_complete, sign_targets, with_signatures_of
from bundler.working import is_still
from installer.archive import (
    BLOCK_BYTES,
    END_OF_ARCHIVE,
    TARGETS,
    ArchiveReader,
    member_header,
    padding_bytes,
    root_name,
    target_name,
)
from installer.durable import write_durably
from installer.errors import InstallerError
from installer.formats.release import DESCRIPTOR, Release
from installer.progress import SILENT, Progress
from installer.release import parse_release
from installer.root_chain import parse_canonical, parse_root, verify_root_chain
from installer.signers import Signers
from installer.targets import Target, contents_digest, parse_targets
from installer.trust import VerifiedMetadata, require_one_release
from installer.verify import DiscardingSink, VerifiedArchive, blob_order, verify_archive

SIGNING_SUFFIX = ".signing"
_SIGNED = b',"signed":{'  # what follows the signatures in metadata of this format


@dataclass(frozen=True)
class Unsigned:
    """What people sign: the metadata of one release, checked, but perhaps not signed by enough of them."""

    members: Mapping[str, bytes]
    release: Release
    targets: tuple[Target, ...]
    signing: Signing
    verified: VerifiedArchive | None  # None: only the head was here

    @property
    def is_complete(self) -> bool:
        return is_complete(self.members)


def signing_file(archive: Path) -> Path:
    """Where the small file of an archive lies."""
    return archive.with_name(archive.name + SIGNING_SUFFIX)


def read_unsigned(path: Path, root: bytes | None = None, progress: Progress = SILENT) -> Unsigned:
    """Read an archive or a signing file, and check everything but who signed it.

    Args:
        root: the root that the reader trusts, if any; it must be one of the archive's.
    Raises:
        SigningError, InstallerError: the file is not one release under one chain of roots.
    """
    with path.open("rb") as stream:
        reader = ArchiveReader(stream)
        members = reader.read_metadata()
        parsed = {name: parse_canonical(name, data) for name, data in members.items()}
        chain = [parsed[root_name(n)] for n in range(1, len(parsed) - 2)]
        trusted = parse_root(root) if root is not None else chain[-1]
        verify_root_chain(chain, trusted)
        if trusted.signed.version > len(chain):
            raise SigningError(f"{path.name} ends at root {len(chain)}; build it again under root {len(chain) + 1}")
        require_one_release(parsed, chain)
        targets = parse_targets(parsed[TARGETS].signed)
        signing = Signing(parsed[TARGETS].signed.version, parsed[TARGETS].signed.expires)
        if path.name.endswith(SIGNING_SUFFIX):
            return Unsigned(members, _read_descriptor(reader, targets), targets, signing, None)
        verified = _verify_body(stream, members, targets, signing, progress)
        return Unsigned(members, verified.release, targets, signing, verified)


def _read_descriptor(reader: ArchiveReader, targets: tuple[Target, ...]) -> Release:
    """release.json, which follows the head of a signing file as it follows the head of the archive."""
    digest, size = next(iter(blob_order(targets).items()))
    data = b"".join(reader.open_member(target_name(digest), size, {}))
    reader.finish()
    listed = {target.path: target for target in targets}
    if DESCRIPTOR not in listed or hashlib.sha256(data).hexdigest() != listed[DESCRIPTOR].sha256:
        raise SigningError("release.json is not the one that the metadata lists")
    return parse_release(data, listed)


def _verify_body(
    stream: BinaryIO, members: Mapping[str, bytes], targets: tuple[Target, ...], signing: Signing, progress: Progress
) -> VerifiedArchive:
    """Verify what follows the head, with the installer's code, under a head of the same targets that is complete."""
    signers = {role: make_signer() for role in ROLES}
    root = first_root({role: Group((s.public_key,)) for role, s in signers.items()}, expires=signing.expires)
    sign_root(root, None, signers.values())
    keys = SigningKeys(Path(), (root_bytes(root),), tuple(signers.values()))
    head = encode_head(sign_targets(keys, targets, signing))
    verified = verify_archive(
        cast(BinaryIO, _Joined(head, stream)), keys.roots[0], sink=DiscardingSink(), allow_expired=True,
        progress=progress,
    )  # fmt: skip
    metadata: VerifiedMetadata = replace(verified.metadata, members=dict(members), accepted={})
    return replace(verified, metadata=metadata)


class _Joined(io.RawIOBase):
    """Some bytes, then the rest of a stream."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._head, self._rest = io.BytesIO(head), rest

    def read(self, size: int = -1) -> bytes:
        data = self._head.read(size)
        return data if len(data) == size else data + self._rest.read(size - len(data) if size >= 0 else -1)


def encode_head(members: Mapping[str, bytes]) -> bytes:
    """The metadata members in the archive's encoding."""
    return b"".join(member_header(n, len(data)) + data + bytes(padding_bytes(len(data))) for n, data in members.items())


def write_signing_file(archive: Path) -> Path:
    """Write the small file beside the archive.

    Raises:
        SigningError: it cannot be written.
    """
    with archive.open("rb") as stream:
        reader = ArchiveReader(stream)
        members = reader.read_metadata()
        reader.read_delta()  # what a delta leaves out is not signed
        digest, size = next(iter(blob_order(parse_targets(parse_canonical(TARGETS, members[TARGETS]).signed)).items()))
        data = b"".join(reader.open_member(target_name(digest), size, {}))
    descriptor = member_header(target_name(digest), size) + data + bytes(padding_bytes(size))
    path = signing_file(archive)
    try:
        write_durably(path, encode_head(members) + descriptor + END_OF_ARCHIVE)
    except OSError as exc:
        raise SigningError(f"cannot write {path}: {exc.strerror}") from exc
    return path


def with_earlier_signatures(archive: Path, members: dict[str, bytes]) -> dict[str, bytes]:
    """The members with the signatures that people have given the same metadata in the files that are there already:
    the archive itself and its signing file. A second build loses none of them."""
    for path in (archive, signing_file(archive)):
        try:
            with path.open("rb") as stream:
                members = with_signatures_of(members, ArchiveReader(stream).read_metadata())
        except (OSError, KeyError, SigningError, InstallerError):
            continue  # not there, or another release's
    return members


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """Keep other `bundler sign` away from the file; and finish what a killed one began. The file, for `replace_head`.

    Raises:
        SigningError: another one has it, or it cannot be written.
    """
    try:
        file = path.open("r+b")
    except OSError as exc:
        raise SigningError(f"cannot sign {path}: {exc.strerror}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SigningError(f"another `bundler sign` is at work on {path}") from exc
        if _journal(path).exists():
            _finish(path, file)
        yield file


def _finish(path: Path, file: BinaryIO) -> None:
    """Write the head that a killed command left beside the file, unless another archive has taken the file's name."""
    head = _journal(path).read_bytes()
    if _is_head_of(file, head):
        _write(file, head)
    _journal(path).unlink()


def _is_head_of(file: BinaryIO, head: bytes) -> bool:
    """Whether the file has this head, whatever signatures stand in it: a kill may have left half of them."""
    try:
        members = ArchiveReader(io.BytesIO(head)).read_metadata()
    except InstallerError:
        return False
    file.seek(0)
    present, position = file.read(len(head)), 0
    for data in members.values():
        position += BLOCK_BYTES
        signed = data.find(_SIGNED)
        if signed < 0 or present[position + signed : position + len(data)] != data[signed:]:
            return False
        position += len(data) + padding_bytes(len(data))
    return True


def replace_head(path: Path, file: BinaryIO, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    """Write the head again in place. A kill at any instant does no harm: the new head lies beside the file until it is
    in the file, and the next `bundler sign` writes it again.

    Args:
        file: as `locked` opened it.
    Raises:
        SigningError: a build has put another file under this name meanwhile.
    """
    if [(n, len(data)) for n, data in before.items()] != [(n, len(data)) for n, data in after.items()]:
        raise RuntimeError("internal error: a head changed its length")
    _require_still(path, file)
    write_durably(_journal(path), encode_head(after))
    _write(file, encode_head(after))
    _journal(path).unlink()
    _require_still(path, file)


def _require_still(path: Path, file: BinaryIO) -> None:
    if not is_still(path, file.fileno()):
        raise SigningError(f"{path} was built again meanwhile, and is not signed: run this command again")


def write_head(path: Path, members: Mapping[str, bytes]) -> None:
    """Write the head of an archive that nobody else knows yet; it is as long as the present one."""
    with path.open("r+b") as file:
        _write(file, encode_head(members))


def _write(file: BinaryIO, head: bytes) -> None:
    file.seek(0)
    file.write(head)
    file.flush()
    os.fsync(file.fileno())


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.head")


def describe(unsigned: Unsigned) -> list[str]:
    """Lines that say what one signs."""
    release = unsigned.release
    return [
        f"{release.name} {release.version}: {release.model.title}",
        f"metadata version {unsigned.signing.version}, valid until {unsigned.signing.expires:%Y-%m-%d}",
        f"{len(unsigned.targets)} files, contents {contents_digest(unsigned.targets)}",
    ]


def lines_of(standing: list[Signers]) -> list[str]:
    """One line for each role: who signed, who did not."""
    return [f"{signers.role}: {signers}" for signers in standing]
