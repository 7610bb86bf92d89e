"""Whether an archive's metadata is signed by keys that the operator trusts, unexpired, complete, and not older than
what the site accepted before.

The client workflow is python-tuf's (`tuf.ngclient.Updater`; TUF specification, section 5.3), fed from memory. Four more
checks surround it, which a repository on a network does not need but a single file does:

1. every metadata file has exactly one spelling (compact, sorted, lower-case signatures), so that no bit may change;
2. every root is signed by itself and by the one before, and the one of the operator's version is the operator's;
3. what was accepted is byte for byte what the file holds: one version number never has two contents;
4. the clock, by which expiry is judged, is not before this code was written.

`installer.root_chain` makes checks 1 and 2; `installer.targets` checks the paths and sizes that the metadata lists.

Not covered: a clock that is wrong by less than that, and keys stolen on the connected side.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from installer.archive import (
    MAX_METADATA_BYTES,
    MAX_ROOTS,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Sha256Hex,
    root_name,
)
from installer.errors import (
    ClockError,
    ExpiredError,
    InstallerError,
    MalformedMetadataError,
    MixedMetadataError,
    OlderVersionError,
    SignatureError,
    UnknownKeyError,
)
from installer.formats.clock import has_lost_its_time
from installer.root_chain import is_signed, parse_canonical, parse_root, root_version, verify_root_chain
from installer.targets import Target, contents_digest, parse_targets

_BASE_URL = "archive:///metadata/"
_CONFIG = UpdaterConfig(
    max_root_rotations=MAX_ROOTS,
    root_max_length=MAX_METADATA_BYTES,
    timestamp_max_length=MAX_METADATA_BYTES,
    snapshot_max_length=MAX_METADATA_BYTES,
    targets_max_length=MAX_METADATA_BYTES,
)


@dataclass(frozen=True)
class VerifiedMetadata:
    """Metadata that passed every check. The site must remember ``accepted`` to refuse older metadata."""

    targets: tuple[Target, ...]  # ascending by path
    version: int  # the version of the targets role
    expires: str  # the earliest date among timestamp, snapshot and targets, ISO 8601
    contents: Sha256Hex  # the same for the same files, whoever signed them and when; see contents_digest
    accepted: Mapping[str, bytes]  # relative path in the trust directory -> contents
    members: Mapping[str, bytes]  # name in the archive -> contents, kept with the release to be verified again


def verify_metadata(members: Mapping[str, bytes], root: bytes, trust_dir: Path | None) -> VerifiedMetadata:
    """Verify an archive's metadata against the operator's root and, if given, against what the site accepted before.

    Args:
        members: name in the archive -> bytes, as `ArchiveReader.read_metadata` returns them.
        root: the root metadata that the operator brought by another way.
        trust_dir: the site's `state/trust`; read, never written. None, or absent: nothing was accepted before.
    Raises:
        TrustError: a subclass that says what is wrong.
        EscapingPathError, LimitError: a target's path or size is not allowed.
    """
    _require_time(datetime.now(UTC))  # check 4
    parsed = {name: parse_canonical(name, data) for name, data in members.items()}
    trusted_root = parse_root(root)
    roots = [parsed[root_name(n)] for n in range(1, len(parsed) - 2)]
    verify_root_chain(roots, members, trusted_root, root)  # check 2
    with tempfile.TemporaryDirectory(prefix="airgap-trust-") as scratch:
        trust = Path(scratch, "trust")
        if trust_dir is not None and trust_dir.is_dir():
            shutil.copytree(trust_dir, trust, symlinks=True)
            _require_same_root(trust, trusted_root, root)
        else:
            trust.mkdir()
        _refresh(trust, members, parsed, root)
        _require_accepted(trust, members)  # check 3
        accepted = {
            str(path.relative_to(trust)): path.read_bytes()
            for path in sorted(trust.rglob("*.json")) if not path.is_symlink()
        }  # fmt: skip
    targets = parsed[TARGETS].signed
    dates = [parsed[name].signed.expires for name in (TIMESTAMP, SNAPSHOT, TARGETS)]
    snapshot_info = parsed[SNAPSHOT].signed.meta
    if set(snapshot_info) != {"targets.json"} or targets.delegations is not None:
        raise MalformedMetadataError("the metadata delegates to further roles, which this version does not read")
    verified = parse_targets(targets)
    return VerifiedMetadata(
        targets=verified,
        version=targets.version,
        expires=min(dates).isoformat(),
        contents=contents_digest(verified),
        accepted=accepted,
        members=members,
    )


def _require_time(now: datetime) -> None:
    if has_lost_its_time(now):
        raise ClockError(
            f"this host's clock says {now:%Y-%m-%d}, which is before this program was written, so nobody can tell "
            "whether the signatures have expired: set the clock, then run this again"
        )


def verify_kept_metadata(members: Mapping[str, bytes], root: bytes) -> tuple[Target, ...]:
    """The targets that a release's kept metadata lists, if keys that the operator's root trusts signed them.

    Expiry does not count here: a release stays what it is when its metadata expires. If the root is newer than the
    metadata, the root's own keys must have signed the targets.

    Args:
        members: as `ArchiveReader.read_metadata` returned them when the release was installed.
    Raises:
        TrustError: they are not signed by keys that the root trusts.
    """
    parsed = {name: parse_canonical(name, data) for name, data in members.items()}
    trusted = parse_root(root)
    roots = [parsed[name] for name in sorted((n for n in parsed if n.endswith(".root.json")), key=root_version)]
    if TARGETS not in parsed or [r.signed.version for r in roots] != list(range(1, len(roots) + 1)):
        raise MalformedMetadataError("the release's signed metadata is not complete")
    newest = trusted
    if trusted.signed.version <= len(roots):
        verify_root_chain(roots, members, trusted, root)
        newest = roots[-1]
    if not is_signed(newest.signed, parsed[TARGETS]):
        raise SignatureError(f"the release's metadata is not signed by keys that root {newest.signed.version} trusts")
    return parse_targets(parsed[TARGETS].signed)


def _require_same_root(trust: Path, trusted: Metadata[Root], root: bytes) -> None:
    """A site belongs to one chain of roots. Another root under a version that it knows is another sender's."""
    known = trust / "root_history" / f"{trusted.signed.version}.root.json"
    if known.is_file() and known.read_bytes() != root:
        raise UnknownKeyError("the given root is not the one that this site was installed with")


def _refresh(trust: Path, members: Mapping[str, bytes], parsed: Mapping[str, Metadata[Any]], root: bytes) -> None:
    """Run the TUF client workflow on the archive's metadata, in `trust`, and translate its refusals."""
    try:
        updater = Updater(str(trust), _BASE_URL, fetcher=_MemberFetcher(members), config=_CONFIG, bootstrap=root)
        updater.refresh()
    except tuf_errors.UnsignedMetadataError as exc:
        raise _unsigned(parsed, str(exc)) from exc
    except tuf_errors.ExpiredMetadataError as exc:
        raise ExpiredError(f"{exc}: ask the sender for a newly signed archive, or check this host's clock") from exc
    except tuf_errors.BadVersionNumberError as exc:
        raise _bad_version(trust, parsed, str(exc)) from exc
    except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as exc:
        raise MixedMetadataError(f"the metadata files do not belong together: {exc}") from exc


def _unsigned(parsed: Mapping[str, Metadata[Any]], why: str) -> InstallerError:
    root: Root = parsed[max((n for n in parsed if n.endswith(".root.json")), key=root_version)].signed
    for name in (TIMESTAMP, SNAPSHOT, TARGETS):
        metadata = parsed[name]
        if not is_signed(root, metadata):
            if set(root.roles[metadata.signed.type].keyids).isdisjoint(metadata.signatures):
                return UnknownKeyError(f"{name} is signed by no key that the root trusts for this role")
            return SignatureError(f"{name} is not what its signatures were made for ({why})")
    return SignatureError(why)


def _bad_version(trust: Path, parsed: Mapping[str, Metadata[Any]], why: str) -> InstallerError:
    """A lower version than the site has accepted is an old archive; otherwise the files contradict each other."""
    for name in (TIMESTAMP, SNAPSHOT, TARGETS):
        known = trust / name.removeprefix("metadata/")
        if known.is_file():
            seen, offered = Metadata[Any].from_file(str(known)).signed.version, parsed[name].signed.version
            if offered < seen:
                return OlderVersionError(f"{name} is version {offered}; this site has already accepted version {seen}")
    return MixedMetadataError(f"the metadata files do not belong together: {why}")


def _require_accepted(trust: Path, members: Mapping[str, bytes]) -> None:
    for name, data in members.items():
        kept = trust / name.removeprefix("metadata/")
        if name.endswith(".root.json"):
            kept = trust / "root_history" / kept.name
            if not kept.exists():
                continue  # older than the operator's root: check 2 alone verifies it
        if kept.read_bytes() != data:
            raise MixedMetadataError(f"{name} differs from what this site has accepted under the same version number")


class _MemberFetcher(FetcherInterface):
    """Hands the updater the archive's metadata members as if they were a repository."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self._members = members

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = urlsplit(url).path.removeprefix("/")
        if name not in self._members:
            raise tuf_errors.DownloadHTTPError(f"the archive has no {name}", 404)
        return iter((self._members[name],))
