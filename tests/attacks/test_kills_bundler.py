"""A kill before any change that the connected side makes: no half archive under its name, the ledger in step with what
was signed, keys that can still be loaded; and the next run ends what was begun. And two commands at once.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import bundler.archive
import bundler.build
from bundler.archive import ReleaseTree, digest_tree, write_archive
from bundler.build import SigningRequest, build
from bundler.contents import BuildRequest
from bundler.errors import BuildError, KeysError, SigningError
from bundler.keys import load_keys, load_signers
from bundler.ledger import LEDGER, decide_signing
from bundler.sign import is_complete, with_signers
from bundler.signing import encode_head, locked, read_unsigned, replace_head
from bundler.volumes import split_archive, volumes_of
from installer.archive import ArchiveReader
from installer.errors import InstallerError, MissingVolumeError
from installer.media.source import open_media
from installer.progress import Progress
from installer.targets import Target
from installer.verify import DiscardingSink, verify_archive
from tests.attacks.killed import kills
from tests.attacks.tampering_page import counted
from tests.bundler.test_signing import Place, group, head, place
from tests.bundler.test_signing import bundler as run_bundler
from tests.installer.archives import NOW, Sender, small_files, write_tree

__all__ = ["group", "place"]  # fixtures
NAME = "one.airgap"
VOLUME_BYTES, LARGE_VOLUME_BYTES = 4096, 8192


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    return Sender.make(tmp_path_factory.mktemp("kills") / "sender")


@pytest.fixture
def copies(tmp_path: Path) -> Callable[[Path], Callable[[], Path]]:
    """Makes a function that copies a directory, each time into one of its own."""
    numbers = itertools.count()

    def of(source: Path) -> Callable[[], Path]:
        def fresh() -> Path:
            copy = tmp_path / str(next(numbers)) / "place"
            copy.parent.mkdir()
            shutil.copytree(source, copy)
            return copy

        return fresh

    return of


@pytest.fixture(autouse=True)
def small_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """`bundler build` assembles a release of a few files, and not of a checkpoint and wheels."""

    monkeypatch.setattr(bundler.build, "assemble_release", small_assembly)


def small_assembly(tree: Path, request: BuildRequest, progress: Progress) -> ReleaseTree:
    write_tree(tree, small_files())
    return digest_tree(tree, progress)


def run_build(place: Path, volume_bytes: int | None = None) -> None:
    request: Any = _Request()
    signing = SigningRequest(place / "keys", NOW + timedelta(days=9), None)
    build(place / "out" / NAME, request, signing, now=NOW, volume_bytes=volume_bytes)


class _Request:
    """What `build` itself reads of a request."""

    advisories = ()


def verified(place: Path, directory: str = "out") -> int | None:
    """The version of the archive, or of its volumes, that an installer would read there; None if there is none."""
    out = place / directory
    files = [out / NAME] if (out / NAME).exists() else list(volumes_of(out / NAME))
    if not files:
        return None
    root = (place / "keys" / "root.json").read_bytes()
    with open_media(files, [], pipe=io.BytesIO(), ask=None) as media:
        return verify_archive(media.stream, root, sink=DiscardingSink()).metadata.version


def ledger(place: Path) -> list[int]:
    path = place / "keys" / LEDGER
    return [entry["version"] for entry in json.loads(path.read_bytes())] if path.exists() else []


def strays(place: Path) -> list[str]:
    return [str(path) for path in place.rglob(".*")]


def test_a_kill_before_any_change_of_a_build(sender: Sender, copies: Callable[..., Callable[[], Path]]) -> None:
    killed = 0
    for number, there in kills(run_build, copies(sender.directory)):
        killed += 1
        version = verified(there)
        assert version is None or ledger(there) == [version], number
        assert len(ledger(there)) <= 1, number
        run_build(there)
        assert ledger(there) == [verified(there)], number
        assert strays(there) == [], number
    print(f"build: {killed} kills")
    assert killed >= counted("kills of a build")


def test_a_kill_before_any_change_of_a_build_of_volumes(
    sender: Sender, copies: Callable[..., Callable[[], Path]], tmp_path: Path
) -> None:
    """Volumes of an earlier archive of this name lie there. A mixture of both is named by the installer."""
    before = tmp_path / "before"
    shutil.copytree(sender.directory, before)
    (before / "out").mkdir()
    tree = before / "tree-earlier"
    write_tree(tree, small_files("9.8") | {"model/weights-00001.bin": bytes(20_000)})
    signing = decide_signing(
        load_keys(before / "keys"), digest_tree(tree).targets, lifetime_end=NOW + timedelta(days=9), version=1, now=NOW
    )
    write_archive(
        before / "out" / NAME, digest_tree(tree), load_keys(before / "keys"), signing, volume_bytes=LARGE_VOLUME_BYTES
    )
    killed = 0
    for number, there in kills(lambda there: run_build(there, LARGE_VOLUME_BYTES), copies(before)):
        killed += 1
        with suppress(InstallerError):
            assert verified(there) in ledger(there), number
        run_build(there, LARGE_VOLUME_BYTES)
        assert verified(there) == ledger(there)[-1], number
        assert strays(there) == [], number
    print(f"build of volumes: {killed} kills")
    assert killed >= counted("kills of a build of volumes")


def test_a_kill_before_any_change_of_a_split(
    sender: Sender, copies: Callable[..., Callable[[], Path]], tmp_path: Path
) -> None:
    before = tmp_path / "before"
    shutil.copytree(sender.directory, before)
    run_build(before)
    (before / "volumes").mkdir()
    version = verified(before)

    def split(there: Path) -> object:
        return split_archive(there / "out" / NAME, there / "volumes", VOLUME_BYTES)

    killed = 0
    for number, there in kills(split, copies(before)):
        killed += 1
        with suppress(MissingVolumeError):  # the last ones have not got their names yet
            assert verified(there, "volumes") in (None, version), number
        split(there)
        assert verified(there) == verified(there, "volumes") == version, number
        assert strays(there) == [], number
    print(f"split: {killed} kills")
    assert killed >= counted("kills of a split")


def test_a_kill_before_any_change_of_a_signature(place: Place, copies: Callable[..., Callable[[], Path]]) -> None:
    place.build()

    def sign(directory: Path, person: str = "alice") -> object:
        return run_bundler("sign", directory / NAME, "--keys", directory / person, "--yes")

    killed = 0
    for number, directory in kills(sign, copies(place.directory)):
        killed += 1
        read_unsigned(directory / NAME)  # whole, and one release, whoever has signed
        with suppress(AssertionError):  # "no signature .. is missing", if the kill came after it was written
            sign(directory)
        sign(directory, "bob")
        assert is_complete(head(directory / NAME)), number
        version = json.loads((directory / "place" / LEDGER).read_bytes())[0]["version"]
        assert [e["version"] for e in json.loads((directory / "alice" / LEDGER).read_bytes())] == [version], number
        assert strays(directory) == [], number
    print(f"signature: {killed} kills")
    assert killed >= counted("kills of a signature")


def test_a_kill_before_any_change_of_a_new_root(sender: Sender, copies: Callable[..., Callable[[], Path]]) -> None:
    def rotate(there: Path) -> object:
        return run_bundler("trust", "rotate", "--keys", there / "keys", "--role", "targets")

    killed = 0
    for number, there in kills(rotate, copies(sender.directory)):
        killed += 1
        roots = load_keys(there / "keys").roots
        assert len(roots) in (1, 2), number
        rotate(there)
        assert len(load_keys(there / "keys").roots) == len(roots) + 1, number
        run_build(there)
        assert verified(there) is not None, number
    print(f"new root: {killed} kills")
    assert killed >= counted("kills of a new root")


# --- what a kill left, and what came after it -------------------------------------------------------------------------


def test_a_head_that_a_kill_left_is_not_written_over_another_archive(place: Place) -> None:
    """`bundler sign` was killed; then the archive was built again with other contents under the same name."""
    archive = place.build()
    unsigned = read_unsigned(archive)
    members, _ = with_signers(unsigned.members, load_signers(place.person("alice")))
    journal = archive.with_name(f".{archive.name}.head")
    journal.write_bytes(encode_head(members))
    shutil.rmtree(place.directory / "tree-one")
    place.build(extra={"model/weights-00001.bin": bytes(200)})
    before = archive.read_bytes()
    with locked(archive):
        pass
    assert archive.read_bytes() == before
    assert not journal.exists()
    journal.write_bytes(b"rubbish")
    with locked(archive):
        pass
    assert archive.read_bytes() == before


def test_a_root_that_a_kill_left_half_written_is_written_again(sender: Sender, tmp_path: Path) -> None:
    shutil.copytree(sender.directory, tmp_path / "sender")
    keys = tmp_path / "sender" / "keys"
    before = (keys / "root.json").read_bytes()
    (keys / "1.root.json").write_bytes(b"")  # the older root is kept before the newer one takes its name
    run_bundler("trust", "rotate", "--keys", keys, "--role", "targets")
    assert load_keys(keys).roots[0] == before


def test_a_ledger_survives_a_full_disk(sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(sender.directory, tmp_path / "sender")
    keys = load_keys(tmp_path / "sender" / "keys")
    decide(keys, 1)
    before = (keys.directory / LEDGER).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("installer.durable.os.fsync", full)
        with pytest.raises(KeysError, match="No space left"):
            decide(keys, 2)
    assert (keys.directory / LEDGER).read_bytes() == before
    assert not list(keys.directory.glob(".*"))


def decide(keys: Any, number: int) -> int:
    targets = (Target("release.json", f"{number:064x}", 1),)  # type: ignore[arg-type]
    end = NOW + timedelta(days=9)
    return decide_signing(keys, targets, lifetime_end=end, version=None, now=NOW).version


# --- two at once ------------------------------------------------------------------------------------------------------


def test_a_second_build_of_one_archive_is_told_so(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to remove the first one's files while that worked on them."""
    shutil.copytree(sender.directory, tmp_path / "sender")

    def assemble(tree: Path, request: BuildRequest, progress: Progress) -> ReleaseTree:
        with pytest.raises(BuildError, match=r"another command is at work in .*: wait until it has ended"):
            run_build(tmp_path / "sender")
        return small_assembly(tree, request, progress)

    monkeypatch.setattr(bundler.build, "assemble_release", assemble)
    run_build(tmp_path / "sender")
    assert verified(tmp_path / "sender") is not None


def test_builds_at_once_with_the_same_keys_get_different_versions(sender: Sender, tmp_path: Path) -> None:
    shutil.copytree(sender.directory, tmp_path / "sender")
    keys = load_keys(tmp_path / "sender" / "keys")
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda number: decide(keys, number), range(40)))
    assert len(set(versions)) == 40
    assert sorted(ledger(tmp_path / "sender")) == sorted(versions)


def test_a_signature_is_not_written_into_an_archive_that_was_built_meanwhile(place: Place) -> None:
    """The person was asked, and another archive took the name before they answered."""
    archive = place.build()
    unsigned = read_unsigned(archive)
    members, _ = with_signers(unsigned.members, load_signers(place.person("alice")))
    shutil.rmtree(place.directory / "tree-one")
    with locked(archive) as file:
        place.build(extra={"model/weights-00001.bin": bytes(200)})
        before = archive.read_bytes()
        with pytest.raises(SigningError, match="was built again meanwhile, and is not signed"):
            replace_head(archive, file, unsigned.members, members)
    assert archive.read_bytes() == before
    assert not list(archive.parent.glob(".*.head"))


def test_a_signature_that_came_during_a_build_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = place.build()
    inner = bundler.archive._verify
    came: list[object] = []

    def verify(*arguments: Any) -> object:
        done = inner(*arguments)
        if not came:
            came.append(run_bundler("sign", archive, "--keys", place.person("alice"), "--yes"))
        return done

    monkeypatch.setattr(bundler.archive, "_verify", verify)
    place.build()
    assert came
    with archive.open("rb") as stream:
        signatures = json.loads(ArchiveReader(stream).read_metadata()["metadata/targets.json"])["signatures"]
    assert sum(s["sig"] != "0" * 128 for s in signatures) == 1
    run_bundler("sign", archive, "--keys", place.person("bob"), "--yes")
    assert is_complete(head(archive))
