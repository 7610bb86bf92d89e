"""Makes and signs an archive's metadata: which files the release contains, and until when the signatures hold.

People sign at different times and places, and an archive of many gigabytes is not written again for a signature. So
each metadata file has its final length from the start. It has exactly as many signatures as its role demands, all
equally long. Where one is still missing, a placeholder stands: a key id that counts up from zero, and a signature of
zeros. A placeholder is no signature, so nobody installs such an archive.

Files name each other by the digest of what is signed (`signed_digest`), without signatures, so that all roles can be
signed at once and in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from securesystemslib.signer import Signature, Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from bundler.errors import SigningError
from bundler.keys import SigningKeys
from bundler.ledger import Signing
from bundler.roots import add_signatures
from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP, root_name
from installer.root_chain import CANONICAL, parse_canonical
from installer.signers import NO_SIGNATURE, Signers, count_signers, fits
from installer.targets import Target
from installer.trust import ROOT_VERSION, SIGNED_DIGEST, signed_digest

SIGNED = (TIMESTAMP, SNAPSHOT, TARGETS)  # the members that people sign, in the archive's order


def sign_targets(keys: SigningKeys, targets: Sequence[Target], signing: Signing) -> dict[str, bytes]:
    """Make the archive's metadata members, in the archive's order, signed by those keys that are here.

    All three roles share the version.
    """
    files = {t.path: TargetFile(t.size_bytes, {"sha256": t.sha256}, t.path) for t in targets}
    common: dict[str, Any] = {"version": signing.version, "expires": signing.expires}
    listed: Metadata[Any] = Metadata(Targets(**common, targets=files))
    snapshot: Metadata[Any] = Metadata(
        Snapshot(
            **common,
            meta={"targets.json": _named(listed)},
            unrecognized_fields={ROOT_VERSION: len(keys.roots)},
        )
    )
    timestamp: Metadata[Any] = Metadata(Timestamp(**common, snapshot_meta=_named(snapshot)))
    made = {TIMESTAMP: timestamp, SNAPSHOT: snapshot, TARGETS: listed}
    for metadata in made.values():
        _sign(metadata, keys.newest, keys.signers)
    return {
        **{root_name(n): data for n, data in enumerate(keys.roots, start=1)},
        **{name: metadata.to_bytes(CANONICAL) for name, metadata in made.items()},
    }


def _named(metadata: Metadata[Any]) -> MetaFile:
    return MetaFile(metadata.signed.version, unrecognized_fields={SIGNED_DIGEST: signed_digest(metadata)})


def _sign(metadata: Metadata[Any], root: Root, signers: Iterable[Signer]) -> list[str]:
    """Add signatures until there are as many as the role demands. Returns the names of the keys that signed."""
    role = root.roles[metadata.signed.type]
    good = {k: s for k, s in metadata.signatures.items() if k in role.keyids and fits(root.keys[k], metadata)}
    useful = [s for s in signers if s.public_key.keyid in role.keyids and s.public_key.keyid not in good]
    metadata.signatures = good
    names = add_signatures(metadata, useful[: role.threshold - len(good)])
    for number in range(role.threshold - len(metadata.signatures)):
        keyid = f"{number:064x}"
        metadata.signatures[keyid] = Signature(keyid, NO_SIGNATURE)
    metadata.signatures = dict(sorted(metadata.signatures.items()))
    return names


def roots_of(members: Mapping[str, bytes]) -> list[Root]:
    """The roots among an archive's metadata members, version 1 first."""
    return [parse_canonical(name, members[name]).signed for name in _root_names(members)]


def _root_names(members: Mapping[str, bytes]) -> list[str]:
    return [root_name(n) for n in range(1, len(members) - len(SIGNED) + 1)]


def standing(members: Mapping[str, bytes]) -> list[Signers]:
    """Who has signed each role, and who has not, as the archive's last root counts."""
    roots = roots_of(members)
    return [count_signers(roots, parse_canonical(name, members[name])) for name in SIGNED]


def is_complete(members: Mapping[str, bytes]) -> bool:
    """Whether enough people have signed."""
    return all(signers.is_enough for signers in standing(members))


def is_unfinished(members: Mapping[str, bytes]) -> bool:
    """Whether nothing but signatures is missing: what stands in their places are placeholders, not other signatures."""
    root = roots_of(members)[-1]
    for name in SIGNED:
        metadata = parse_canonical(name, members[name])
        for keyid, signature in metadata.signatures.items():
            is_good = keyid in root.roles[metadata.signed.type].keyids and fits(root.keys[keyid], metadata)
            if not is_good and signature.signature != NO_SIGNATURE:
                return False
    return not is_complete(members)


def with_signers(members: Mapping[str, bytes], signers: Sequence[Signer]) -> tuple[dict[str, bytes], list[str]]:
    """The members with the signatures of these keys, where the archive's last root wants them.

    Returns:
        the members, each as long as before, and lines `ROLE: KEY` of what was signed.
    """
    root, result, done = roots_of(members)[-1], dict(members), []
    for name in SIGNED:
        metadata = parse_canonical(name, members[name])
        done += [f"{metadata.signed.type}: {key}" for key in _sign(metadata, root, signers)]
        result[name] = _same_length(name, metadata, members[name])
    return result, done


def with_signatures_of(members: Mapping[str, bytes], others: Mapping[str, bytes]) -> dict[str, bytes]:
    """The members with the signatures that the same metadata has elsewhere.

    Raises:
        SigningError: it is the metadata of another archive.
    """
    root, result = roots_of(members)[-1], dict(members)
    for name in SIGNED:
        metadata, other = parse_canonical(name, members[name]), parse_canonical(name, others[name])
        if metadata.signed_bytes != other.signed_bytes:
            raise SigningError(f"the signatures are for another archive: {name} differs")
        metadata.signatures |= {k: s for k, s in other.signatures.items() if _is_useful(k, metadata, other, root)}
        _trim(metadata, root)
        result[name] = _same_length(name, metadata, members[name])
    return result


def _is_useful(keyid: str, metadata: Metadata[Any], other: Metadata[Any], root: Root) -> bool:
    role = root.roles[metadata.signed.type]
    return keyid not in metadata.signatures and keyid in role.keyids and fits(root.keys[keyid], other)


def _trim(metadata: Metadata[Any], root: Root) -> None:
    """Keep as many good signatures as the role demands, and placeholders for the rest."""
    role = root.roles[metadata.signed.type]
    good = [k for k in metadata.signatures if k in role.keyids and fits(root.keys[k], metadata)]
    metadata.signatures = {k: metadata.signatures[k] for k in good[: role.threshold]}
    _sign(metadata, root, ())


def _same_length(name: str, metadata: Metadata[Any], before: bytes) -> bytes:
    data = metadata.to_bytes(CANONICAL)
    if len(data) != len(before):
        raise SigningError(f"{name} would change its length, so the archive would have to be written again")
    return data
