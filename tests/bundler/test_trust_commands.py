"""`bundler trust` and the keys behind it: roots follow each other, and what a site with the first root makes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from bundler.errors import KeysError
from bundler.keys import INSTALLER_KEY, generate_keys, generate_person, load_keys, load_signers
from bundler.ledger import Signing, decide_signing
from bundler.roots import next_root, parse_draft
from bundler.sign import sign_targets
from installer.archive import Sha256Hex
from installer.errors import OlderVersionError, RevokedKeyError, VersionConflictError
from installer.targets import Target
from installer.trust import VerifiedMetadata, verify_metadata
from tests.bundler.test_signing import PEOPLE, Place, bundler, group, place, public_keys
from tests.installer.archives import NOW
from tests.installer.repository import LATER, accept

__all__ = ["group", "place"]  # fixtures
TARGETS = (Target("release.json", Sha256Hex("ab" * 32), 3),)
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """One person's directory."""
    generate_keys(tmp_path / "keys", expires=LATER)
    return tmp_path / "keys"


def offer(keys: Path, version: int, root: bytes, seen: Path | None = None) -> VerifiedMetadata:
    """What a site makes of an archive that is signed with these keys."""
    return verify_metadata(sign_targets(load_keys(keys), TARGETS, Signing(version, LATER)), root, seen)


# --- one person ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_a_rotated_key_s_archives_are_accepted_and_the_old_key_s_are_not(role: str, keys: Path, tmp_path: Path) -> None:
    root = (keys / "root.json").read_bytes()
    shutil.copytree(keys, tmp_path / "stolen")
    seen = accept(offer(keys, 5, root), tmp_path / "seen")
    bundler("trust", "rotate", "--keys", keys, "--role", role)
    assert json.loads((keys / "root.json").read_bytes())["signed"]["version"] == 2
    assert (keys / "1.root.json").read_bytes() == root
    assert {p.name for p in keys.glob("*.until-root-2")} == {f"{role}.pem.until-root-2"}
    seen = accept(offer(keys, 6, root, seen), tmp_path / "seen")
    with pytest.raises(OlderVersionError if role == "root" else RevokedKeyError):
        offer(tmp_path / "stolen", 7, root, seen)


def test_a_thief_s_high_version_is_recovered_from(keys: Path, tmp_path: Path) -> None:
    root = (keys / "root.json").read_bytes()
    shutil.copytree(keys, tmp_path / "stolen")
    seen = accept(offer(tmp_path / "stolen", 1 << 50, root), tmp_path / "seen")
    with pytest.raises(OlderVersionError):
        offer(keys, 6, root, seen)
    words = [word for role in ("targets", "snapshot", "timestamp") for word in ("--role", role)]
    bundler("trust", "rotate", "--keys", keys, *words)
    assert offer(keys, 6, root, seen).version == 6


def test_a_root_gets_another_end(keys: Path) -> None:
    bundler("trust", "expire", "--keys", keys, "--on", "2031-02-03")
    bundler("trust", "expire", "--keys", keys, "--days", "9")
    chain = [parse_draft(root).signed for root in load_keys(keys).roots]
    assert [root.version for root in chain] == [1, 2, 3]
    assert f"{chain[1].expires:%Y-%m-%d}" == "2031-02-03"
    assert (chain[2].expires - NOW).days in (8, 9)


def test_the_only_key_of_a_role_is_not_revoked_without_another(keys: Path) -> None:
    keyid = parse_draft((keys / "root.json").read_bytes()).signed.roles["timestamp"].keyids[0]
    refused = bundler("trust", "revoke", keyid[:12], "--keys", keys, code=1)
    assert "timestamp has 0 keys and demands 1 signatures: give the public half of another key" in refused.stderr


def test_a_kill_between_the_root_and_the_exchange_of_keys_does_no_harm(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundler.keys.settle", lambda directory, newest: None)
    bundler("trust", "rotate", "--keys", keys, "--role", "targets")
    assert not (keys / "targets.pem.until-root-2").exists()
    monkeypatch.undo()
    assert offer(keys, 6, (keys / "root.json").read_bytes()).version == 6


def test_there_are_no_more_roots_than_an_archive_can_carry(keys: Path) -> None:
    root = parse_draft((keys / "root.json").read_bytes()).signed
    root.version = 63
    root = next_root(root, {}).signed
    with pytest.raises(KeysError, match="an archive can carry 64 roots"):
        next_root(root, {})


def test_two_build_places_without_one_ledger(keys: Path, tmp_path: Path) -> None:
    """The second signs other contents a second later, and then in the same second."""
    root, elsewhere = (keys / "root.json").read_bytes(), tmp_path / "elsewhere"
    shutil.copytree(keys, elsewhere)
    others = (*TARGETS, Target("model/a", Sha256Hex("cd" * 32), 9))

    def signed(directory: Path, targets: tuple[Target, ...], now: datetime) -> dict[str, bytes]:
        loaded = load_keys(directory)
        signing = decide_signing(loaded, targets, lifetime_end=LATER, version=None, now=now)
        return sign_targets(loaded, targets, signing)

    seen = accept(verify_metadata(signed(keys, TARGETS, NOW), root, None), tmp_path / "seen")
    verify_metadata(signed(elsewhere, others, NOW + timedelta(seconds=1)), root, seen)
    (elsewhere / "signed.json").unlink()
    words = "two archives have version [0-9]{14} and differ .*: two build places signed without one ledger"
    with pytest.raises(VersionConflictError, match=words):
        verify_metadata(signed(elsewhere, others, NOW), root, seen)


# --- several people --------------------------------------------------------------------------------------------------


def test_two_of_three_revoke_the_third(place: Place, tmp_path: Path) -> None:
    root = place.root
    said = bundler("trust", "revoke", "bob", "--keys", place.keys)
    assert "root: 2 of 2 must sign: alice" in said.stdout
    assert "NOT complete" in said.stdout
    assert place.root == root  # nothing is in force yet
    copies = []
    for name in ("alice", "carol"):  # at the same time, at different places
        copy = tmp_path / name / "root-to-sign.json"
        copy.parent.mkdir()
        copy.write_bytes((place.keys / "next-root.json").read_bytes())
        refused = bundler("sign", copy, "--keys", place.person(name), "--yes", code=1)
        assert "give root 1 with --root" in refused.stderr
        (tmp_path / "root.json").write_bytes(root)
        bundler("sign", copy, "--keys", place.person(name), "--root", tmp_path / "root.json", "--yes")
        copies.append(copy)
    bundler("trust", "adopt", copies[0], "--keys", place.keys)
    bundler("trust", "adopt", copies[1], "--keys", place.keys)
    assert json.loads(place.root)["signed"]["version"] == 2
    assert not (place.keys / "next-root.json").exists()
    assert bundler("trust", "adopt", "--keys", place.keys, code=1).stderr.count("does not exist") == 1


@pytest.mark.parametrize("names", [("bob",), ("alice",), ("bob", "bob")])
def test_one_of_three_changes_nothing(names: tuple[str, ...], place: Place) -> None:
    bundler("trust", "expire", "--on", "2040-01-01", "--keys", place.keys)
    for name in names:
        bundler("sign", place.keys / "next-root.json", "--keys", place.person(name), "--yes")
    bundler("trust", "adopt", "--keys", place.keys)
    assert json.loads(place.root)["signed"]["version"] == 1


def test_somebody_is_replaced(place: Place) -> None:
    generate_person(place.person("dora"), "dora")
    bundler("trust", "revoke", "bob", "--replace-with", place.person("dora") / "dora.pub", "--keys", place.keys)
    for name in ("alice", "carol"):
        bundler("sign", place.keys / "next-root.json", "--keys", place.person(name), "--yes")
    shown = json.loads(bundler("trust", "show", "--json", "--keys", place.keys).stdout)
    (newest,) = shown
    names = [key.split()[0] for key in newest["roles"]["targets"]["keys"]]
    assert (newest["version"], names, newest["complete"]) == (2, ["alice", "carol", "dora"], True)


def test_a_role_without_people_has_those_of_the_role_before(place: Place, tmp_path: Path) -> None:
    words = public_keys(place, "--root-key")
    build = public_keys(place, "--snapshot-key", ["bob"])
    bundler(
        "trust", "new", "--keys", tmp_path / "new", *words, "--root-threshold", "3", "--targets-threshold", "2", *build
    )
    (draft,) = json.loads(bundler("trust", "show", "--json", "--keys", tmp_path / "new").stdout)
    roles = {role: (len(said["keys"]), said["threshold"]) for role, said in draft["roles"].items()}
    assert roles == {"root": (3, 3), "targets": (3, 2), "snapshot": (1, 1), "timestamp": (1, 1)}
    assert draft["complete"] is False


def doubled_person(place: Place) -> list[str | Path]:
    """Alice's key, given a second time under another name."""
    public = json.loads((place.person("alice") / "alice.pub").read_bytes()) | {"name": "mallory"}
    (place.directory / "mallory.pub").write_text(json.dumps(public))
    return ["--root-key", place.directory / "mallory.pub", *public_keys(place, "--root-key", ["alice"])]


def private_half(place: Place) -> list[str | Path]:
    return ["--root-key", place.person("alice") / "alice.pem"]


def other_kind(place: Place) -> list[str | Path]:
    (place.directory / "rsa.pub").write_text('{"keytype":"rsa","scheme":"x","keyval":{"public":"ab"}}')
    return ["--root-key", place.directory / "rsa.pub"]


def too_few(place: Place) -> list[str | Path]:
    return [*public_keys(place, "--root-key"), "--targets-threshold", "4"]


REFUSED: dict[str, tuple[Callable[[Place], list[str | Path]], str]] = {
    "one key, two names": (doubled_person, "signatures for root and lists 1 keys"),
    "a private key": (private_half, "is not the public half"),
    "another kind of key": (other_kind, "is not the public half"),
    "more than there are": (too_few, "demands 4 signatures for targets and lists 3 keys"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_root_that_promises_too_much_is_not_made(case: str, place: Place, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    refused = bundler("trust", "new", "--keys", tmp_path / "new", *make(place), "--root-threshold", "2", code=1)
    assert words in refused.stderr
    assert not list((tmp_path / "new").glob("*.json"))


# --- keys at rest ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "passphrase"
    path.touch(mode=0o600)
    path.write_text(f"{PASSPHRASE}\n")
    return path


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right number takes half a second for each key."""
    monkeypatch.setattr("bundler.private_keys._ROUNDS", 70_000)


@pytest.mark.usefixtures("few_rounds")
def test_encrypted_keys_sign_with_their_passphrase_alone(tmp_path: Path, secret_file: Path) -> None:
    bundler("keygen", "--keys", tmp_path / "keys", "--passphrase-file", secret_file)
    texts = [path.read_bytes() for path in (tmp_path / "keys").glob("*.pem") if path.name != INSTALLER_KEY]
    assert len(texts) == 4
    assert all(b"BEGIN ENCRYPTED PRIVATE KEY" in text for text in texts)
    with pytest.raises(KeysError, match="is encrypted: give --passphrase-file"):
        load_keys(tmp_path / "keys")
    with pytest.raises(KeysError, match="the passphrase does not open it"):
        load_keys(tmp_path / "keys", lambda: "something else")
    assert len(load_keys(tmp_path / "keys", lambda: PASSPHRASE).signers) == 3


@pytest.mark.usefixtures("few_rounds")
def test_a_rotated_key_is_encrypted_like_the_one_before(tmp_path: Path, secret_file: Path) -> None:
    bundler("keygen", "--keys", tmp_path / "keys", "--passphrase-file", secret_file)
    bundler("trust", "rotate", "--keys", tmp_path / "keys", "--role", "timestamp", "--passphrase-file", secret_file)
    assert b"ENCRYPTED" in (tmp_path / "keys" / "timestamp.pem").read_bytes()
    assert len(load_keys(tmp_path / "keys", lambda: PASSPHRASE).signers) == 3


def test_openssl_reads_an_encrypted_key(tmp_path: Path) -> None:
    """The key is in a standard form, with as many rounds as we say."""
    generate_person(tmp_path / "ada", "ada", passphrase=PASSPHRASE)
    pem = tmp_path / "ada" / "ada.pem"
    read = subprocess.run(
        ["openssl", "pkey", "-in", pem, "-passin", f"pass:{PASSPHRASE}", "-pubout", "-outform", "DER"],
        capture_output=True, check=True,
    )  # fmt: skip
    public = load_signers(tmp_path / "ada", lambda: PASSPHRASE)[0].public_key.keyval["public"]
    assert read.stdout[-32:].hex() == public
    parsed = subprocess.run(["openssl", "asn1parse", "-in", pem], capture_output=True, text=True, check=True).stdout
    assert "PBKDF2" in parsed
    assert f":{600_000:06X}" in parsed


@pytest.mark.parametrize(
    ("text", "words"), [("", "is empty"), ("\n", "is empty"), ("short", "the passphrase has 5 characters")]
)
def test_a_passphrase_that_protects_nothing_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_text(text)
    refused = bundler("keygen", "--keys", tmp_path / "keys", "--passphrase-file", tmp_path / "secret", code=1)
    assert words in refused.stderr


def test_a_passphrase_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PASSPHRASE)
    (tmp_path / "secret").chmod(0o640)
    refused = bundler("keygen", "--keys", tmp_path / "keys", "--passphrase-file", tmp_path / "secret", code=1)
    assert "can be read by others; set its mode to 0600" in refused.stderr
    assert not (tmp_path / "keys").exists()


def test_without_a_passphrase_the_command_says_so(tmp_path: Path) -> None:
    said = bundler("keygen", "--keys", tmp_path / "keys", "--no-passphrase").stdout
    assert "The private keys are NOT encrypted." in said


@pytest.mark.parametrize("name", ["root", "a b", "../x", "", "ä", "x" * 41])
def test_a_person_s_name_is_a_plain_word(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot name a key"):
        generate_person(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


def test_the_people_of_the_group_are_there(group: Path) -> None:
    assert all((group / name / f"{name}.pub").exists() for name in PEOPLE)
