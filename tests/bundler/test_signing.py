"""Several people sign one archive: at different times and places, without writing it again, and nobody for another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bundler.archive import digest_tree, write_archive
from bundler.cli import main
from bundler.errors import SigningError
from bundler.keys import load_keys, load_signers
from bundler.ledger import decide_signing
from bundler.sign import is_complete, is_unfinished, standing, with_signers
from bundler.signing import encode_head, locked, read_unsigned, replace_head, signing_file
from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP, ArchiveReader
from installer.errors import InstallerError, SignatureError
from installer.media.delta import Base, Delta
from installer.targets import contents_digest
from installer.verify import DiscardingSink, verify_archive
from tests.installer.archives import NOW, small_files, write_tree

PEOPLE = ("alice", "bob", "carol")


def bundler(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@dataclass(frozen=True)
class Place:
    """A build place with a root of three people, two of whom must sign, and a directory for each person."""

    directory: Path

    @property
    def keys(self) -> Path:
        return self.directory / "place"

    def person(self, name: str) -> Path:
        return self.directory / name

    @property
    def root(self) -> bytes:
        return (self.keys / "root.json").read_bytes()

    def build(self, name: str = "one", extra: dict[str, bytes] | None = None) -> Path:
        """What `bundler build` does with a release that is assembled."""
        tree = self.directory / f"tree-{name}"
        write_tree(tree, small_files() | (extra or {}))
        digested, keys = digest_tree(tree), load_keys(self.keys)
        signing = decide_signing(keys, digested.targets, lifetime_end=NOW.replace(year=2099), version=None, now=NOW)
        write_archive(self.directory / f"{name}.airgap", digested, keys, signing)
        return self.directory / f"{name}.airgap"


def public_keys(place: Place, option: str, people: Sequence[str] = PEOPLE) -> list[str | Path]:
    return [word for name in people for word in (option, place.person(name) / f"{name}.pub")]


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directories of three people and their place. Do not write to them."""
    place = Place(tmp_path_factory.mktemp("group"))
    for name in PEOPLE:
        bundler("keygen", "--keys", place.person(name), "--person", name, "--no-passphrase")
    bundler("trust", "new", "--keys", place.keys, *public_keys(place, "--root-key"), "--root-threshold", "2")
    bundler("sign", place.keys / "next-root.json", "--keys", place.person("alice"), "--yes")
    bundler("sign", place.keys / "next-root.json", "--keys", place.person("carol"), "--yes")
    return place.directory


@pytest.fixture
def place(group: Path, tmp_path: Path) -> Place:
    shutil.copytree(group, tmp_path / "group")
    return Place(tmp_path / "group")


def verify(archive: Path, root: bytes) -> int:
    with archive.open("rb") as stream:
        return verify_archive(stream, root, sink=DiscardingSink()).metadata.version


def head(archive: Path) -> dict[str, bytes]:
    with archive.open("rb") as stream:
        return ArchiveReader(stream).read_metadata()


def test_two_of_three_people_sign_one_after_the_other(place: Place) -> None:
    archive = place.build()
    words = r"so the archive is not finished: 0 of 2 needed signatures; not signed by .*alice .*bob .*carol"
    with pytest.raises(SignatureError, match=words):
        verify(archive, place.root)
    inode, size = archive.stat().st_ino, archive.stat().st_size
    first = bundler("sign", archive, "--keys", place.person("bob"), "--yes")
    assert "targets: 1 of 2 needed signatures; signed by bob" in first.stdout
    with pytest.raises(SignatureError, match=r"1 of 2 needed signatures; signed by bob \(.*\); not signed by alice"):
        verify(archive, place.root)
    second = bundler("sign", archive, "--keys", place.person("alice"), "--yes")
    assert second.stdout.endswith("Complete.\n")
    assert (archive.stat().st_ino, archive.stat().st_size) == (inode, size)
    assert verify(archive, place.root) > 20261130000000
    assert "signed by alice" in bundler("inspect", archive).stdout


def test_the_archive_is_the_one_that_all_keys_in_one_place_would_have_made(place: Place) -> None:
    """One encoding: nothing in the bytes tells when and where people signed."""
    archive = place.build()
    for name in ("carol", "bob"):
        bundler("sign", archive, "--keys", place.person(name), "--yes")
    for name in ("bob", "carol"):
        for kind in ("pem", "pub"):
            (place.keys / f"{name}.{kind}").write_bytes((place.person(name) / f"{name}.{kind}").read_bytes())
        (place.keys / f"{name}.pem").chmod(0o600)
    data = archive.read_bytes()
    archive.unlink()
    signing_file(archive).unlink()
    assert place.build().read_bytes() == data


def test_people_elsewhere_sign_the_small_file(place: Place, tmp_path: Path) -> None:
    archive = place.build()
    copies: list[str | Path] = []
    for name in ("alice", "bob"):
        copy = tmp_path / name / signing_file(archive).name
        copy.parent.mkdir()
        copy.write_bytes(signing_file(archive).read_bytes())
        said = bundler("sign", copy, "--keys", place.person(name), "--yes").stdout
        assert "You sign test 9.9: Test model" in said
        copies += ["--signatures", copy]
    assert signing_file(archive).stat().st_size < archive.stat().st_size
    bundler("sign", archive, *copies)
    assert verify(archive, place.root)


def test_inspect_shows_who_is_missing(place: Place) -> None:
    archive = place.build()
    bundler("sign", archive, "--keys", place.person("bob"), "--yes")
    said = json.loads(bundler("inspect", "--json", archive, code=1).stdout)
    assert said["complete"] is False
    assert [(s["role"], len(s["signed"]), len(s["missing"])) for s in said["signers"]] == [
        ("timestamp", 1, 2), ("snapshot", 1, 2), ("targets", 1, 2)]  # fmt: skip
    assert "NOT complete" in bundler("inspect", archive, code=1).stdout


def test_nobody_signs_twice_and_nobody_too_many(place: Place) -> None:
    archive = place.build()
    bundler("sign", archive, "--keys", place.person("bob"), "--yes")
    again = bundler("sign", archive, "--keys", place.person("bob"), "--yes", code=1)
    assert "SigningError: no signature of the keys" in again.stderr
    bundler("sign", archive, "--keys", place.person("alice"), "--yes")
    data = archive.read_bytes()
    third = bundler("sign", archive, "--keys", place.person("carol"), "--yes", code=1)
    assert "it is complete" in third.stderr
    assert archive.read_bytes() == data


def test_it_asks_before_it_signs(place: Place) -> None:
    archive = place.build()
    data = archive.read_bytes()
    assert bundler("sign", archive, "--keys", place.person("bob"), code=1).output.endswith("Aborted!\n")
    assert archive.read_bytes() == data


def test_a_second_build_loses_no_signature(place: Place) -> None:
    archive = place.build()
    bundler("sign", archive, "--keys", place.person("bob"), "--yes")
    bundler("sign", signing_file(archive), "--keys", place.person("alice"), "--yes")
    assert is_complete(head(place.build()))


def test_a_delta_is_signed_like_an_archive(place: Place, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_tree(tree, small_files())
    digested, keys = digest_tree(tree), load_keys(place.keys)
    absent = sorted(t.sha256 for t in digested.targets if t.path.startswith("model/"))
    delta = Delta(Base("test", "9.8", contents_digest(digested.targets)), tuple(absent))
    signing = decide_signing(keys, digested.targets, lifetime_end=NOW.replace(year=2099), version=None, now=NOW)
    archive = tmp_path / "delta.airgap"
    write_archive(archive, digested, keys, signing, delta=delta)
    bundler("sign", signing_file(archive), "--keys", place.person("bob"), "--yes")
    bundler("sign", archive, "--keys", place.person("alice"), "--signatures", signing_file(archive), "--yes")
    assert verify(archive, place.root)


def test_an_archive_is_cut_into_volumes_only_when_it_is_complete(place: Place) -> None:
    archive = place.build()
    refused = bundler("split", archive, "--volume-size", "8K", code=1)
    assert "volumes cannot be signed: let people sign it first" in refused.stderr
    for name in ("alice", "bob"):
        bundler("sign", archive, "--keys", place.person(name), "--yes")
    bundler("split", archive, "--volume-size", "8K")


# --- what is refused -------------------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def damaged_body(place: Place, archive: Path) -> None:
    flip(archive, archive.read_bytes().index(bytes(range(200))) + 7)


def cut(place: Place, archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-512])


def foreign_root(place: Place, archive: Path) -> None:
    """An archive of a stranger, who lists this person's key in a root of his own."""
    bundler("keygen", "--keys", place.directory / "eve", "--person", "eve", "--no-passphrase")
    other = Place(place.directory / "elsewhere")
    other.directory.mkdir()
    people = [place.directory / "eve" / "eve.pub", place.person("alice") / "alice.pub"]
    words = [word for path in people for word in ("--root-key", path)]
    bundler("trust", "new", "--keys", other.keys, *words)
    bundler("sign", other.keys / "next-root.json", "--keys", place.directory / "eve", "--yes")
    (place.person("alice") / "root.json").write_bytes(place.root)
    archive.write_bytes(other.build().read_bytes())


def same_version(place: Place, archive: Path) -> None:
    """The person has signed other contents under this version."""
    signed = json.dumps([{"contents": "00", "expires": "2099-01-01T00:00:00+00:00",
                          "version": standing_version(archive), "root": 1}])  # fmt: skip
    (place.person("alice") / "signed.json").write_text(signed)


def standing_version(archive: Path) -> int:
    version: int = json.loads(head(archive)[TARGETS])["signed"]["version"]
    return version


def no_key(place: Place, archive: Path) -> None:
    for path in place.person("alice").iterdir():
        path.unlink()


REFUSED = {
    "a damaged target": (damaged_body, "DigestMismatchError"),
    "a cut archive": (cut, "TruncatedArchiveError"),
    "another sender's root": (foreign_root, "UnknownKeyError"),
    "other contents under a version": (same_version, "already signed with these keys for other contents"),
    "no key": (no_key, "holds no key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nobody_signs_what_is_not_right(case: str, place: Place) -> None:
    spoil, words = REFUSED[case]
    archive = place.build()
    spoil(place, archive)
    data = archive.read_bytes()
    refused = bundler("sign", archive, "--keys", place.person("alice"), "--yes", code=1)
    assert words in refused.stderr
    assert archive.read_bytes() == data


def test_signatures_for_another_archive_are_refused(place: Place) -> None:
    one, two = place.build("one"), place.build("two", {"model/z": b"other"})
    bundler("sign", signing_file(two), "--keys", place.person("bob"), "--yes")
    refused = bundler("sign", one, "--signatures", signing_file(two), code=1)
    assert "SigningError: the signatures are for another archive" in refused.stderr


def test_a_signature_that_does_not_fit_is_not_taken_over(place: Place) -> None:
    archive = place.build()
    small = signing_file(archive)
    bundler("sign", small, "--keys", place.person("bob"), "--yes")
    data = small.read_bytes()
    signature = json.loads(head(small)[TARGETS])["signatures"][-1]["sig"].encode()
    small.write_bytes(data.replace(signature, b"01" * 64))
    bundler("sign", archive, "--signatures", small)
    assert {signers.role: len(signers.signed) for signers in standing(head(archive))} == {
        "timestamp": 1, "snapshot": 1, "targets": 0}  # fmt: skip


def test_a_damaged_signature_is_no_missing_one(place: Place) -> None:
    archive = place.build()
    bundler("sign", archive, "--keys", place.person("bob"), "--yes")
    assert is_unfinished(head(archive))
    signature = json.loads(head(archive)[TARGETS])["signatures"][-1]["sig"].encode()
    archive.write_bytes(archive.read_bytes().replace(signature, signature[63::-1] + signature[64:]))
    assert not is_unfinished(head(archive))
    assert "SignatureError" in bundler("inspect", archive, code=1).stderr


def test_a_signing_file_is_no_archive(place: Place) -> None:
    small = signing_file(place.build())
    with pytest.raises(InstallerError), small.open("rb") as stream:
        verify_archive(stream, place.root, sink=DiscardingSink())
    assert "the part of an archive that people sign" in bundler("inspect", small, code=1).stderr


# --- writing in place ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [0, 1, 700, 3000])
def test_a_kill_while_the_head_is_written_does_no_harm(written: int, place: Place, tmp_path: Path) -> None:
    archive = place.build()
    unsigned = read_unsigned(archive)
    members, _ = with_signers(unsigned.members, load_signers(place.person("alice")))
    before = archive.read_bytes()
    with locked(archive) as file:
        replace_head(archive, file, unsigned.members, members)
    after = archive.read_bytes()
    journal = archive.with_name(f".{archive.name}.head")
    journal.write_bytes(encode_head(members))
    archive.write_bytes(after[:written] + before[written:])
    with locked(archive):
        pass
    assert archive.read_bytes() == after
    assert not journal.exists()


def test_two_people_do_not_sign_one_file_at_once(place: Place) -> None:
    archive = place.build()
    with locked(archive), pytest.raises(SigningError, match="another `bundler sign` is at work"), locked(archive):
        pass


def test_the_head_has_its_final_length_from_the_start(place: Place) -> None:
    members = head(place.build())
    for name in (TIMESTAMP, SNAPSHOT, TARGETS):
        assert [s["sig"] for s in json.loads(members[name])["signatures"]] == ["00" * 64] * 2
