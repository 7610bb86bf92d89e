"""Blobs are hashed and flushed by threads of their own, and nothing unverified or unflushed gets through."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from bench.copying import copy_s, install_s, random_archive, verify_s
from installer.archive import CHUNK_BYTES, Sha256Hex
from installer.errors import DigestMismatchError
from installer.hashing import running_digest
from installer.site import open_site
from installer.store import Staging, blob_path
from installer.verify import verify_archive


@pytest.mark.parametrize("sizes", [[], [0], [1], [CHUNK_BYTES] * 40, [3, 0, CHUNK_BYTES, 5]])
def test_pieces_are_hashed_in_their_order(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    with running_digest() as running:
        for piece in pieces:
            running.update(piece)
        assert running.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_byte_changed_anywhere_in_a_large_blob_is_found(where: str, tmp_path: Path) -> None:
    with random_archive(tmp_path / "work", 20 * CHUNK_BYTES) as (archive, root):
        with tarfile.open(archive) as members:
            largest = max(members, key=lambda member: member.size)
        at = {"first": 0, "middle": largest.size // 2, "last": largest.size - 1}[where]
        data = bytearray(archive.read_bytes())
        data[largest.offset_data + at] ^= 1
        archive.write_bytes(data)
        with open_site(tmp_path / "site") as site, archive.open("rb") as stream:
            staging = Staging(site, lambda release, metadata: None)
            with pytest.raises(DigestMismatchError):
                verify_archive(stream, root, sink=staging)
            staging.discard()
            assert not site.incoming.exists()


def test_a_disk_that_cannot_keep_a_blob_stops_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk says so when it is flushed, which a thread does; the error reaches the caller before the store does."""
    with open_site(tmp_path / "site") as site:
        site.incoming.mkdir()
        staging = Staging(site, lambda release, metadata: None)
        data = b"abc"
        digest = Sha256Hex(hashlib.sha256(data).hexdigest())

        def fail(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("os.fsync", fail)
        staging.begin(digest)
        staging.write(data)
        staging.accept()
        with pytest.raises(OSError, match="Input/output error"):
            staging.commit()
        assert not blob_path(site, digest).exists()
        staging.discard()
        assert not site.incoming.exists()


def test_a_run_that_was_killed_before_the_flush_hashes_what_it_left(tmp_path: Path) -> None:
    """A blob has its name before its bytes are on the disk. After a crash they may be others."""
    with open_site(tmp_path / "site") as site:
        site.incoming.mkdir()
        digest = Sha256Hex(hashlib.sha256(b"abc").hexdigest())
        left = site.incoming / digest
        left.write_bytes(bytes(3))
        left.chmod(0o444)
        staging = Staging(site, lambda release, metadata: None)
        staging.begin(digest)
        staging.write(b"abc")
        staging.accept()
        staging.commit()
        assert staging.reused == 0
        assert blob_path(site, digest).read_bytes() == b"abc"


def test_the_benchmark_of_copying_installs_and_removes_what_it_made(tmp_path: Path) -> None:
    with random_archive(tmp_path / "work", 5_000_000) as (archive, root):
        assert archive.stat().st_size > 5_000_000
        assert copy_s(archive, tmp_path / "copy", flush=True) > 0
        assert verify_s(archive, root) > 0
        assert install_s(archive, root, tmp_path / "site") > 0
        assert not (tmp_path / "copy").exists()
        assert not (tmp_path / "site").exists()
    assert not (tmp_path / "work").exists()
