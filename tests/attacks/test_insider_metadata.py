"""Metadata that keys of the sender signed, or that needs no signature: keys for which anybody can sign, numbers that
are none, and fields that nobody has signed.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP
from installer.errors import MalformedMetadataError, MixedMetadataError, TrustError, UnsoundRootError
from installer.trust import verify_metadata
from tests.installer.repository import Repository

Members = dict[str, bytes]
SPELLING = "is not in the one spelling"
ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
OTHER_ORDER_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"


def with_key(public: str) -> Callable[[], tuple[Repository, Members]]:
    """The targets key is this one, with the signature that fits every text by the point of order 1."""

    def make() -> tuple[Repository, Members]:
        repository = Repository()
        members = repository.members()
        key = repository.root.keys[repository.root.roles["targets"].keyids[0]]
        key.keyval["public"] = public
        repository.roots[0] = repository.sign(repository.root, "root")
        body = json.loads(members[TARGETS])
        body["signatures"][0]["sig"] = "01" + 63 * "00"
        return repository, members | {"metadata/1.root.json": repository.roots[0], TARGETS: compact(body)}

    return make


def compact(body: object) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def with_field(name: str, add: Callable[[dict[str, object]], object]) -> Callable[[], tuple[Repository, Members]]:
    """Something that is not signed is added on the way, without any key."""

    def make() -> tuple[Repository, Members]:
        repository = Repository()
        members = repository.members()
        body = json.loads(members[name])
        add(body)
        return repository, members | {name: compact(body)}

    return make


def in_signature(body: dict[str, object]) -> None:
    signatures = body["signatures"]
    assert isinstance(signatures, list)
    signatures[0]["note"] = "evil"


def beside(body: dict[str, object]) -> None:
    body["note"] = "evil"


def with_version(version: int) -> Callable[[], tuple[Repository, Members]]:
    return lambda: (repository := Repository(), repository.members(version))


def with_threshold() -> tuple[Repository, Members]:
    repository = Repository()
    repository.root.roles["targets"].threshold = True
    repository.roots[0] = repository.sign(repository.root, "root")
    return repository, repository.members()


def with_root_version() -> tuple[Repository, Members]:
    def change(signed: object) -> None:
        fields = getattr(signed, "unrecognized_fields", {})
        if "root_version" in fields:
            fields["root_version"] = True

    repository = Repository()
    return repository, repository.members(change=change)


INSIDERS: dict[str, tuple[type[TrustError], str, Callable[[], tuple[Repository, Members]]]] = {
    "a key of order 1": (UnsoundRootError, "for which anybody can sign", with_key("01" + 31 * "00")),
    "a key of order 2": (UnsoundRootError, "for which anybody can sign", with_key("ec" + 30 * "ff" + "7f")),
    "a key of order 4": (UnsoundRootError, "for which anybody can sign", with_key(32 * "00")),
    "a key of order 8": (UnsoundRootError, "for which anybody can sign", with_key(ORDER_8)),
    "another key of order 8": (UnsoundRootError, "for which anybody can sign", with_key(OTHER_ORDER_8)),
    "a key of order 1 with a sign": (UnsoundRootError, "for which anybody can sign", with_key("01" + 30 * "00" + "80")),
    "a threshold that is true": (UnsoundRootError, "which is no number", with_threshold),
    "a version that is true": (MalformedMetadataError, "has a version that is no number", with_version(True)),
    "a version of 2^63": (MalformedMetadataError, "has a version that is no number", with_version(2**63)),
    "a version of 4000 digits": (MalformedMetadataError, "has a version that is no number", with_version(10**3999)),
    "a root's version that is true": (MixedMetadataError, "was made for root True", with_root_version),
    "a field in a signature of targets": (MalformedMetadataError, SPELLING, with_field(TARGETS, in_signature)),
    "a field in a signature of a root": (
        MalformedMetadataError, SPELLING, with_field("metadata/1.root.json", in_signature),
    ),
    "a field beside what is signed": (MalformedMetadataError, SPELLING, with_field(SNAPSHOT, beside)),
    "the same in the timestamp": (MalformedMetadataError, SPELLING, with_field(TIMESTAMP, beside)),
}  # fmt: skip


@pytest.mark.parametrize("case", INSIDERS)
def test_metadata_of_an_insider_is_refused(case: str) -> None:
    error, words, make = INSIDERS[case]
    repository, members = make()
    with pytest.raises(error, match=words):
        verify_metadata(members, repository.roots[0], None)
