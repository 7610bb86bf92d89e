"""Keys, the ledger that makes signing repeatable, and the signed metadata."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bundler.errors import KeysError
from bundler.keys import generate_keys, load_keys
from bundler.ledger import Signing, decide_signing
from bundler.roots import ROLES
from bundler.sign import sign_targets
from installer.archive import Sha256Hex
from installer.targets import Target
from installer.trust import verify_metadata

NOW = datetime.now(UTC).replace(microsecond=0)
END = NOW + timedelta(days=30)
TARGETS = (Target("release.json", Sha256Hex("ab" * 32), 3), Target("model/a", Sha256Hex("cd" * 32), 9))
OTHERS = (TARGETS[0], replace(TARGETS[1], path="model/b"))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate_keys(tmp_path / "keys", expires=END)
    return tmp_path / "keys"


def decide(keys: Path, targets: tuple[Target, ...], *, version: int | None = None, now: datetime = NOW) -> Signing:
    return decide_signing(load_keys(keys), targets, lifetime_end=now + timedelta(days=9), version=version, now=now)


def test_private_keys_are_readable_by_their_owner_alone(keys: Path) -> None:
    assert keys.stat().st_mode & 0o777 == 0o700
    assert [(keys / f"{role}.pem").stat().st_mode & 0o777 for role in ROLES] == [0o600] * 4
    assert b"PRIVATE" not in (keys / "root.json").read_bytes()


def test_existing_keys_are_never_overwritten(keys: Path) -> None:
    before = {path: path.read_bytes() for path in keys.iterdir()}
    with pytest.raises(KeysError, match="never overwritten"):
        generate_keys(keys, expires=END)
    assert {path: path.read_bytes() for path in keys.iterdir()} == before


@pytest.mark.parametrize("damage", ["other key", "not a key", "readable by others"])
def test_unusable_keys_are_refused_by_name(damage: str, keys: Path, tmp_path: Path) -> None:
    path = keys / "targets.pem"
    if damage == "other key":
        path.write_bytes((keys / "snapshot.pem").read_bytes())
    elif damage == "not a key":
        path.write_bytes(b"hello")
    else:
        path.chmod(0o644)
    with pytest.raises(KeysError, match=r"targets\.pem"):
        load_keys(keys)


def test_the_metadata_is_what_the_installer_accepts(keys: Path) -> None:
    loaded = load_keys(keys)
    members = sign_targets(loaded, TARGETS, Signing(7, END))
    verified = verify_metadata(members, (keys / "root.json").read_bytes(), None)
    assert verified.targets == tuple(sorted(TARGETS, key=lambda t: t.path))
    assert (verified.version, verified.expires) == (7, END.isoformat())


def test_the_same_contents_keep_their_version_and_expiry(keys: Path) -> None:
    first = decide(keys, TARGETS)
    assert decide(keys, tuple(reversed(TARGETS)), now=NOW + timedelta(days=2)) == first
    assert sign_targets(load_keys(keys), TARGETS, first) == sign_targets(load_keys(keys), TARGETS, first)


def test_a_version_is_the_time_of_signing(keys: Path) -> None:
    """So two build places without one ledger do not both sign version 2."""
    assert decide(keys, TARGETS).version == int(NOW.strftime("%Y%m%d%H%M%S"))


def test_other_contents_get_a_higher_version(keys: Path) -> None:
    first = decide(keys, TARGETS).version
    assert decide(keys, OTHERS).version == first + 1  # in the same second
    assert decide(keys, OTHERS[:1], now=NOW - timedelta(days=3)).version == first + 2  # by a clock that was set back
    assert decide(keys, TARGETS).version == first


def test_a_clock_that_has_lost_its_time_gives_no_version(keys: Path) -> None:
    with pytest.raises(KeysError, match="1970-01-01"):
        decide(keys, TARGETS, now=datetime(1970, 1, 1, tzinfo=UTC))


def test_contents_get_a_new_version_under_a_new_root(keys: Path) -> None:
    first = decide(keys, TARGETS)
    loaded = load_keys(keys)
    second = decide_signing(
        replace(loaded, roots=loaded.roots * 2), TARGETS, lifetime_end=END, version=None, now=NOW
    )  # fmt: skip
    assert second.version > first.version


def test_contents_whose_signature_has_expired_are_signed_anew(keys: Path) -> None:
    decide(keys, TARGETS)
    later = decide(keys, TARGETS, now=NOW + timedelta(days=10))
    assert later == Signing(int((NOW + timedelta(days=10)).strftime("%Y%m%d%H%M%S")), NOW + timedelta(days=19))


def test_one_version_is_never_given_to_two_contents(keys: Path) -> None:
    decide(keys, TARGETS, version=5)
    with pytest.raises(KeysError, match="version 5"):
        decide(keys, OTHERS, version=5)
    assert decide(keys, OTHERS).version > 6


@pytest.mark.parametrize("ledger", ["[", "{}x", '{"a": 1}', '[{"version": 1}]', "[3]"])
def test_a_damaged_ledger_is_refused(ledger: str, keys: Path) -> None:
    (keys / "signed.json").write_text(ledger)
    with pytest.raises(KeysError, match="ledger"):
        decide(keys, TARGETS)
    assert (keys / "signed.json").read_text() == ledger


def test_the_ledger_says_what_was_signed(keys: Path) -> None:
    decide(keys, TARGETS)
    (entry,) = json.loads((keys / "signed.json").read_text())
    assert (entry["version"], entry["root"]) == (int(NOW.strftime("%Y%m%d%H%M%S")), 1)
    assert datetime.fromisoformat(entry["expires"]) == NOW + timedelta(days=9)
