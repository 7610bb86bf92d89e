"""What somebody can do who holds stolen keys, counts one key twice, replays, or takes away what a site remembers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp

from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP, root_name
from installer.errors import (
    ExpiredError,
    MalformedMetadataError,
    MixedMetadataError,
    OlderVersionError,
    RevokedKeyError,
    SignatureError,
    TrustError,
    TrustLostError,
    UnknownKeyError,
    UnsoundRootError,
    VersionConflictError,
)
from installer.root_chain import parse_root
from installer.trust import ROOT_VERSION, verify_kept_metadata, verify_metadata
from tests.attacks.tampering_page import without_digests
from tests.installer.archives import NOW
from tests.installer.repository import LATER, Repository, accept, forwarded

OTHER = {"release.json": "cd" * 32}
Offer = Callable[[Repository], dict[str, bytes]]


@pytest.fixture
def repository() -> Repository:
    return Repository()


NOT_SIGNED = "is signed by no key that the root trusts for this role (0 of 1 needed signatures; not signed by key ..)"
ONE_VERSION = "and an archive has only one: if the sender did not do this, a key was stolen"
NOT_TOGETHER = "the metadata files do not belong together: metadata/snapshot.json names another metadata/targets.json"
# Each is offered to a site that has accepted version 5 of the genuine sender.
THEFTS: dict[str, tuple[type[TrustError], str, Offer]] = {
    "timestamp key: version 2^40": (
        MixedMetadataError,
        f"the versions of timestamp, snapshot and targets are {1 << 40}, 5 and 5, {ONE_VERSION}",
        lambda r: forwarded(r, r.members(5), 1 << 40),
    ),
    "timestamp key: older contents": (
        MixedMetadataError,
        f"the versions of timestamp, snapshot and targets are 6, 4 and 4, {ONE_VERSION}",
        lambda r: forwarded(r, r.members(4), 6),
    ),
    "timestamp key: other contents": (
        UnknownKeyError,
        f"metadata/snapshot.json {NOT_SIGNED}",
        lambda r: r.stolen("timestamp").members(6, paths=OTHER),
    ),
    "snapshot key: other contents": (
        UnknownKeyError,
        f"metadata/timestamp.json {NOT_SIGNED}",
        lambda r: r.stolen("snapshot").members(6, paths=OTHER),
    ),
    "targets key: other contents": (
        UnknownKeyError,
        f"metadata/timestamp.json {NOT_SIGNED}",
        lambda r: r.stolen("targets").members(6, paths=OTHER),
    ),
    "targets key: other contents under an accepted version": (
        MixedMetadataError,
        NOT_TOGETHER,
        lambda r: r.members(5) | {TARGETS: r.stolen("targets").members(5, paths=OTHER)[TARGETS]},
    ),
    "timestamp and snapshot keys: version 2^40": (
        MixedMetadataError,
        NOT_TOGETHER,
        lambda r: r.stolen("timestamp", "snapshot").members(1 << 40) | {TARGETS: r.members(5)[TARGETS]},
    ),
    "timestamp and snapshot keys: other contents": (
        UnknownKeyError,
        f"metadata/targets.json {NOT_SIGNED}",
        lambda r: r.stolen("timestamp", "snapshot").members(6, paths=OTHER),
    ),
    "root key: a root of his own, without the sender's others": (
        UnknownKeyError,
        f"metadata/timestamp.json {NOT_SIGNED}",
        lambda r: stranger_s_root(r),
    ),
    "all keys but root: other contents under an accepted version": (
        VersionConflictError,
        "two archives have version 5 and differ (metadata/timestamp.json), and this site has accepted the other one: "
        "two build places signed without one ledger (signed.json beside the keys), or somebody has stolen keys: "
        "ask the sender which archive is theirs, and for one with a newer version",
        lambda r: r.stolen("timestamp", "snapshot", "targets").members(5, paths=OTHER),
    ),
}


def stranger_s_root(repository: Repository) -> dict[str, bytes]:
    """A thief of the root key alone cannot sign for the other roles under root 1, so he exchanges root 1."""
    thief = repository.stolen("root")
    root = Root.from_dict(thief.root.to_dict())
    for role in ("targets", "snapshot", "timestamp"):
        root.revoke_key(root.roles[role].keyids[0], role)
        root.add_key(thief.signers[role][0].public_key, role)
    other = Repository()
    other.roots, other.root, other.signers = [other.sign(root, "root", thief.signers["root"])], root, thief.signers
    return other.members(6, paths=OTHER) | {root_name(1): repository.roots[0]}


@pytest.mark.parametrize("theft", THEFTS)
def test_a_stolen_key_of_some_roles_is_not_enough(theft: str, repository: Repository, tmp_path: Path) -> None:
    error, words, offer = THEFTS[theft]
    seen = accept(verify_metadata(repository.members(5), repository.roots[0], None), tmp_path)
    with pytest.raises(error) as refused:
        verify_metadata(offer(repository), repository.roots[0], seen)
    assert (refused.type, without_digests(str(refused.value))) == (error, words)
    assert verify_metadata(repository.members(6), repository.roots[0], seen).version == 6


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_one_of_two_keys_is_not_enough(role: str, tmp_path: Path) -> None:
    """Two people must sign everything. A thief has one key of each role, and lacks only one signature."""
    repository = Repository(threshold=2)
    first = repository.roots[0]
    seen = accept(verify_metadata(repository.members(5), first, None), tmp_path)
    lost, stolen = repository.signers[role]
    repository.signers[role] = [stolen, CryptoSigner.generate_ed25519()]
    if role == "root":
        repository.roots.append(repository.sign(next_root_of(repository), "root", [stolen]))
    with pytest.raises(SignatureError) as refused:
        verify_metadata(repository.members(6, paths=OTHER), first, seen)
    assert f"not signed by key {lost.public_key.keyid[:8]}" in str(refused.value)


def test_a_thief_of_a_root_key_that_signs_alone_becomes_the_sender(repository: Repository, tmp_path: Path) -> None:
    """This is what a threshold of one means, and docs/keys.md says so: nothing here refuses it."""
    seen = accept(verify_metadata(repository.members(5), repository.roots[0], None), tmp_path)
    thief = repository.stolen("root")
    thief.rotate("targets", "snapshot", "timestamp")
    assert verify_metadata(thief.members(6, paths=OTHER), repository.roots[0], seen).version == 6


def test_the_sender_recovers_from_a_version_that_a_thief_made_too_high(repository: Repository, tmp_path: Path) -> None:
    """Somebody who held timestamp, snapshot and targets keys. A root with other keys resets what the site accepted."""
    root, high = repository.roots[0], 1 << 40
    seen = accept(verify_metadata(repository.members(high), root, None), tmp_path)
    with pytest.raises(OlderVersionError, match=f"already accepted version {high}"):
        verify_metadata(repository.members(6), root, seen)
    repository.rotate("timestamp")
    with pytest.raises(OlderVersionError):  # snapshot and targets with that number are still signed by today's keys
        verify_metadata(repository.members(6), root, seen)
    repository.rotate("snapshot", "targets")
    recovered = verify_metadata(repository.members(6), root, seen)
    assert recovered.version == 6
    seen = accept(recovered, tmp_path)
    with pytest.raises(OlderVersionError):
        verify_metadata(repository.members(5), root, seen)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_site_that_a_stolen_key_alone_had_bricked_recovers(role: str, repository: Repository, tmp_path: Path) -> None:
    """Earlier versions of the installer accepted a higher version of one role."""
    root, name = repository.roots[0], {"timestamp": TIMESTAMP, "snapshot": SNAPSHOT, "targets": TARGETS}[role]
    seen = accept(verify_metadata(repository.members(5), root, None), tmp_path)
    (seen / name.removeprefix("metadata/")).write_bytes(repository.members(1 << 40)[name])
    with pytest.raises(OlderVersionError, match=role):
        verify_metadata(repository.members(6), root, seen)
    repository.rotate(role)
    assert verify_metadata(repository.members(6), root, seen).version == 6


# --- revoked keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_a_revoked_key_is_named_with_the_root_that_revoked_it(
    role: str, repository: Repository, tmp_path: Path
) -> None:
    thief = repository.stolen("targets", "snapshot", "timestamp")
    repository.rotate()
    repository.rotate(role)
    name = thief.signers[role][0].public_key.keyid[:8]
    seen = accept(verify_metadata(repository.members(5), repository.roots[0], None), tmp_path)
    words = f"{role}.json is signed by key {name}, and this key was revoked by root 3"
    for members in (thief.members(6), with_newest_roots(thief, repository)):
        with pytest.raises(RevokedKeyError, match=words):
            verify_metadata(members, repository.roots[0], seen)
        with pytest.raises(RevokedKeyError, match=words):  # a new site, whose operator holds the newest root
            verify_metadata(members, repository.roots[2], None)
        with pytest.raises(RevokedKeyError, match=words):  # and no option changes that
            verify_metadata(members, repository.roots[0], seen, allow_downgrade=True, allow_expired=True)


def with_newest_roots(thief: Repository, repository: Repository) -> dict[str, bytes]:
    """The thief puts the sender's newest roots, which are public, before his metadata."""
    thief.roots = repository.roots
    return thief.members(6)


def test_an_installed_release_names_a_revoked_key(repository: Repository) -> None:
    members = repository.members(5)
    repository.rotate("targets")
    with pytest.raises(RevokedKeyError, match="revoked by root 2"):
        verify_kept_metadata(members, repository.roots[1])


def test_a_root_that_was_accepted_holds_for_every_later_archive(repository: Repository, tmp_path: Path) -> None:
    """Otherwise somebody could replay what was signed before a key was changed."""
    before = repository.members(7)
    repository.rotate()
    seen = accept(verify_metadata(repository.members(5), repository.roots[0], None), tmp_path)
    with pytest.raises(OlderVersionError, match="ends at root version 1, this site has accepted root 2"):
        verify_metadata(before, repository.roots[0], seen)
    extended = before | {root_name(2): repository.roots[1]}
    with pytest.raises(MixedMetadataError, match="snapshot was made for root 1, and the archive ends at root 2"):
        verify_metadata(in_order(extended), repository.roots[0], seen)
    assert verify_metadata(before, repository.roots[0], seen, allow_downgrade=True).version == 7


def in_order(members: dict[str, bytes]) -> dict[str, bytes]:
    roots = {name: data for name, data in members.items() if name.endswith(".root.json")}
    return roots | {name: members[name] for name in (TIMESTAMP, SNAPSHOT, TARGETS)}


def test_a_root_may_not_be_cut_off(repository: Repository) -> None:
    repository.rotate()
    members = repository.members(5)
    del members[root_name(2)]
    with pytest.raises(MixedMetadataError, match="made for root 2"):
        verify_metadata(members, repository.roots[0], None)


def test_only_the_archive_s_version_of_root_is_believed(repository: Repository, tmp_path: Path) -> None:
    """Somebody who can write to state/trust puts a root of his own there. It does not continue the sender's."""
    seen = accept(verify_metadata(repository.members(5), repository.roots[0], None), tmp_path)
    other = Repository()
    other.rotate()
    (seen / "root_history" / "2.root.json").write_bytes(other.roots[1])
    assert verify_metadata(repository.members(6), repository.roots[0], seen).version == 6


# --- keys are counted, not key ids -----------------------------------------------------------------------------------


def doubled(respell: Callable[[str], str] = str) -> tuple[Repository, list[CryptoSigner]]:
    """A root with a threshold of two for targets, whose two ids are one key. `respell` writes the key differently."""
    repository = Repository()
    one = repository.signers["targets"][0]
    public = respell(one.public_key.keyval["public"])
    alias = SSlibKey("e" * 64, "ed25519", "ed25519", {"public": public})
    repository.root.add_key(alias, "targets")
    repository.root.roles["targets"].threshold = 2
    second = CryptoSigner(one._private_key, alias)
    repository.signers["targets"] = [one, second]
    repository.roots = [repository.sign(repository.root, "root")]
    return repository, [one, second]


@pytest.mark.parametrize(
    "respell",
    [str, str.upper, lambda text: text[:2] + " " + text[2:]],
    ids=["the same spelling", "upper case", "a space"],
)
def test_one_key_under_two_ids_does_not_meet_a_threshold_of_two(respell: Callable[[str], str]) -> None:
    repository, _ = doubled(respell)
    for operator_root in (repository.roots[0], repository.roots[0] + b"\n"):
        with pytest.raises(UnsoundRootError, match="one key under two ids"):
            verify_metadata(repository.members(), operator_root, None)


def test_one_key_under_two_ids_is_refused_in_every_root_of_the_chain() -> None:
    repository = Repository()
    first = repository.roots[0]
    one = repository.signers["targets"][0].public_key
    repository.root = Root.from_dict(repository.root.to_dict())
    repository.root.version = 2
    repository.root.add_key(SSlibKey("e" * 64, "ed25519", "ed25519", dict(one.keyval)), "targets")
    repository.roots.append(repository.sign(repository.root, "root"))
    with pytest.raises(UnsoundRootError, match=r"2\.root\.json lists one key under two ids"):
        verify_metadata(repository.members(), first, None)


def test_a_threshold_above_the_number_of_keys_is_refused(repository: Repository) -> None:
    repository.root.roles["targets"].threshold = 2
    with pytest.raises(UnsoundRootError, match="demands 2 signatures for targets and lists 1 keys"):
        parse_root(repository.sign(repository.root, "root"))


@pytest.mark.parametrize("kind", ["ecdsa", "rsa", "not on the curve", "short"])
def test_a_root_holds_ed25519_keys_alone(kind: str, repository: Repository) -> None:
    """Of other kinds, two spellings of one key cannot be told from two keys, and a bare Python cannot verify them."""
    keys = {
        "ecdsa": lambda: CryptoSigner.generate_ecdsa().public_key,
        "rsa": lambda: CryptoSigner.generate_rsa(size=2048).public_key,
        "not on the curve": lambda: SSlibKey("f" * 64, "ed25519", "ed25519", {"public": "ff" * 32}),
        "short": lambda: SSlibKey("f" * 64, "ed25519", "ed25519", {"public": "ab"}),
    }
    repository.root.add_key(keys[kind](), "targets")
    with pytest.raises(UnsoundRootError, match="no Ed25519 key"):
        parse_root(repository.sign(repository.root, "root"))


@pytest.mark.parametrize("name", ["a\nb", "", "\u202egnp", "x" * 41, 3, "a b"])
def test_a_key_s_name_cannot_forge_output(name: object, repository: Repository) -> None:
    key = repository.root.keys[repository.root.roles["targets"].keyids[0]]
    key.unrecognized_fields["name"] = name
    with pytest.raises(MalformedMetadataError, match="name"):
        parse_root(repository.sign(repository.root, "root"))


# --- signatures that are missing, or too many ------------------------------------------------------------------------


def test_the_refusal_says_who_signed_and_who_did_not() -> None:
    repository = Repository(threshold=2)
    names = {}
    for name, signer in zip(("alice", "bob"), repository.signers["targets"], strict=True):
        repository.root.keys[signer.public_key.keyid].unrecognized_fields["name"] = name
        names[name] = f"{name} ({signer.public_key.keyid[:8]})"
    repository.roots = [repository.sign(repository.root, "root")]
    repository.signers["targets"].pop()
    with pytest.raises(SignatureError) as refused:
        verify_metadata(repository.members(), repository.roots[0], None)
    assert str(refused.value) == (
        "metadata/targets.json lacks signatures, so the archive is not finished: 1 of 2 needed signatures; "
        f"signed by {names['alice']}; not signed by {names['bob']}"
    )


def test_an_archive_has_exactly_the_signatures_that_its_root_demands(repository: Repository) -> None:
    """Otherwise somebody could add a signature, and one archive would have several encodings."""
    for name in (TIMESTAMP, SNAPSHOT, TARGETS):
        members = repository.members()
        role = name.rsplit("/", 1)[1].removesuffix(".json")
        more = [*repository.signers[role], CryptoSigner.generate_ed25519()]
        members[name] = repository.sign(Metadata.from_bytes(members[name]).signed, role, more)
        with pytest.raises(MalformedMetadataError, match="2 signatures; its root demands exactly 1"):
            verify_metadata(members, repository.roots[0], None)


def test_a_root_has_no_signature_that_counts_for_nothing(repository: Repository) -> None:
    more = [*repository.signers["root"], CryptoSigner.generate_ed25519()]
    repository.roots.append(repository.sign(next_root_of(repository), "root", more))
    with pytest.raises(MalformedMetadataError, match=r"2\.root\.json has a signature that counts for nothing"):
        verify_metadata(repository.members(), repository.roots[0], None)


def next_root_of(repository: Repository) -> Root:
    root = Root.from_dict(repository.root.to_dict())
    root.version += 1
    return root


def test_signatures_have_one_order() -> None:
    repository = Repository(threshold=2)
    members = repository.members()
    body = json.loads(members[TARGETS])
    body["signatures"].reverse()
    members[TARGETS] = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(MalformedMetadataError, match="one spelling"):
        verify_metadata(members, repository.roots[0], None)


def test_the_same_release_may_be_signed_by_others_of_the_group(tmp_path: Path) -> None:
    repository = Repository()
    second = CryptoSigner.generate_ed25519()
    repository.root.add_key(second.public_key, "timestamp")
    repository.roots = [repository.sign(repository.root, "root")]
    seen = accept(verify_metadata(repository.members(5), repository.roots[0], None), tmp_path)
    repository.signers["timestamp"] = [second]
    assert verify_metadata(repository.members(5), repository.roots[0], seen).version == 5


def test_a_file_that_is_named_without_a_digest_is_refused(repository: Repository) -> None:
    """A thief of the targets key could exchange the targets under a genuine snapshot."""

    def weaken(signed: object) -> None:
        for info in getattr(signed, "meta", {}).values():
            info.unrecognized_fields.clear()

    with pytest.raises(MalformedMetadataError, match=r"snapshot\.json names metadata/targets\.json without a digest"):
        verify_metadata(repository.members(change=weaken), repository.roots[0], None)


# --- metadata of no sense --------------------------------------------------------------------------------------------

ODD: list[object] = [
    None,
    True,
    -1,
    1.5,
    1 << 70,
    "",
    "\ud800",
    [],
    {},
    ["a", "a"],
    [["a"]],
    float("nan"),
    "2026-13-45T00:00:00Z",
]


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))  # type: ignore[index]


def with_value(document: object, path: tuple[str | int, ...], value: object) -> object:
    if not path:
        return value
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", [root_name(1), root_name(2), TIMESTAMP, SNAPSHOT, TARGETS])
def test_any_value_in_any_place_is_refused_in_a_sentence(name: str, repository: Repository) -> None:
    """Who has no key can still write whatever they like on a stick."""
    repository.rotate()
    members, tried = repository.members(), 0
    document = json.loads(members[name])
    for path in places(document):
        for value in ODD:
            data = json.dumps(with_value(document, path, value), separators=(",", ":"), sort_keys=True).encode()
            if data == members[name]:
                continue
            tried += 1
            with pytest.raises(TrustError):
                verify_metadata(members | {name: data}, repository.roots[0], None)
            if name == root_name(1):
                with contextlib.suppress(TrustError):  # python-tuf reads null as the default that was signed
                    assert parse_root(data).signed_bytes == Metadata.from_bytes(members[name]).signed_bytes
    assert tried > 100


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\u202egnp"])
def test_names_of_a_root_that_nobody_trusts_forge_no_output(name: str, repository: Repository) -> None:
    """The operator's root is version 2; somebody exchanges the root before it."""
    repository.rotate()
    members, thief = repository.members(), Repository()
    thief.root.keys[thief.root.roles["root"].keyids[0]].unrecognized_fields["name"] = name
    members[root_name(1)] = thief.sign(thief.root, "root")
    with pytest.raises(TrustError) as refused:
        verify_metadata(members, repository.roots[1], None)
    assert str(refused.value).isprintable()


def test_metadata_of_version_0_1_is_accepted(repository: Repository) -> None:
    """Its files name each other by the length and digest of the whole file, and do not name the root."""

    def old_form(signed: object) -> None:
        if isinstance(signed, Snapshot):
            signed.unrecognized_fields.clear()
            signed.meta["targets.json"] = by_digest(repository.sign(made[0], "targets"))
        if isinstance(signed, Timestamp):
            signed.snapshot_meta = by_digest(repository.sign(made[1], "snapshot"))
        made.append(signed)

    made: list[object] = []
    members = repository.members(7, change=old_form)
    assert b"signed_sha256" not in members[TIMESTAMP] + members[SNAPSHOT]
    assert verify_metadata(members, repository.roots[0], None).version == 7


def by_digest(data: bytes) -> MetaFile:
    return MetaFile(7, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


# --- what a mail program does to root.json ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mail",
    [lambda d: d + b"\n", lambda d: d + b"\r\n", lambda d: b"\xef\xbb\xbf" + d, lambda d: b"\n " + d + b"\t\n\n",
     lambda d: json.dumps(json.loads(d), indent=2).replace("\n", "\r\n").encode()],
    ids=["newline", "CRLF", "byte order mark", "blanks", "pretty-printed with CRLF"],
)  # fmt: skip
def test_a_root_that_a_mailer_changed_is_still_that_root(
    mail: Callable[[bytes], bytes], repository: Repository, tmp_path: Path
) -> None:
    mailed = mail(repository.roots[0])
    seen = accept(verify_metadata(repository.members(5), mailed, None), tmp_path)
    assert (seen / "root_history" / "1.root.json").read_bytes() == repository.roots[0]
    verify_metadata(repository.members(6), mailed, seen)
    verify_kept_metadata(repository.members(5), mailed)


# --- a site that has forgotten ---------------------------------------------------------------------------------------


def copy_of(seen: Path) -> dict[str, bytes]:
    return {f"metadata/{path.name}": path.read_bytes() for path in seen.rglob("*.json")}


@pytest.mark.parametrize("loss", ["absent", "empty", "damaged", "an older copy"])
def test_losing_state_trust_does_not_lose_what_was_accepted(loss: str, repository: Repository, tmp_path: Path) -> None:
    root = repository.roots[0]
    older = accept(verify_metadata(repository.members(3), root, None), tmp_path / "older")
    seen = accept(verify_metadata(repository.members(5), root, None), tmp_path / "seen")
    kept = [copy_of(seen)]
    if loss == "an older copy":
        shutil.copytree(older, seen, dirs_exist_ok=True)
    elif loss == "damaged":
        for path in seen.rglob("*.json"):
            path.write_bytes(path.read_bytes()[:-9])
    else:
        shutil.rmtree(seen)
        if loss == "empty":
            seen.mkdir()
    with pytest.raises(OlderVersionError):
        verify_metadata(repository.members(4), root, seen, kept=kept)
    verified = verify_metadata(repository.members(6), root, seen, kept=kept)
    assert verified.notes == (
        () if loss == "an older copy" else
        ("state/trust was lost or damaged; the copies outside state/ say what this site has accepted",)
    )  # fmt: skip


def test_a_site_with_releases_that_remembers_nothing_is_refused(repository: Repository, tmp_path: Path) -> None:
    root = repository.roots[0]
    with pytest.raises(TrustLostError, match="restore one of them from a backup, or type --allow-downgrade"):
        verify_metadata(repository.members(5), root, tmp_path, kept=[{}])
    verified = verify_metadata(repository.members(5), root, tmp_path, kept=[{}], allow_downgrade=True)
    assert "state/trust was lost" in verified.notes[0]


def test_a_stranger_s_metadata_in_the_places_is_not_a_memory(repository: Repository, tmp_path: Path) -> None:
    other = Repository().members(9)
    seen = accept(verify_metadata(other, other[root_name(1)], None), tmp_path)
    shutil.rmtree(seen / "root_history")
    with pytest.raises(TrustLostError):
        verify_metadata(repository.members(5), repository.roots[0], seen, kept=[{}])


# --- what the operator may allow -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", [4, 5])
def test_a_downgrade_is_allowed_only_by_that_word(offered: int, repository: Repository, tmp_path: Path) -> None:
    root = repository.roots[0]
    seen = accept(verify_metadata(repository.members(5), root, None), tmp_path)
    members = repository.members(offered, paths=OTHER)
    with pytest.raises((OlderVersionError, VersionConflictError)):
        verify_metadata(members, root, seen, allow_expired=True)
    assert verify_metadata(members, root, seen, allow_downgrade=True).version == offered


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", "root"])
def test_expired_metadata_is_allowed_only_by_that_word(role: str) -> None:
    past = NOW.replace(year=NOW.year - 1)
    repository = Repository(root_expires=past if role == "root" else LATER)
    members = repository.members(5, expires={role: past})
    with pytest.raises(ExpiredError, match=f"{role}.json expired on {past:%Y-%m-%d}"):
        verify_metadata(members, repository.roots[0], None, allow_downgrade=True)
    assert verify_metadata(members, repository.roots[0], None, allow_expired=True).version == 5


def test_no_option_replaces_a_signature(repository: Repository) -> None:
    assert ROOT_VERSION not in repository.root.unrecognized_fields
    for role in ("targets", "snapshot", "timestamp"):
        kept = [r for r in ("targets", "snapshot", "timestamp") if r != role]
        with pytest.raises(UnknownKeyError, match=role):
            verify_metadata(
                repository.stolen(*kept).members(5), repository.roots[0], None,
                allow_downgrade=True, allow_expired=True,
            )  # fmt: skip
