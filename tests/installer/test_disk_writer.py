"""Pieces written past the page cache: the very bytes, whatever their sizes and the file system, or an error."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.disk_writer import PIECE_BYTES, DiskWriter
from tests.conftest import require

_SIZES = [0, 1, 4095, 4096, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 9 * PIECE_BYTES + 4097]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """On the disk: in memory (tests/temporary.py) there is no page cache to write past."""
    with tempfile.TemporaryDirectory(prefix="tests-on-disk-") as directory:
        yield Path(directory)


@pytest.fixture
def writer() -> Iterator[DiskWriter]:
    made = DiskWriter()
    yield made
    made.stop()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that has room for one piece and a half."""
    options = f"size={PIECE_BYTES * 3 // 2}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path], capture_output=True, check=False)
    require(done.returncode == 0, "a tmpfs")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def write(writer: DiskWriter, path: Path, data: bytes, chunk_bytes: int = 1 << 20) -> None:
    writer.open(path)
    for at in range(0, len(data), chunk_bytes):
        writer.write(data[at : at + chunk_bytes])
    writer.close(0o444)


def cached_bytes(path: Path) -> int:
    """How much of a file lies in the page cache, by mincore(2)."""
    size = path.stat().st_size
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(size), pages)
        del start
    assert not failed
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("chunk_bytes", [1 << 20, PIECE_BYTES + 5], ids=["small chunks", "large chunks"])
def test_a_file_has_the_bytes_that_were_given(size: int, chunk_bytes: int, writer: DiskWriter, tmp_path: Path) -> None:
    data = os.urandom(size)
    write(writer, tmp_path / "file", data, chunk_bytes)
    writer.wait()
    assert (tmp_path / "file").read_bytes() == data
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o444


def test_many_files_wait_in_their_order(writer: DiskWriter, tmp_path: Path) -> None:
    contents = {f"{n}": os.urandom(size) for n, size in enumerate(_SIZES * 2)}
    for name, data in contents.items():
        write(writer, tmp_path / name, data)
    writer.wait()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_whole_pieces_stay_out_of_the_page_cache(writer: DiskWriter, tmp_path: Path) -> None:
    """Otherwise the copied weights push out those of the release that is served meanwhile."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_DIRECT)
        except OSError:
            require(False, "a file system with O_DIRECT for temporary files")
    write(writer, path, os.urandom(4 * PIECE_BYTES + 100))
    writer.wait()
    assert cached_bytes(path) <= mmap.PAGESIZE
    path.read_bytes()
    assert cached_bytes(path) > 4 * PIECE_BYTES  # so the measurement can see them


@pytest.mark.parametrize("refuses", ["the flag", "the piece"])
def test_a_file_system_without_direct_writes_gets_the_same_bytes(
    refuses: str, writer: DiskWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some refuse the flag, and some only the first write with it."""
    set_flags, write_bytes = fcntl.fcntl, os.write
    refused: list[str] = []

    def refusing_flag(descriptor: int, command: int, flags: int = 0) -> int:
        if refuses == "the flag" and command == fcntl.F_SETFL and flags & os.O_DIRECT:
            refused.append(refuses)
            raise OSError(errno.EINVAL, "Invalid argument")
        return set_flags(descriptor, command, flags)

    def refusing_piece(descriptor: int, data: bytes) -> int:
        if refuses == "the piece" and set_flags(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(refuses)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write_bytes(descriptor, data)

    monkeypatch.setattr(fcntl, "fcntl", refusing_flag)
    monkeypatch.setattr(os, "write", refusing_piece)
    data = os.urandom(3 * PIECE_BYTES + 1)
    write(writer, tmp_path / "file", data)
    writer.wait()
    assert (tmp_path / "file").read_bytes() == data
    assert refused == [refuses]


@pytest.mark.parametrize("pieces", [2, 20], ids=["in the end", "while bytes still come"])
def test_a_full_disk_is_an_error(pieces: int, full_disk: Path, writer: DiskWriter) -> None:
    def copy() -> None:
        write(writer, full_disk / "file", bytes(pieces * PIECE_BYTES))
        writer.wait()

    with pytest.raises(OSError, match="No space left on device") as caught:
        copy()
    assert caught.value.errno == errno.ENOSPC


def test_a_file_that_is_given_up_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    writer = DiskWriter()
    writer.open(tmp_path / "file")
    writer.write(bytes(PIECE_BYTES + 1))
    assert writer.is_open
    writer.stop()
    assert not writer.is_open
    assert os.listdir("/proc/self/fd") == before


def test_a_link_in_the_place_of_a_file_is_not_followed(writer: DiskWriter, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        writer.open(tmp_path / "file")
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"
