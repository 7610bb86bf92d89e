"""Which signed metadata is accepted: keys, versions, dates, rotation. Every refusal has a class of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from installer import targets, trust
from installer.archive import MAX_TARGETS, SNAPSHOT, TARGETS, TIMESTAMP, root_name
from installer.errors import (
    ClockError,
    EscapingPathError,
    ExpiredError,
    InstallerError,
    LimitError,
    MalformedMetadataError,
    MixedMetadataError,
    OlderVersionError,
    SignatureError,
    UnknownKeyError,
    VersionConflictError,
)
from installer.root_chain import CANONICAL
from installer.trust import verify_metadata
from tests.installer.archives import NOW
from tests.installer.repository import DIGEST, LATER, Repository, accept, forwarded

EARLIER = NOW - timedelta(days=1)


@pytest.fixture(scope="module")
def repository() -> Repository:
    return Repository()


def test_accepts_metadata_signed_by_the_root_s_keys(repository: Repository) -> None:
    verified = verify_metadata(repository.members(3), repository.roots[0], None)
    assert [(t.path, t.sha256, t.size_bytes) for t in verified.targets] == [("release.json", DIGEST, 3)]
    assert verified.version == 3
    assert verified.expires == LATER.isoformat()


def test_refuses_another_sender_s_archive(repository: Repository) -> None:
    with pytest.raises(UnknownKeyError):
        verify_metadata(Repository().members(), repository.roots[0], None)


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_refuses_a_role_signed_by_an_unknown_key(role: str) -> None:
    repository = Repository()
    repository.signers[role] = [CryptoSigner.generate_ed25519()]
    with pytest.raises(UnknownKeyError, match=role):
        verify_metadata(repository.members(), repository.roots[0], None)


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_refuses_a_signature_made_for_other_contents(role: str, repository: Repository) -> None:
    name = {"targets": TARGETS, "snapshot": SNAPSHOT, "timestamp": TIMESTAMP}[role]
    members = repository.members()
    mine: Metadata[Any] = Metadata.from_bytes(members[name])
    other: Metadata[Any] = Metadata.from_bytes(repository.members(2)[name])
    mine.signatures = other.signatures
    with pytest.raises((SignatureError, MixedMetadataError)) as refused:
        verify_metadata(members | {name: mine.to_bytes(CANONICAL)}, repository.roots[0], None)
    if role == "timestamp":
        assert refused.type is SignatureError


def test_refuses_fewer_signatures_than_the_threshold() -> None:
    repository = Repository(threshold=2)
    verify_metadata(repository.members(), repository.roots[0], None)
    repository.signers["targets"].pop()
    with pytest.raises(SignatureError, match="targets"):
        verify_metadata(repository.members(), repository.roots[0], None)


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_refuses_expired_metadata(role: str, repository: Repository) -> None:
    with pytest.raises(ExpiredError, match=role):
        verify_metadata(repository.members(expires={role: EARLIER}), repository.roots[0], None)


def test_refuses_an_expired_root() -> None:
    repository = Repository(root_expires=EARLIER)
    with pytest.raises(ExpiredError, match="root"):
        verify_metadata(repository.members(), repository.roots[0], None)


@pytest.mark.parametrize("now", ["1970-01-02", "1999-03-01", "2026-10-31"])
def test_refuses_a_clock_that_has_lost_its_time(
    now: str, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By such a clock, everything that has expired would be valid again."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Stopped:
            return cls.fromisoformat(now).replace(tzinfo=tz)

    monkeypatch.setattr(trust, "datetime", Stopped)
    with pytest.raises(ClockError, match=f"clock says {now}, which is before this program was written"):
        verify_metadata(repository.members(), repository.roots[0], None)


def test_refuses_an_older_version_than_the_site_has_accepted(repository: Repository, tmp_path: Path) -> None:
    root = repository.roots[0]
    seen = accept(verify_metadata(repository.members(5), root, None), tmp_path)
    verify_metadata(repository.members(6), root, seen)
    with pytest.raises(OlderVersionError, match="version 4"):
        verify_metadata(repository.members(4), root, seen)


def test_refuses_older_contents_under_a_newer_timestamp(repository: Repository, tmp_path: Path) -> None:
    root = repository.roots[0]
    seen = accept(verify_metadata(repository.members(5), root, None), tmp_path)
    with pytest.raises(MixedMetadataError, match="a key was stolen"):
        verify_metadata(forwarded(repository, repository.members(4), 9), root, seen)


def test_refuses_two_contents_under_one_version(repository: Repository, tmp_path: Path) -> None:
    root = repository.roots[0]
    seen = accept(verify_metadata(repository.members(5), root, None), tmp_path)
    verify_metadata(repository.members(5), root, seen)
    with pytest.raises(VersionConflictError, match="two archives have version 5 and differ"):
        verify_metadata(repository.members(5, paths={"release.json": "cd" * 32}), root, seen)


@pytest.mark.parametrize("name", [SNAPSHOT, TARGETS])
def test_refuses_metadata_of_two_archives_mixed(name: str, repository: Repository) -> None:
    mixed = repository.members(1) | {name: repository.members(2)[name]}
    with pytest.raises(MixedMetadataError):
        verify_metadata(mixed, repository.roots[0], None)


def test_follows_a_rotated_root_and_still_accepts_an_operator_with_the_old_one(tmp_path: Path) -> None:
    repository = Repository()
    seen = accept(verify_metadata(repository.members(1), repository.roots[0], None), tmp_path)
    repository.rotate()
    for root in repository.roots:
        verify_metadata(repository.members(2), root, None)
    seen = accept(verify_metadata(repository.members(2), repository.roots[0], seen), tmp_path)
    assert (seen / "root_history" / "2.root.json").read_bytes() == repository.roots[1]


def test_refuses_a_rotated_root_that_the_old_keys_did_not_sign() -> None:
    repository = Repository()
    repository.rotate(signed_by_old=False)
    for root in repository.roots:
        with pytest.raises(SignatureError):
            verify_metadata(repository.members(), root, None)


def test_refuses_an_archive_older_than_the_operator_s_root() -> None:
    repository = Repository()
    old = repository.members()
    repository.rotate()
    with pytest.raises(OlderVersionError, match="root"):
        verify_metadata(old, repository.roots[1], None)


def test_a_site_keeps_to_the_root_it_was_installed_with(repository: Repository, tmp_path: Path) -> None:
    seen = accept(verify_metadata(repository.members(), repository.roots[0], None), tmp_path)
    other = Repository()
    with pytest.raises(UnknownKeyError):
        verify_metadata(other.members(9), other.roots[0], seen)


@pytest.mark.parametrize(
    "respell",
    [
        lambda data: data + b"\n", lambda data: data.replace(b":", b": ", 1),
        lambda data: data.replace(*_upper_case_signature(data)),
        lambda data: data[:-1], lambda data: b"[" * 100_000, lambda data: b"\xff" + data, lambda data: b"",
    ],
    ids=["newline", "space", "upper-case signature", "cut", "nested", "not UTF-8", "empty"],
)  # fmt: skip
@pytest.mark.parametrize("name", [root_name(1), TIMESTAMP, SNAPSHOT, TARGETS])
def test_metadata_has_one_spelling(name: str, respell: Callable[[bytes], bytes], repository: Repository) -> None:
    members = repository.members()
    with pytest.raises(MalformedMetadataError):
        verify_metadata(members | {name: respell(members[name])}, repository.roots[0], None)


def _upper_case_signature(data: bytes) -> tuple[bytes, bytes]:
    """The signature, and the same number in upper-case letters: other bytes."""
    signature = data.split(b'"sig":"', 1)[1].split(b'"', 1)[0]
    return signature, signature.upper()


@pytest.mark.parametrize(
    "path",
    ["../up", "a/../../up", "/etc/passwd", "a//b", "a/./b", "", ".hidden", "a/.hidden", "a\\b", "a\nb", "a b", "ä",
     "venv/bin/python", "receipt.json", "manifest.json", "metadata/1.root.json", "-rf", "x" * 300],
)  # fmt: skip
def test_refuses_target_paths_that_leave_the_release_or_claim_the_host_s_places(
    path: str, repository: Repository
) -> None:
    with pytest.raises(EscapingPathError):
        verify_metadata(repository.members(paths={"release.json": DIGEST, path: DIGEST}), repository.roots[0], None)


def test_refuses_a_path_that_is_both_file_and_directory(repository: Repository) -> None:
    with pytest.raises(EscapingPathError):
        verify_metadata(repository.members(paths={"a": DIGEST, "a/b": DIGEST}), repository.roots[0], None)


def test_refuses_absurd_sizes_and_counts(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitError, match="size"):
        verify_metadata(repository.members(length=1 << 40), repository.roots[0], None)
    assert MAX_TARGETS > 1
    monkeypatch.setattr(targets, "MAX_TARGETS", 1)
    with pytest.raises(LimitError, match="number"):
        verify_metadata(repository.members(paths={"a": DIGEST, "b": DIGEST}), repository.roots[0], None)


def test_refuses_targets_hashed_with_anything_but_sha256(repository: Repository) -> None:
    def weaken(signed: Any) -> None:
        if isinstance(signed, Targets):
            signed.targets["release.json"].hashes = {"md5": "0" * 32}

    with pytest.raises(MalformedMetadataError):
        verify_metadata(repository.members(change=weaken), repository.roots[0], None)


@pytest.mark.parametrize("root", [b"", b"{}", b"not json", b"\x00" * 99])
def test_a_root_file_that_is_none_is_refused(root: bytes, repository: Repository) -> None:
    with pytest.raises(InstallerError, match="root file"):
        verify_metadata(repository.members(), root, None)


def test_a_root_file_changed_by_hand_is_refused(repository: Repository) -> None:
    changed = repository.roots[0].replace(b'"threshold":1', b'"threshold":0', 1)
    with pytest.raises((SignatureError, MalformedMetadataError)):
        verify_metadata(repository.members(), changed, None)
