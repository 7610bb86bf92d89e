"""Deltas: signed as a whole, completed from the store by digest alone, and harmless whatever they claim."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.archive import digest_tree, write_archive
from bundler.build import delta_against, read_base
from bundler.errors import BuildError
from bundler.ledger import Signing
from installer.archive import DELTA, TARGETS, Sha256Hex, target_name
from installer.errors import (
    BaseNeededError,
    DeltaError,
    DigestMismatchError,
    DuplicateMemberError,
    HeaderError,
    InstallerError,
    MissingMemberError,
    OlderVersionError,
    ProductError,
    UnexpectedMemberError,
    UnknownKeyError,
)
from installer.formats.release import DESCRIPTOR, encode_release, parse_release
from installer.install import Outcome, install
from installer.media.contents import opened_contents
from installer.media.delta import Base, Delta, encode_delta, parse_delta
from installer.repair import Repair, repair
from installer.site import Site
from installer.store import blob_path
from installer.verify import DiscardingSink, verify_archive
from tests.attacks.tampering_page import without_digests
from tests.installer.archives import NOW, Sender, listing, members, pack, release_files, write_tree
from tests.unprivileged import SERVICE_USER, let_through

WEIGHTS = "model/weights-00001.bin"
SHARED = "model/shared.bin"
SHARED_BYTES = b"weights that both releases have" * 100


def files(version: str) -> dict[str, bytes]:
    return release_files(version, extra={SHARED: SHARED_BYTES})


def digest(data: bytes) -> Sha256Hex:
    return Sha256Hex(hashlib.sha256(data).hexdigest())


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    return Sender.make(tmp_path_factory.mktemp("delta") / "sender")


@pytest.fixture(scope="module")
def base(sender: Sender) -> Path:
    return sender.archive(files("1.0"), "base", version=1)


@pytest.fixture(scope="module")
def whole(sender: Sender) -> Path:
    """The new release as a whole archive."""
    return sender.archive(files("2.0"), "whole", version=2)


@pytest.fixture(scope="module")
def delta(sender: Sender, base: Path, whole: Path) -> Path:
    """The new release for sites that have the base."""
    return make(sender, base, "2.0", 2)


def make(sender: Sender, base: Path, version: str, number: int) -> Path:
    tree = sender.directory / f"tree-delta-{version}"
    write_tree(tree, files(version))
    digested = digest_tree(tree)
    made = delta_against(read_base(base, sender.root), digested)
    out = sender.directory / f"delta-{version}.airgap"
    write_archive(out, digested, sender.keys, Signing(number, NOW.replace(year=NOW.year + 1)), delta=made)
    return out


def run_install(archive: bytes, sender: Sender, prefix: Path) -> Outcome:
    let_through(prefix)
    return install(io.BytesIO(archive), sender.root, prefix, now=NOW, environ=dict(os.environ), user=SERVICE_USER)


@pytest.fixture
def site(base: Path, sender: Sender, tmp_path: Path) -> Path:
    """A site with the base."""
    run_install(base.read_bytes(), sender, tmp_path / "site")
    return tmp_path / "site"


def test_a_delta_holds_what_the_base_lacks_and_is_signed_as_the_whole_release(
    base: Path, whole: Path, delta: Path
) -> None:
    parts = members(delta.read_bytes())
    assert {
        target_name(digest(SHARED_BYTES)),
        target_name(digest(files("2.0")["wheels/requirements.lock"])),
    }.isdisjoint(parts)
    assert target_name(digest(files("2.0")[WEIGHTS])) in parts
    assert (
        json.loads(parts[TARGETS])["signed"]["targets"]
        == (json.loads(members(whole.read_bytes())[TARGETS])["signed"]["targets"])
    )
    said = parse_delta(parts[DELTA])
    assert (said.base.name, said.base.version) == ("test", "1.0")
    assert digest(SHARED_BYTES) in said.absent
    assert delta.stat().st_size < whole.stat().st_size


def test_a_delta_installs_the_same_release_as_the_whole_archive(
    base: Path, whole: Path, delta: Path, sender: Sender, site: Path, tmp_path: Path
) -> None:
    outcome = run_install(delta.read_bytes(), sender, site)
    assert outcome.switched
    assert outcome.reused_blobs >= 3
    for name, data in files("2.0").items():
        assert (site / "current" / name).read_bytes() == data
    run_install(whole.read_bytes(), sender, tmp_path / "other")
    made_anew = {"manifest.json", "receipt.json"}  # they hold times; metadata/ was signed at another time

    def without(place: Path) -> dict[str, str]:
        found = listing(place / "releases" / "2.0")
        return {n: told for n, told in found.items() if n not in made_anew and not n.startswith("metadata/")}

    assert without(site) == without(tmp_path / "other")


def test_a_delta_of_a_delta_and_of_volumes(base: Path, delta: Path, sender: Sender, site: Path, tmp_path: Path) -> None:
    from bundler.volumes import split_archive

    volumes = split_archive(delta, tmp_path / "stick", 8192)
    third = make(sender, volumes[-1], "3.0", 3)
    assert parse_delta(members(third.read_bytes())[DELTA]).base.version == "2.0"
    run_install(third.read_bytes(), sender, site)
    assert Site(site).pointed("current") == "3.0"


def test_a_site_without_the_base_is_told_which_it_needs(delta: Path, sender: Sender, tmp_path: Path) -> None:
    with pytest.raises(
        BaseNeededError, match=r"install the archive of test 1\.0 \(contents [0-9a-f]{16}\.\.\)"
    ) as refused:
        run_install(delta.read_bytes(), sender, tmp_path / "site")
    assert refused.value.lacking >= 3
    assert not (tmp_path / "site").exists()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda path: path.write_bytes(SHARED_BYTES[:-1] + b"?"),
    "cut short": lambda path: os.truncate(path, 10),
    "gone": Path.unlink,
    "writable by others": lambda path: path.chmod(0o666),
    "a link": lambda path: path.symlink_to(path.rename(path.with_name("aside"))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_blob_of_the_store_is_not_taken_and_its_base_repairs_it(
    damage: str, base: Path, delta: Path, sender: Sender, site: Path
) -> None:
    blob = blob_path(Site(site), digest(SHARED_BYTES))
    blob.parent.chmod(0o755)
    blob.chmod(0o644)
    DAMAGES[damage](blob)
    if damage in ("changed", "cut short"):
        blob.chmod(0o444)
    before = listing(site)
    with pytest.raises(BaseNeededError, match=r"model/shared\.bin"):
        run_install(delta.read_bytes(), sender, site)
    assert listing(site) == before
    assert run_install(base.read_bytes(), sender, site).repaired
    run_install(delta.read_bytes(), sender, site)
    assert (site / "current" / SHARED).read_bytes() == SHARED_BYTES
    assert Site(site).pointed("current") == "2.0"


def run_repair(archive: Path, sender: Sender, site: Path) -> Repair:
    with archive.open("rb") as stream:
        return repair(stream, sender.root, site, now=NOW, environ=dict(os.environ))


def damage_file(site: Path, version: str, name: str) -> None:
    """Change a file of a release, and so its blob in the store and in every release that shares it."""
    path = site / "releases" / version / name
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    path.chmod(0o444)


def test_a_delta_repairs_what_it_carries_and_its_base_the_rest(
    base: Path, delta: Path, sender: Sender, site: Path
) -> None:
    """The base is older than what the site has accepted since, so it repairs and cannot be installed."""
    run_install(delta.read_bytes(), sender, site)
    damage_file(site, "2.0", WEIGHTS)
    assert [one.path for one in run_repair(delta, sender, site).differences] == [WEIGHTS]
    damage_file(site, "2.0", SHARED)
    with pytest.raises(BaseNeededError, match="or repair that release with it"):
        run_repair(delta, sender, site)
    run_repair(base, sender, site)
    for version in ("1.0", "2.0"):
        assert (site / "releases" / version / SHARED).read_bytes() == SHARED_BYTES
    assert run_repair(delta, sender, site).differences == ()
    assert Site(site).pointed("current") == "2.0"


def test_a_delta_against_another_product_is_a_switch_like_any_other(sender: Sender, site: Path) -> None:
    """The base has the same weights; that makes it no release of the same product."""
    other = files("4.0")
    other[DESCRIPTOR] = encode_release(replace(parse_release(other[DESCRIPTOR]), name="other"))
    base = sender.archive(other, "other-base", version=4)
    delta = make(sender, base, "4.1", 5).read_bytes()
    with pytest.raises(ProductError):
        run_install(base.read_bytes(), sender, site)
    assert run_install(delta, sender, site).receipt.version == "4.1", "it is the site's product, and completed here"


def test_a_base_that_is_newer_than_the_delta_is_as_good(sender: Sender, site: Path) -> None:
    """Which archive is newer is what their metadata says, and not the versions of their releases."""
    base = sender.archive(files("9.0"), "newer-base", version=6)
    run_install(base.read_bytes(), sender, site)
    before = listing(site)
    with pytest.raises(OlderVersionError):
        run_install(make(sender, base, "8.0", 5).read_bytes(), sender, site)
    assert listing(site) == before
    assert run_install(make(sender, base, "8.1", 7).read_bytes(), sender, site).receipt.version == "8.1"


def test_a_claim_of_another_base_changes_nothing(delta: Path, sender: Sender, site: Path, tmp_path: Path) -> None:
    """The member is not signed. What it names is only told to the person; the bytes are found by their digest."""
    parts = members(delta.read_bytes())
    honest = parse_delta(parts[DELTA])
    parts[DELTA] = encode_delta(replace(honest, base=Base("other", "6.6", Sha256Hex("0" * 64))))
    forged = pack(parts.items())
    run_install(forged, sender, site)
    for name, data in files("2.0").items():
        assert (site / "current" / name).read_bytes() == data
    with pytest.raises(BaseNeededError, match=r"other 6\.6"):
        run_install(forged, sender, tmp_path / "empty")


def _with_delta(archive: bytes, data: bytes) -> bytes:
    parts = list(members(archive).items())
    place = [name for name, _ in parts].index(TARGETS) + 1
    kept = [(name, body) for name, body in parts if name != DELTA]
    return pack([*kept[:place], (DELTA, data), *kept[place:]])


BASE = Base("test", "1.0", Sha256Hex("a" * 64))


def _say(**changes: object) -> bytes:
    body = {"format": 1, "base": {"name": "test", "version": "1.0", "contents": "a" * 64}, "absent": ["b" * 64]}
    return json.dumps({**body, **changes}, sort_keys=True, separators=(",", ":")).encode()


MALFORMED = {
    "no json": b"{",
    "nothing left out": _say(absent=[]),
    "a digest twice": _say(absent=["b" * 64, "b" * 64]),
    "digests in disorder": _say(absent=["c" * 64, "b" * 64]),
    "no digest": _say(absent=["../../etc/passwd"]),
    "another format": _say(format=2),
    "one field more": _say(more=1),
    "an escape in the name": _say(base={"name": "\x1b[2J", "version": "1.0", "contents": "a" * 64}),
    "a newline in the version": _say(base={"name": "x", "version": "1\n2", "contents": "a" * 64}),
    "spelt with blanks": _say().replace(b":", b": ", 1),
    "nested too deep": b"[" * 100_000,
}
SAYS_NOTHING = "metadata/delta.json does not say what this archive leaves out; copy the file again"


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_delta_member_is_refused(case: str, whole: Path, sender: Sender) -> None:
    with pytest.raises(DeltaError) as refused:
        verify_archive(io.BytesIO(_with_delta(whole.read_bytes(), MALFORMED[case])), sender.root, sink=DiscardingSink())
    assert str(refused.value) == SAYS_NOTHING


def _left_out_silently(parts: dict[str, bytes], base: bytes) -> bytes:
    return pack((n, d) for n, d in parts.items() if n not in (DELTA, target_name(digest(SHARED_BYTES))))


def _one_more_left_out(parts: dict[str, bytes], base: bytes) -> bytes:
    """A blob that the delta carries is taken out, but the member does not say so."""
    return pack((n, d) for n, d in parts.items() if n != target_name(digest(files("2.0")[WEIGHTS])))


def _absent_is_there(parts: dict[str, bytes], base: bytes) -> bytes:
    return pack([*parts.items(), (target_name(digest(SHARED_BYTES)), SHARED_BYTES)])


def _release_left_out(parts: dict[str, bytes], base: bytes) -> bytes:
    descriptor = digest(files("2.0")["release.json"])
    said = parse_delta(parts[DELTA])
    more = replace(said, absent=tuple(sorted((*said.absent, descriptor))))
    return pack((n, encode_delta(more) if n == DELTA else d) for n, d in parts.items() if n != target_name(descriptor))


def _unknown_left_out(parts: dict[str, bytes], base: bytes) -> bytes:
    said = parse_delta(parts[DELTA])
    more = encode_delta(replace(said, absent=tuple(sorted((*said.absent, Sha256Hex("0" * 64))))))
    return pack((n, more if n == DELTA else d) for n, d in parts.items())


def _member_twice(parts: dict[str, bytes], base: bytes) -> bytes:
    items = list(parts.items())
    place = [name for name, _ in items].index(DELTA)
    return pack([*items[:place], items[place], *items[place:]])


def _member_early(parts: dict[str, bytes], base: bytes) -> bytes:
    items = [(n, d) for n, d in parts.items() if n != DELTA]
    return pack([items[0], (DELTA, parts[DELTA]), *items[1:]])


def _member_late(parts: dict[str, bytes], base: bytes) -> bytes:
    return pack([*((n, d) for n, d in parts.items() if n != DELTA), (DELTA, parts[DELTA])])


NOT_OF_A_BASE = "metadata/delta.json leaves out .., which is not a file that a base can hold for this release"
NOT_LISTED = "is not listed in the signed metadata"
ANOTHER_IN_PLACE = "member 'targets/..' is missing: 'targets/..' stands in its place"
ATTACKS: dict[str, tuple[type[InstallerError], str, Callable[[dict[str, bytes], bytes], bytes]]] = {
    "a target is left out silently": (MissingMemberError, ANOTHER_IN_PLACE, _left_out_silently),
    "a target is left out that the delta should carry": (
        MissingMemberError, "member 'targets/..' is missing: the archive ends in its place", _one_more_left_out,
    ),
    "a target is there that should be absent": (
        UnexpectedMemberError, f"member 'targets/..' {NOT_LISTED}", _absent_is_there,
    ),
    "release.json is left out": (DeltaError, NOT_OF_A_BASE, _release_left_out),
    "a target is left out that nobody signed": (DeltaError, NOT_OF_A_BASE, _unknown_left_out),
    "the delta member twice": (DuplicateMemberError, "member 'metadata/delta.json' occurs twice", _member_twice),
    "the delta member too early": (UnexpectedMemberError, f"member 'metadata/delta.json' {NOT_LISTED}", _member_early),
    "the delta member too late": (MissingMemberError, ANOTHER_IN_PLACE, _member_late),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_tampered_delta_is_refused_by_name_and_leaves_the_site_untouched(
    attack: str, base: Path, delta: Path, sender: Sender, site: Path
) -> None:
    error, words, tamper = ATTACKS[attack]
    before = listing(site)
    with pytest.raises(InstallerError) as refused:
        run_install(tamper(members(delta.read_bytes()), base.read_bytes()), sender, site)
    assert (type(refused.value), without_digests(str(refused.value))) == (error, words)
    assert listing(site) == before


def test_one_flipped_bit_anywhere_in_a_delta_is_refused(delta: Path, sender: Sender) -> None:
    genuine = delta.read_bytes()
    for position in range(0, len(genuine), 97):
        changed = bytearray(genuine)
        changed[position] ^= 1 << position % 8
        try:
            verified = verify_archive(io.BytesIO(changed), sender.root, sink=DiscardingSink())
        except InstallerError:
            continue
        assert verified.delta is not None, "only the claim about the base, which is not signed, may differ"
        assert verified.delta.base != parse_delta(members(genuine)[DELTA]).base
        assert verified.delta.absent == parse_delta(members(genuine)[DELTA]).absent


def test_a_whole_archive_turned_into_a_delta_is_completed_by_digest_or_refused(
    whole: Path, sender: Sender, site: Path, tmp_path: Path
) -> None:
    """Who holds the file can take a blob out and say so. A site that has the blob loses nothing."""
    parts = {n: d for n, d in members(whole.read_bytes()).items() if n != target_name(digest(SHARED_BYTES))}
    turned = _with_delta(pack(parts.items()), encode_delta(Delta(BASE, (digest(SHARED_BYTES),))))
    with pytest.raises(BaseNeededError):
        run_install(turned, sender, tmp_path / "empty")
    run_install(turned, sender, site)
    assert (site / "current" / SHARED).read_bytes() == SHARED_BYTES


def test_a_base_of_a_stranger_is_no_base(base: Path, tmp_path: Path) -> None:
    stranger = Sender.make(tmp_path / "stranger")
    with pytest.raises(UnknownKeyError):
        read_base(base, stranger.root)


def test_a_base_that_is_the_release_itself_or_has_nothing_in_common_is_refused(
    base: Path, sender: Sender, tmp_path: Path
) -> None:
    older = read_base(base, sender.root)
    write_tree(tmp_path / "same", files("1.0"))
    with pytest.raises(BuildError, match="very release"):
        delta_against(older, digest_tree(tmp_path / "same"))
    write_tree(tmp_path / "strange", {"release.json": b"{}", "x": b"y"})
    with pytest.raises(BuildError, match="no file in common"):
        delta_against(older, digest_tree(tmp_path / "strange"))


def test_a_look_into_an_archive_compares_what_it_reads(base: Path, sender: Sender, tmp_path: Path) -> None:
    data = bytearray(base.read_bytes())
    data[data.index(SHARED_BYTES)] ^= 1
    (tmp_path / "x.airgap").write_bytes(data)
    with opened_contents([tmp_path / "x.airgap"], [], sender.root) as contents:
        assert contents.read("wheels/requirements.lock") == files("1.0")["wheels/requirements.lock"]
        assert contents.read("nothing") is None
        with pytest.raises((DigestMismatchError, HeaderError)):
            contents.read(SHARED)
