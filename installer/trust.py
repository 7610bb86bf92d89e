"""Whether an archive's metadata is signed by keys that the operator trusts, unexpired, complete, and not older than
what the site accepted before.

The metadata is The Update Framework's (specification 1.0), read and verified with python-tuf's metadata API. The checks
are those of its client workflow (section 5.3) for an archive, which brings every file at once:

1. every metadata file has exactly one spelling (compact, sorted, lower-case signatures) and holds nothing that is not
   signed but the signatures, so that no bit may change;
2. every root is signed by itself and by the one before, the one of the operator's version is the operator's, and those
   that the site has accepted are in the archive (or, where an older archive is allowed, replace its last one);
3. exactly as many different keys signed each role as the newest root demands, and none that a later root revoked;
4. timestamp names snapshot, snapshot names targets and the last root, by version and digest. All have one version
   number, so that a stolen timestamp key alone cannot make it too high for every later archive;
5. no version is lower than one that the site has accepted, and none has other contents than the site has accepted;
6. nothing has expired, by a clock that is not before this code was written.

The operator may waive the dates of check 6 (`allow_expired`) and check 5 (`allow_downgrade`); never the signatures, and
never a revocation that the site knows.

Two modules hold parts of this: `installer.root_chain` (checks 1 and 2) and `installer.signers` (check 3).
`installer.accepted` holds check 5, and `installer.targets` checks the paths and sizes that the metadata lists.
tests/installer/test_trust_reference.py compares the verdicts with those of python-tuf's own client.

Not covered: a clock that is wrong by less than that, and as many keys stolen on the connected side as a role demands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, MetaFile, Root

from installer.accepted import NOTHING_ACCEPTED, Accepted, Place, parse_accepted, read_trust
from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP, Sha256Hex, root_name
from installer.errors import (
    ClockError,
    ExpiredError,
    MalformedMetadataError,
    MixedMetadataError,
    OlderVersionError,
    TrustLostError,
    UnknownKeyError,
)
from installer.formats.clock import SET_IT, has_lost_its_time
from installer.root_chain import CANONICAL, parse_canonical, parse_root, root_version, verify_root_chain
from installer.signers import require_signed
from installer.targets import Target, contents_digest, parse_targets

ROOT_VERSION = "root_version"  # a field of our own in the snapshot: the version of the archive's last root
SIGNED_DIGEST = "signed_sha256"  # a field of our own where metadata is named: see `signed_digest`


@dataclass(frozen=True)
class VerifiedMetadata:
    """Metadata that passed every check. The site must remember ``accepted`` to refuse older metadata."""

    targets: tuple[Target, ...]  # ascending by path
    version: int  # of all roles
    expires: str  # the earliest date among timestamp, snapshot and targets, ISO 8601
    contents: Sha256Hex  # the same for the same files, whoever signed them and when; see contents_digest
    accepted: Mapping[str, bytes]  # relative path in the trust directory -> contents
    members: Mapping[str, bytes]  # name in the archive -> contents, kept with the release to be verified again
    notes: tuple[str, ...] = ()  # sentences for the operator: what was waived, and what was found damaged


def signed_digest(metadata: Metadata[Any]) -> Sha256Hex:
    """SHA-256 of what is signed, without the signatures. So people can sign all roles at once and in any order."""
    return Sha256Hex(hashlib.sha256(metadata.signed_bytes).hexdigest())


def verify_metadata(
    members: Mapping[str, bytes],
    root: bytes,
    trust_dir: Path | None,
    *,
    kept: Sequence[Place] = (),
    allow_downgrade: bool = False,
    allow_expired: bool = False,
) -> VerifiedMetadata:
    """Verify an archive's metadata against the operator's root and, if given, against what the site accepted before.

    Args:
        members: name in the archive -> bytes, as `ArchiveReader.read_metadata` returns them.
        root: the root metadata that the operator brought by another way.
        trust_dir: the site's `state/trust`; read, never written. None, or absent: it says nothing.
        kept: the second copies, as `installer.accepted.read_copies` reads them. If there are any, the site must
            remember what it has accepted.
        allow_downgrade: accept metadata that is older than, or other than, what the site has accepted.
        allow_expired: accept metadata that is past its date.
    Raises:
        TrustError: a subclass that says what is wrong.
        EscapingPathError, LimitError: a target's path or size is not allowed.
    """
    now = datetime.now(timezone.utc)
    _require_time(now)
    parsed = {name: parse_canonical(name, data) for name, data in members.items()}  # check 1
    trusted = parse_root(root)
    chain = [parsed[root_name(n)] for n in range(1, len(parsed) - 2)]
    verify_root_chain(chain, trusted)  # check 2
    in_state = read_trust(trust_dir) if trust_dir is not None else {}
    accepted = parse_accepted([*kept, in_state])
    roots = _newest_roots(chain, trusted, accepted)
    for name in (TIMESTAMP, SNAPSHOT, TARGETS):
        require_signed(name, [r.signed for r in roots], parsed[name])  # check 3
    _require_all_roots(chain, trusted, roots, allow_downgrade)
    _require_exact_signatures(parsed, chain[-1].signed)
    require_one_release(parsed, chain)  # check 4
    notes = _require_not_older(parsed, roots, accepted, in_state, kept, allow_downgrade)  # check 5
    if not allow_expired:
        _require_unexpired(parsed, roots[-1], now)  # check 6
    targets = parsed[TARGETS].signed
    verified = parse_targets(targets)
    return VerifiedMetadata(
        targets=verified,
        version=targets.version,
        expires=min(parsed[name].signed.expires for name in (TIMESTAMP, SNAPSHOT, TARGETS)).isoformat(),
        contents=contents_digest(verified),
        accepted=_to_remember(members, chain, roots, accepted),
        members=members,
        notes=notes,
    )


def verify_kept_metadata(
    members: Mapping[str, bytes], root: bytes, accepted: Accepted = NOTHING_ACCEPTED
) -> tuple[Target, ...]:
    """The targets that a release's kept metadata lists, if keys that the operator's root trusts signed them.

    Expiry does not count here: a release stays what it is when its metadata expires. If the root is newer than the
    metadata, the root's own keys must have signed the targets.

    Args:
        members: as `ArchiveReader.read_metadata` returned them when the release was installed.
        accepted: what the site has accepted. Later roots in it can only take trust away: a key that they revoked
            counts no more, and a key that the operator's root does not trust still counts for nothing.
    Raises:
        TrustError: they are not signed by keys that the root trusts.
    """
    parsed = {name: parse_canonical(name, data) for name, data in members.items()}
    trusted = parse_root(root)
    roots = [parsed[name] for name in sorted((n for n in parsed if n.endswith(".root.json")), key=root_version)]
    if TARGETS not in parsed or [r.signed.version for r in roots] != list(range(1, len(roots) + 1)):
        raise MalformedMetadataError("the release's signed metadata is not complete")
    verify_root_chain(roots, trusted)
    newest = _newest_roots(roots, trusted, NOTHING_ACCEPTED)
    require_signed(TARGETS, [r.signed for r in newest], parsed[TARGETS])
    require_signed(TARGETS, [r.signed for r in accepted.extend(newest)], parsed[TARGETS])
    return parse_targets(parsed[TARGETS].signed)


def _require_time(now: datetime) -> None:
    if has_lost_its_time(now):
        raise ClockError(
            f"this host's clock says {now:%Y-%m-%d}, which is before this program was written, so nobody can tell "
            f"whether the signatures have expired: {SET_IT}"
        )


def _newest_roots(chain: Sequence[Metadata[Root]], trusted: Metadata[Root], accepted: Accepted) -> list[Metadata[Root]]:
    """The archive's chain, the later roots that the site has accepted, and the operator's root if it is newer still."""
    for version, metadata in enumerate(chain, start=1):
        known = accepted.roots.get(version)
        if known is not None and known.signed_bytes != metadata.signed_bytes:
            raise UnknownKeyError(
                f"{root_name(version)} is not the root {version} that this site was installed with: the archive comes "
                "from another sender, or somebody has signed two roots with one version"
            )
    roots = accepted.extend(chain)
    if trusted.signed.version > len(roots):
        roots.append(trusted)
    return roots


def _require_all_roots(
    chain: Sequence[Metadata[Root]], trusted: Metadata[Root], roots: Sequence[Metadata[Root]], allow_downgrade: bool
) -> None:
    """An archive made before a key was changed lacks the newest root."""
    newest = roots[-1].signed.version
    if trusted.signed.version > len(chain) or (newest > len(chain) and not allow_downgrade):
        whose = "the given root is version" if trusted.signed.version == newest else "this site has accepted root"
        raise OlderVersionError(
            f"the archive ends at root version {len(chain)}, {whose} {newest}: ask the sender for an archive that was "
            "signed since"
        )


def _require_exact_signatures(parsed: Mapping[str, Metadata[Any]], root: Root) -> None:
    for name in (TIMESTAMP, SNAPSHOT, TARGETS):
        signatures, needed = len(parsed[name].signatures), root.roles[parsed[name].signed.type].threshold
        if signatures != needed:
            raise MalformedMetadataError(f"{name} has {signatures} signatures; its root demands exactly {needed}")


def require_one_release(parsed: Mapping[str, Metadata[Any]], chain: Sequence[Metadata[Root]]) -> None:
    """Check 4: the files belong together. Each names the next, and the snapshot the last root.

    Raises:
        MixedMetadataError, MalformedMetadataError: they do not.
    """
    timestamp, snapshot, targets = (parsed[name].signed for name in (TIMESTAMP, SNAPSHOT, TARGETS))
    _require_named(TIMESTAMP, timestamp.snapshot_meta, SNAPSHOT, parsed[SNAPSHOT])
    if set(snapshot.meta) != {"targets.json"} or targets.delegations is not None:
        raise MalformedMetadataError("the metadata delegates to further roles, which this version does not read")
    _require_named(SNAPSHOT, snapshot.meta["targets.json"], TARGETS, parsed[TARGETS])
    if not timestamp.version == snapshot.version == targets.version:
        raise MixedMetadataError(
            f"the versions of timestamp, snapshot and targets are {timestamp.version}, {snapshot.version} and "
            f"{targets.version}, and an archive has only one: if the sender did not do this, a key was stolen"
        )
    said = snapshot.unrecognized_fields.get(ROOT_VERSION, 1)
    if type(said) is not int or said != len(chain):
        raise MixedMetadataError(
            f"the snapshot was made for root {said!a:.9}, and the archive ends at root {len(chain)}"
        )


def _require_named(by: str, info: MetaFile, name: str, metadata: Metadata[Any]) -> None:
    digest = info.unrecognized_fields.get(SIGNED_DIGEST)
    if digest is None and "sha256" not in (info.hashes or {}):
        raise MalformedMetadataError(f"{by} names {name} without a digest")
    try:
        info.verify_length_and_hashes(metadata.to_bytes(CANONICAL))
    except tuf_errors.LengthOrHashMismatchError as exc:
        raise MixedMetadataError(f"the metadata files do not belong together: {by} names another {name}") from exc
    if info.version != metadata.signed.version or digest not in (None, signed_digest(metadata)):
        raise MixedMetadataError(f"the metadata files do not belong together: {by} names another {name}")


def _require_not_older(
    parsed: Mapping[str, Metadata[Any]],
    roots: Sequence[Metadata[Root]],
    accepted: Accepted,
    in_state: Place,
    kept: Sequence[Place],
    allow_downgrade: bool,
) -> tuple[str, ...]:
    """Compare with what the site has accepted. Returns notes for the operator."""
    trusted = [r.signed for r in roots]
    if kept and not allow_downgrade and not accepted.is_known(trusted):
        raise TrustLostError(
            "this site has releases, but state/trust and its copies (trust/, and metadata/ of each release) are lost, "
            "so nobody can tell whether this archive is older: restore one of them from a backup, or type "
            "--allow-downgrade to accept this archive all the same"
        )
    if not allow_downgrade:
        accepted.require_not_older(parsed, trusted)
    if kept and not parse_accepted([in_state]).is_known(trusted):
        return ("state/trust was lost or damaged; the copies outside state/ say what this site has accepted",)
    return ()


def _require_unexpired(parsed: Mapping[str, Metadata[Any]], newest: Metadata[Root], now: datetime) -> None:
    dated = {root_name(newest.signed.version): newest, **{n: parsed[n] for n in (TIMESTAMP, SNAPSHOT, TARGETS)}}
    for name, metadata in dated.items():
        if metadata.signed.is_expired(now):
            raise ExpiredError(
                f"{name} expired on {metadata.signed.expires:%Y-%m-%d}: ask the sender for a newly signed archive, or "
                "check this host's clock"
            )


def _to_remember(
    members: Mapping[str, bytes],
    chain: Sequence[Metadata[Root]],
    roots: Sequence[Metadata[Root]],
    accepted: Accepted,
) -> dict[str, bytes]:
    """The files of the trust directory after this archive."""
    later = roots[len(chain) :]
    history = {root_name(n): members[root_name(n)] for n in range(1, len(chain) + 1)}
    history |= {root_name(r.signed.version): r.to_bytes(CANONICAL) for r in later}
    files = {f"root_history/{name.rsplit('/', 1)[1]}": data for name, data in history.items()}
    return files | {n.removeprefix("metadata/"): members[n] for n in (TIMESTAMP, SNAPSHOT, TARGETS)}
