"""Writing archives: the same inputs give the same bytes, verified or absent, readable with stock tar."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bundler.archive import ReleaseTree, digest_tree, write_archive
from bundler.errors import BuildError
from bundler.keys import SigningKeys
from bundler.ledger import Signing
from tests.installer.archives import Sender, listing, small_files, write_tree

SIGNING = Signing(1, datetime.now(UTC).replace(microsecond=0) + timedelta(days=9))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    return Sender.make(tmp_path_factory.mktemp("writer") / "sender").keys


@pytest.fixture
def tree(tmp_path: Path) -> ReleaseTree:
    write_tree(tmp_path / "tree", small_files())
    return digest_tree(tmp_path / "tree")


def test_the_same_tree_gives_the_same_bytes(tree: ReleaseTree, keys: SigningKeys, tmp_path: Path) -> None:
    write_archive(tmp_path / "one.airgap", tree, keys, SIGNING)
    for path in tree.directory.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    write_archive(tmp_path / "two.airgap", digest_tree(tree.directory), keys, SIGNING)
    assert (tmp_path / "one.airgap").read_bytes() == (tmp_path / "two.airgap").read_bytes()


def test_stock_tar_lists_and_unpacks_an_archive(tree: ReleaseTree, keys: SigningKeys, tmp_path: Path) -> None:
    out = tmp_path / "one.airgap"
    write_archive(out, tree, keys, SIGNING)
    (tmp_path / "unpacked").mkdir()
    done = subprocess.run(["tar", "-xf", out, "-C", tmp_path / "unpacked"], capture_output=True, check=True)
    assert done.stderr == b""
    for name, data in small_files().items():
        blob = tmp_path / "unpacked" / "targets" / hashlib.sha256(data).hexdigest()
        assert blob.read_bytes() == data, name


def test_equal_files_are_carried_once(tree: ReleaseTree, keys: SigningKeys, tmp_path: Path) -> None:
    (tree.directory / "model" / "copy").write_bytes((tree.directory / "model" / "weights-00001.bin").read_bytes())
    doubled = digest_tree(tree.directory)
    verified = write_archive(tmp_path / "one.airgap", doubled, keys, SIGNING)
    assert len(verified.metadata.targets) == len(tree.targets) + 1
    assert verified.size_bytes == tree.size_bytes


def test_a_file_that_changes_while_it_is_packed_is_noticed(
    tree: ReleaseTree, keys: SigningKeys, tmp_path: Path
) -> None:
    (tree.directory / "model" / "weights-00001.bin").write_bytes(bytes(200))
    with pytest.raises(BuildError, match="changed"):
        write_archive(tmp_path / "one.airgap", tree, keys, SIGNING)
    assert listing(tmp_path).keys() == {"tree", *(f"tree/{name}" for name in listing(tree.directory))}


def test_digests_that_are_known_are_kept_and_compared_when_the_files_are_packed(
    tree: ReleaseTree, keys: SigningKeys, tmp_path: Path
) -> None:
    """The exporter hashes what it writes. A disk that gives back something else, or somebody, changed this file."""
    weights = tree.directory / "model" / "weights-00001.bin"
    known = {weights: next(t.sha256 for t in tree.targets if t.path == "model/weights-00001.bin")}
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    assert digest_tree(tree.directory, known=known) == tree
    with pytest.raises(BuildError, match=r"weights-00001\.bin changed since it was hashed"):
        write_archive(tmp_path / "one.airgap", digest_tree(tree.directory, known=known), keys, SIGNING)
    assert not (tmp_path / "one.airgap").exists()


def test_links_in_a_release_tree_are_refused(tree: ReleaseTree) -> None:
    (tree.directory / "link").symlink_to("/etc/passwd")
    with pytest.raises(BuildError, match="neither"):
        digest_tree(tree.directory)


def test_what_does_not_verify_is_not_kept(tree: ReleaseTree, keys: SigningKeys, tmp_path: Path) -> None:
    (tree.directory / "release.json").write_text("{}")
    out = tmp_path / "one.airgap"
    out.write_bytes(b"the archive before")
    with pytest.raises(BuildError, match="does not verify"):
        write_archive(out, digest_tree(tree.directory), keys, SIGNING)
    assert out.read_bytes() == b"the archive before"
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    sender = Sender.make(tmp_path / "sender")
    write_tree(tmp_path / "tree", small_files() | {"model/b": os.urandom(300_000)})
    program = (
        "import sys; from pathlib import Path; from datetime import *; from bundler.archive import *; "
        "from bundler.keys import *; from bundler.ledger import *; "
        "write_archive(Path(sys.argv[1]), digest_tree(Path(sys.argv[2])), load_keys(Path(sys.argv[3])), "
        "Signing(1, datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)))"
    )
    out = tmp_path / "one.airgap"
    done = subprocess.run(
        [sys.executable, "-c", program, out, tmp_path / "tree", sender.directory / "keys"],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "BuildError" in done.stderr
    assert "the disk is full" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sender", "tree"]
