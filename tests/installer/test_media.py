"""Volumes and pipes: every wrong medium is named, and what was verified is kept when a medium fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bundler.errors import BuildError
from bundler.volumes import VolumeWriter, parse_size, payload_bytes, split_archive, writing_volumes
from installer.archive import ByteStream
from installer.cli import main
from installer.commands import continuing
from installer.errors import (
    AmbiguousMediaError,
    DamagedVolumeError,
    DigestMismatchError,
    ForeignVolumeError,
    InstallerError,
    MediaError,
    MissingVolumeError,
    OtherPythonError,
    RepeatedVolumeError,
    TruncatedArchiveError,
    VolumeHeaderError,
)
from installer.install import install
from installer.interpreters import Interpreter
from installer.media import stream as media_stream
from installer.media.shelf import Shelf
from installer.media.source import open_media
from installer.media.stream import VolumeStream
from installer.media.volume import HEADER_BYTES, VolumeHeader, encode_header, open_file, parse_header, read_volume
from installer.site import Site
from installer.verify import DiscardingSink, VerifiedArchive, verify_archive
from tests.installer.archives import NOW, Sender, listing, release_files
from tests.unprivileged import SERVICE_USER, USER_OPTION, let_through

VOLUME_BYTES = 8192
NAME = "release-1.airgap"


@pytest.fixture
def volumes(release_1: Path, tmp_path: Path) -> list[Path]:
    """The volumes of an archive that can be installed, in one directory."""
    made = split_archive(release_1, tmp_path / "stick", VOLUME_BYTES)
    assert len(made) >= 4
    return list(made)


def read(files: list[Path], directories: list[Path] | None = None) -> bytes:
    with open_media(files, directories or [], pipe=io.BytesIO(), ask=None) as media:
        assert media.size_bytes is not None
        return media.stream.read(media.size_bytes + 1)


def verify(files: list[Path], sender: Sender, directories: list[Path] | None = None) -> VerifiedArchive:
    with open_media(files, directories or [], pipe=io.BytesIO(), ask=None) as media:
        return verify_archive(media.stream, sender.root, sink=DiscardingSink())


def test_every_volume_is_smaller_than_the_limit_and_says_what_it_is(release_1: Path, volumes: list[Path]) -> None:
    whole = release_1.read_bytes()
    assert [path.name for path in volumes] == [f"{NAME}.{n:03}" for n in range(1, len(volumes) + 1)]
    assert b"".join(path.read_bytes()[HEADER_BYTES:] for path in volumes) == whole
    for number, path in enumerate(volumes, start=1):
        assert path.stat().st_size < VOLUME_BYTES
        header = json.loads(path.read_bytes()[:HEADER_BYTES])
        assert (header["number"], header["count"], header["total_bytes"]) == (number, len(volumes), len(whole))
    assert not [path for path in volumes[0].parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("text", "size"), [("4G", 4 << 30), ("650m", 650 << 20), ("8K", 8192), ("1000000", 1_000_000)])
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4T", "-1", "1.5G", "0", "100", "4 G", "4GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_the_limit_of_4g_fits_fat32() -> None:
    assert payload_bytes(parse_size("4G")) + HEADER_BYTES <= (1 << 32) - 1


def test_volumes_in_any_order_on_several_sticks_are_one_archive(
    release_1: Path, volumes: list[Path], sender: Sender, tmp_path: Path
) -> None:
    whole = release_1.read_bytes()
    assert read(volumes[::-1]) == whole
    assert read([volumes[2]]) == whole, "the others lie beside it"
    other = tmp_path / "other stick"
    other.mkdir()
    for path in volumes[1::2]:
        path.rename(other / path.name)
    (other / "notes.txt").write_text("something else")
    assert read([], [other, volumes[0].parent]) == whole
    assert read([volumes[0], other / volumes[1].name]) == whole
    assert verify([volumes[0]], sender, [other]).release.version == "1.0"


def test_volumes_beside_those_of_another_archive_are_told_apart(
    release_1: Path, release_2: Path, volumes: list[Path]
) -> None:
    split_archive(release_2, volumes[0].parent, VOLUME_BYTES)
    assert read([volumes[1]]) == release_1.read_bytes()
    with pytest.raises(AmbiguousMediaError, match=r"release-1\.airgap.*release-2\.airgap"):
        read([], [volumes[0].parent])


SHORTENED: dict[str, Callable[[str], str]] = {
    "in capitals": str.upper,
    "of 8 and 3 characters": lambda name: f"RELEAS~{name[-1]}.{name[-3:]}",
    "of a disc": lambda name: f"release_.{name[-3:]}",
}


@pytest.mark.parametrize("how", SHORTENED)
def test_volumes_are_found_by_names_that_a_medium_changed(
    how: str, release_1: Path, volumes: list[Path], sender: Sender
) -> None:
    stick, whole = volumes[0].parent, release_1.read_bytes()
    (stick / "letters.001").write_text("something else with such a name")
    volumes = [path.rename(stick / SHORTENED[how](path.name)) for path in volumes]
    assert read([], [stick]) == whole
    assert read([volumes[1]]) == whole
    _flip(volumes[1], 5000)
    with pytest.raises(DamagedVolumeError, match="volume 2 is damaged"):
        read([], [stick])
    os.truncate(volumes[1], 3000)
    with pytest.raises(DamagedVolumeError, match="volume 2 is damaged"):
        read([], [stick])
    volumes[1].write_bytes(volumes[1].read_bytes().replace(b"airgap_volume", b"airgap_volumf"))
    with pytest.raises(VolumeHeaderError, match=re.escape(str(volumes[1]))):
        read([], [stick])
    volumes[1].unlink()
    with pytest.raises(MissingVolumeError, match=r"1 of 5 volumes are missing: release-1\.airgap\.002"):
        read([], [stick])


def test_a_shortened_name_that_archives_share_is_no_fault(release_2: Path, volumes: list[Path], tmp_path: Path) -> None:
    """Another archive's volume 2 may have the very name that ours would have. Ours is missing, and is said to be."""
    others = split_archive(release_2, tmp_path / "other", VOLUME_BYTES)
    volumes[1].unlink()
    others[1].rename(volumes[1].parent / "RELEAS~2.002")
    with pytest.raises(MissingVolumeError, match=r"airgap\.002"):
        read([volumes[0]])


@pytest.mark.parametrize("name", ["RELEASE-1.AIRGAP", "RELEAS~1.AIR"])
def test_a_whole_archive_is_found_by_a_name_that_a_medium_changed(name: str, release_1: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(release_1.read_bytes())
    assert read([], [tmp_path]) == release_1.read_bytes()


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def _foreign(volumes: list[Path]) -> None:
    """Another archive's volume under the name of ours, as a stick that was written twice may hold it."""
    header = read_volume(volumes[1]).header
    payload = volumes[1].read_bytes()[HEADER_BYTES:]
    volumes[1].write_bytes(encode_header(replace(header, archive="0" * 64)) + payload)  # type: ignore[arg-type]


def _copy(volumes: list[Path]) -> None:
    twin = volumes[1].parent.parent / "twin"
    twin.mkdir()
    (twin / volumes[1].name).write_bytes(volumes[1].read_bytes())


def _swap_names(volumes: list[Path]) -> None:
    """Names mean nothing: only a header says which volume it is. So nothing is wrong but that two are one."""
    volumes[1].write_bytes(volumes[2].read_bytes())


def _cut(volumes: list[Path]) -> None:
    os.truncate(volumes[1], volumes[1].stat().st_size - 1)


def _lengthen(volumes: list[Path]) -> None:
    with volumes[-1].open("ab") as file:
        file.write(b"\0")


def _pipe(volumes: list[Path]) -> None:
    volumes[1].unlink()
    os.mkfifo(volumes[1])


def _directory(volumes: list[Path]) -> None:
    volumes[1].unlink()
    volumes[1].mkdir()


WRONG_MEDIA: dict[str, tuple[type[InstallerError], str, Callable[[list[Path]], object]]] = {
    "a volume is missing": (MissingVolumeError, r"airgap\.002", lambda v: v[1].unlink()),
    "the first volume is missing": (MissingVolumeError, r"airgap\.001", lambda v: v[0].unlink()),
    "the last volume is missing": (MissingVolumeError, "1 of", lambda v: v[-1].unlink()),
    "a bit of a volume is flipped": (DamagedVolumeError, "volume 2 is damaged", lambda v: _flip(v[1], 5000)),
    "the last bit of a volume is flipped": (
        DamagedVolumeError, "volume 2 is damaged", lambda v: _flip(v[1], v[1].stat().st_size - 1)),
    "a bit of the first volume's metadata is flipped": (
        DamagedVolumeError, "volume 1 is damaged", lambda v: _flip(v[0], HEADER_BYTES + 600)),
    "a bit of a volume's header is flipped": (VolumeHeaderError, r"airgap\.002", lambda v: _flip(v[1], 40)),
    "a volume's header is blank": (
        VolumeHeaderError, r"airgap\.002", lambda v: v[1].write_bytes(bytes(v[1].stat().st_size))),
    "a volume is cut short": (DamagedVolumeError, "volume 2 is damaged", _cut),
    "a volume has bytes after its end": (DamagedVolumeError, "is damaged", _lengthen),
    "a volume is empty": (VolumeHeaderError, r"airgap\.002", lambda v: v[1].write_bytes(b"")),
    "a volume of another archive": (ForeignVolumeError, "of another archive", _foreign),
    "a volume is there twice": (RepeatedVolumeError, "volume 2 is given twice", _copy),
    "one volume under two names": (RepeatedVolumeError, "volume 3 is given twice", _swap_names),
    "a pipe in place of a volume": (InstallerError, "is a FIFO, not a file", _pipe),
    "a directory in place of a volume": (InstallerError, "is a directory, not a file", _directory),
}  # fmt: skip


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "found"])
@pytest.mark.parametrize("case", WRONG_MEDIA)
def test_a_wrong_medium_is_named(
    case: str, is_named: bool, release_1: Path, volumes: list[Path], sender: Sender, tmp_path: Path
) -> None:
    error, words, spoil = WRONG_MEDIA[case]
    spoil(volumes)
    directories = [tmp_path / "stick", tmp_path / "twin"]
    if case == "a volume of another archive" and not is_named:
        error, words = AmbiguousMediaError, "volumes of several archives"  # nobody said which one is meant
    with pytest.raises(InstallerError, match=words) as refused:
        verify([path for path in volumes if path.exists()] if is_named else [], sender, directories)
    assert isinstance(refused.value, error), repr(refused.value)
    assert "\n" not in str(refused.value)


def test_one_flipped_bit_anywhere_in_a_volume_is_a_damaged_volume(volumes: list[Path], sender: Sender) -> None:
    whole = volumes[1].read_bytes()
    for position in range(0, len(whole), 211):
        _flip(volumes[1], position)
        with pytest.raises((DamagedVolumeError, VolumeHeaderError), match=r"airgap\.002"):
            verify(volumes, sender)
        volumes[1].write_bytes(whole)


def test_volumes_with_right_headers_around_forged_bytes_are_refused_by_the_archive(
    release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    """A header is not signed: who forges bytes forges the header, too. The archive's own metadata does not fit then."""
    forged = bytearray(release_1.read_bytes())
    forged[-1100] ^= 1
    (tmp_path / NAME).write_bytes(forged)
    made = split_archive(tmp_path / NAME, tmp_path, VOLUME_BYTES)
    (tmp_path / NAME).unlink()
    with pytest.raises(InstallerError) as refused:
        verify(list(made), sender)
    assert not isinstance(refused.value, MediaError)


@pytest.mark.parametrize("case", ["two whole archives", "an archive and volumes", "media beside an archive"])
def test_what_is_meant_must_be_clear(case: str, release_1: Path, release_2: Path, volumes: list[Path]) -> None:
    files = {
        "two whole archives": [release_1, release_2], "an archive and volumes": [release_1, *volumes],
        "media beside an archive": [release_1],
    }[case]  # fmt: skip
    with pytest.raises(AmbiguousMediaError, match="one whole archive alone"):
        read(files, [volumes[0].parent] if case.startswith("media") else [])


def test_hostile_file_names_on_a_medium_are_never_printed(release_1: Path, volumes: list[Path]) -> None:
    stick = volumes[0].parent
    for name in ("\x1b[2J.airgap.002", "x\ny.airgap.001", "\x1b[2J.airgap", "\u202e.airgap.003"):
        (stick / name).write_bytes(volumes[1].read_bytes())
    assert read([], [stick]) == release_1.read_bytes()
    volumes[1].unlink()
    with pytest.raises(MissingVolumeError) as refused:
        read([], [stick])
    assert str(refused.value).isprintable()


def test_a_directory_may_hold_one_whole_archive(release_1: Path, tmp_path: Path) -> None:
    with pytest.raises(AmbiguousMediaError, match="no archive and no volume"):
        read([], [tmp_path])
    (tmp_path / NAME).write_bytes(release_1.read_bytes())
    assert read([], [tmp_path]) == release_1.read_bytes()
    split_archive(release_1, tmp_path, VOLUME_BYTES)
    with pytest.raises(AmbiguousMediaError, match="beside volumes"):
        read([], [tmp_path])


HEADER = VolumeHeader("a" * 64, NAME, 2, 3, 7168, 7168, 15000, "b" * 64)  # type: ignore[arg-type]


def test_a_header_is_read_as_it_was_written() -> None:
    assert parse_header(encode_header(HEADER), "x") == HEADER
    assert len(encode_header(HEADER)) == HEADER_BYTES


LIES: dict[str, dict[str, Any]] = {
    "none": {},  # the control
    "number zero": {"number": 0}, "number above the count": {"number": 4}, "too many": {"count": 1000},
    "text for a number": {"number": "2"}, "true for a number": {"number": True}, "a fraction": {"offset": 7168.0},
    "another offset": {"offset": 7167}, "no payload": {"size_bytes": 0}, "past the end": {"total_bytes": 14335},
    "ends before the last": {"total_bytes": 14336}, "a path for a name": {"name": "../x.airgap"},
    "an escape in a name": {"name": "\x1b[2J.airgap"}, "a short digest": {"sha256": "b"},
    "one field more": {"more": 1}, "another format": {"airgap_volume": 2},
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_makes_no_sense_is_refused(lie: str) -> None:
    body = {"airgap_volume": 1, **asdict(HEADER), "header_sha256": "", **LIES[lie]}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    text = text.replace('"header_sha256":""', f'"header_sha256":"{hashlib.sha256(text.encode()).hexdigest()}"')
    data = f"{text:<{HEADER_BYTES - 1}}\n".encode()
    if lie == "none":
        assert parse_header(data, "x") == HEADER
        return
    with pytest.raises(VolumeHeaderError):
        parse_header(data, "x")


def test_a_header_has_one_spelling() -> None:
    right = encode_header(HEADER)
    for wrong in (right.replace(b":", b": ", 1)[:HEADER_BYTES], right[:-1] + b" ", right.upper(), b"[" * HEADER_BYTES):
        with pytest.raises(VolumeHeaderError):
            parse_header(wrong, "x")


def run_install(stream: ByteStream, sender: Sender, prefix: Path) -> int:
    """Install, and say how many blobs were here before."""
    let_through(prefix)
    return install(
        stream, sender.root, prefix, now=NOW, environ=dict(os.environ), user=SERVICE_USER
    ).reused_blobs  # fmt: skip


def kept_blobs(prefix: Path) -> int:
    return len(list(Site(prefix).incoming.glob("*")))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.ENODEV, 0], ids=["eio", "enoent", "enodev", "short"])
def test_a_pulled_stick_keeps_what_was_verified_and_the_same_command_goes_on(
    number: int, volumes: list[Path], sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, pulled = tmp_path / "site", volumes[-1]

    class Pulled(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if number:
                raise OSError(number, os.strerror(number))
            return b""

    monkeypatch.setattr(media_stream, "open_file", lambda path: Pulled() if path == pulled else open_file(path))
    with (
        pytest.raises(MediaError, match="run the same command again"),
        open_media(volumes, [], pipe=io.BytesIO(), ask=None) as media,
    ):
        run_install(media.stream, sender, prefix)
    kept = kept_blobs(prefix)
    assert kept >= 2
    assert not list(prefix.rglob("*.part"))
    assert not (prefix / "current").exists()

    monkeypatch.undo()
    with open_media(volumes, [], pipe=io.BytesIO(), ask=None) as media:
        assert run_install(media.stream, sender, prefix) == kept
    assert Site(prefix).pointed("current") == "1.0"
    assert kept_blobs(prefix) == 0


def test_a_damaged_volume_keeps_what_was_verified_before_it(
    volumes: list[Path], sender: Sender, tmp_path: Path
) -> None:
    prefix, whole = tmp_path / "site", volumes[-1].read_bytes()
    _flip(volumes[-1], HEADER_BYTES + 1)
    with pytest.raises(DamagedVolumeError), open_media(volumes, [], pipe=io.BytesIO(), ask=None) as media:
        run_install(media.stream, sender, prefix)
    assert (kept := kept_blobs(prefix)) >= 2
    volumes[-1].write_bytes(whole)
    with open_media(volumes, [], pipe=io.BytesIO(), ask=None) as media:
        assert run_install(media.stream, sender, prefix) == kept


def test_a_kept_blob_that_was_exchanged_is_not_trusted(volumes: list[Path], sender: Sender, tmp_path: Path) -> None:
    prefix, whole = tmp_path / "site", volumes[-1].read_bytes()
    _flip(volumes[-1], HEADER_BYTES + 1)
    with pytest.raises(DamagedVolumeError), open_media(volumes, [], pipe=io.BytesIO(), ask=None) as media:
        run_install(media.stream, sender, prefix)
    for path in Site(prefix).incoming.iterdir():
        path.chmod(0o644)
        path.write_bytes(b"evil")
        path.chmod(0o444)
    volumes[-1].write_bytes(whole)
    with open_media(volumes, [], pipe=io.BytesIO(), ask=None) as media:
        assert run_install(media.stream, sender, prefix) == 0
    for name, data in release_files("1.0").items():
        assert (prefix / "current" / name).read_bytes() == data


def test_a_refused_archive_in_volumes_leaves_nothing(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    forged = bytearray(release_1.read_bytes())
    forged[-1100] ^= 1
    (tmp_path / NAME).write_bytes(forged)
    made = split_archive(tmp_path / NAME, tmp_path / "stick", VOLUME_BYTES)
    with pytest.raises(InstallerError), open_media(list(made), [], pipe=io.BytesIO(), ask=None) as media:
        run_install(media.stream, sender, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_missing_volume_is_named_before_anything_is_copied(
    volumes: list[Path], sender: Sender, tmp_path: Path
) -> None:
    prefix = tmp_path / "site"
    volumes[-1].unlink()
    volumes[2].unlink()
    done = CliRunner().invoke(
        main, ["install", str(volumes[0]), "--root", str(sender.root_path), "--prefix", str(prefix), *USER_OPTION]
    )
    assert done.exit_code == 1
    assert done.stderr.startswith(
        f"installer: MissingVolumeError: 2 of {len(volumes)} volumes are missing: {NAME}.003,"
    )
    assert len(done.stderr.splitlines()) == 1
    assert not prefix.exists()


def test_a_person_at_a_terminal_is_asked_for_each_medium(release_1: Path, volumes: list[Path], tmp_path: Path) -> None:
    """One drive: each medium lies at the same place while it is in, and the one before is out."""
    drive, shelf_of_sticks = tmp_path / "drive", volumes[0].parent
    drive.mkdir()
    asked: list[str] = []

    def put_in(name: str) -> None:
        for path in drive.iterdir():
            path.rename(shelf_of_sticks / path.name)
        (shelf_of_sticks / name).rename(drive / name)

    def ask(sentence: str) -> None:
        asked.append(sentence)
        put_in(sentence.rpartition(" ")[2])

    put_in(volumes[2].name)  # the wrong one to begin with
    with open_media([], [drive], pipe=io.BytesIO(), ask=ask) as media:
        assert media.stream.read(1 << 30) == release_1.read_bytes()
    count = len(volumes)
    assert asked == [f"put in the medium with volume {n} of {count}, {NAME}.{n:03}" for n in range(1, count + 1)]


def test_one_drive_is_enough_for_the_command_at_a_terminal(volumes: list[Path], sender: Sender, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    let_through(tmp_path)
    (drive / volumes[-1].name).write_bytes(volumes[-1].read_bytes())
    terminal, side = pty.openpty()
    command = [sys.executable, "-m", "installer.cli", "install", "--media", drive, "--root", sender.root_path,
               "--prefix", tmp_path / "site", *USER_OPTION]  # fmt: skip
    with subprocess.Popen(command, stdin=side, stdout=side, stderr=side) as installer:
        os.close(side)
        said, put_in = b"", 0
        with contextlib.suppress(OSError):  # EIO: nobody has the other side any more
            while chunk := os.read(terminal, 4096):
                said += chunk
                for number in re.findall(rb"airgap\.([0-9]{3}), then press Enter", said)[put_in:]:
                    for path in drive.iterdir():
                        path.unlink()
                    path = volumes[int(number) - 1]
                    (drive / path.name).write_bytes(path.read_bytes())
                    put_in += 1
                    os.write(terminal, b"\n")
        os.close(terminal)
    assert installer.returncode == 0, said
    assert put_in == len(volumes)
    assert Site(tmp_path / "site").pointed("current") == "1.0"


def test_a_person_is_told_what_is_wrong_with_the_medium_that_is_in(
    release_1: Path, volumes: list[Path], tmp_path: Path
) -> None:
    whole = volumes[1].read_bytes()
    asked: list[str] = []

    def ask(sentence: str) -> None:
        asked.append(sentence)
        volumes[1].write_bytes(whole)

    os.truncate(volumes[1], 3000)
    with open_media([volumes[0]], [], pipe=io.BytesIO(), ask=ask) as media:
        assert media.stream.read(1 << 30) == release_1.read_bytes()
    (sentence,) = asked
    assert sentence.startswith("volume 2 is damaged: ")
    assert sentence.endswith(f"; put in the medium with volume 2 of {len(volumes)}, {NAME}.002")


def test_a_stick_that_is_pulled_while_a_person_is_there_is_asked_for_and_read_on(
    release_1: Path, volumes: list[Path], tmp_path: Path
) -> None:
    stick, aside = volumes[0].parent, tmp_path / "aside"
    asked: list[str] = []

    def ask(sentence: str) -> None:
        asked.append(sentence)
        aside.rename(stick)

    stream = VolumeStream(Shelf(volumes, []), ask)
    first = stream.read(10_000)
    stream._close_file()  # what the kernel does to an open file when the medium goes
    stick.rename(aside)
    assert first + stream.read(1 << 30) == release_1.read_bytes()
    assert len(asked) == 1
    assert "put its medium back" in asked[0]


@pytest.mark.parametrize("command", ["verify", "install"])
def test_an_archive_comes_through_a_pipe(command: str, release_1: Path, sender: Sender, tmp_path: Path) -> None:
    let_through(tmp_path)
    more = ["--prefix", str(tmp_path / "site"), *USER_OPTION] if command == "install" else []
    with subprocess.Popen(["cat", release_1], stdout=subprocess.PIPE) as source:
        done = subprocess.run(
            [sys.executable, "-m", "installer.cli", command, "-", "--root", sender.root_path, *more],
            stdin=source.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if command == "install":
        assert Site(tmp_path / "site").pointed("current") == "1.0"
    else:
        assert done.stdout.startswith("the pipe: verified. test 1.0")


@pytest.mark.parametrize("command", ["install", "repair"])
@pytest.mark.parametrize(("file", "continues"), [("-", False), (NAME, True)], ids=["a pipe", "a file"])
def test_a_pipe_is_never_read_on_by_another_python(
    command: str,
    file: str,
    continues: bool,
    release_1: Path,
    sender: Sender,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another Python of the host takes over what it can begin again; of a pipe it would get the rest only."""
    other = Interpreter("/usr/bin/python3.99", "CPython", "3.99", "/usr/bin/python3.99")
    taken_over: list[Interpreter] = []

    def refuse(*_: object, **__: object) -> None:
        raise OtherPythonError(("3.99",), "CPython 3.9")

    monkeypatch.setattr(f"installer.commands.{command}.{command}", refuse)
    monkeypatch.setattr(continuing, "find_interpreter", lambda pythons, environ: other)
    monkeypatch.setattr(continuing, "_continue_in", taken_over.append)
    path = str(release_1) if continues else file
    arguments = [command, path, "--root", str(sender.root_path), "--prefix", str(tmp_path / "site")]
    with release_1.open("rb") as stdin:
        done = CliRunner().invoke(main, arguments, input=stdin.read())
    assert taken_over == ([other] if continues else [])
    assert continues or (done.exit_code, "--interpreter" in done.stderr) == (1, True)


def test_a_pipe_that_breaks_is_refused_and_leaves_nothing(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    let_through(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "installer.cli", "install", "-", "--root", sender.root_path, "--prefix",
         tmp_path / "site", *USER_OPTION],
        input=release_1.read_bytes()[:-2000], capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"installer: {TruncatedArchiveError.__name__}: ".encode())
    assert not (tmp_path / "site").exists()


def test_volumes_are_read_by_every_command(volumes: list[Path], sender: Sender) -> None:
    from bundler.cli import main as bundler_main

    done = CliRunner().invoke(main, ["verify", str(volumes[3]), "--root", str(sender.root_path), "--json"])
    assert json.loads(done.stdout)["release"]["version"] == "1.0"
    done = CliRunner().invoke(main, ["verify", "--media", str(volumes[3].parent), "--root", str(sender.root_path)])
    assert done.stdout.startswith(f"{NAME}: verified. test 1.0")
    done = CliRunner().invoke(bundler_main, ["inspect", str(volumes[1]), "--json"])
    assert json.loads(done.stdout)["release"]["version"] == "1.0"


def test_split_says_what_it_wrote_and_replaces_older_volumes(release_1: Path, volumes: list[Path]) -> None:
    from bundler.cli import main as bundler_main

    stick = volumes[0].parent
    foreign = stick / f"{NAME}.900"
    foreign.write_text("not a volume of ours")
    arguments = ["split", str(release_1), "--volume-size", "16K", "--out", str(stick), "--json"]
    done = CliRunner().invoke(bundler_main, arguments)
    assert done.exit_code == 0, done.stderr
    named = [Path(volume["file"]) for volume in json.loads(done.stdout)["volumes"]]
    assert sorted(stick.iterdir()) == sorted([*named, foreign])
    assert len(named) < len(volumes)


@pytest.mark.parametrize("case", ["no archive", "half an archive", "a name with blanks", "too many volumes"])
def test_what_cannot_be_split_is_one_sentence_and_leaves_nothing(case: str, release_1: Path, tmp_path: Path) -> None:
    archive = tmp_path / ("my archive.airgap" if "blanks" in case else NAME)
    data = {"no archive": b"x" * 9000, "half an archive": release_1.read_bytes()[:1500]}.get(case)
    archive.write_bytes(release_1.read_bytes() if data is None else data)
    if case == "too many volumes":
        with archive.open("ab") as file:
            file.truncate(5_000_000)
    before = listing(tmp_path)
    with pytest.raises(BuildError) as refused:
        split_archive(archive, tmp_path, 4096)
    assert "\n" not in str(refused.value)
    assert listing(tmp_path) == before


def test_a_disk_that_gives_other_bytes_back_is_noticed(
    release_1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = VolumeWriter.finish

    def spoil(writer: VolumeWriter) -> VolumeStream:
        stream = genuine(writer)
        _flip(writer._path(2), HEADER_BYTES + 3)
        return stream

    monkeypatch.setattr(VolumeWriter, "finish", spoil)
    with pytest.raises(BuildError, match="do not hold what was written"):
        split_archive(release_1, tmp_path / "out", VOLUME_BYTES)
    assert listing(tmp_path / "out") == {}


@pytest.mark.parametrize("cut", [1, 511, 512, 6656, 6657, 100_000])
def test_volumes_do_not_depend_on_how_their_bytes_come(cut: int, release_1: Path, tmp_path: Path) -> None:
    data = release_1.read_bytes()
    made = split_archive(release_1, tmp_path / "one", VOLUME_BYTES)
    with writing_volumes(tmp_path / "two" / release_1.name, VOLUME_BYTES) as writer:
        for start in range(0, len(data), cut):
            writer.write(data[start : start + cut])
        assert writer.finish().read(len(data) + 1) == data
    others = sorted((tmp_path / "two").iterdir())
    assert [path.read_bytes() for path in others] == [path.read_bytes() for path in made]


def test_a_full_disk_while_volumes_are_written_leaves_none(release_1: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import *; from bundler.volumes import *; "
        "split_archive(Path(sys.argv[1]), Path(sys.argv[2]), 8192)"
    )
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, release_1, tmp_path / "out"], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )  # fmt: skip
    assert "BuildError" in done.stderr
    assert "the disk is full, or takes no file of this size (FAT32" in done.stderr
    assert listing(tmp_path / "out") == {}


def test_what_a_killed_run_left_is_no_volume_and_is_removed(release_1: Path, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with writing_volumes(tmp_path / release_1.name, VOLUME_BYTES) as writer:
            writer.write(release_1.read_bytes())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    with pytest.raises(AmbiguousMediaError, match="no archive and no volume"):
        read([], [left])
    assert split_archive(release_1, tmp_path, VOLUME_BYTES)[0].parent == tmp_path
    assert not left.exists()


def test_a_digest_that_does_not_fit_in_one_file_is_no_media_error(release_1: Path, sender: Sender) -> None:
    forged = bytearray(release_1.read_bytes())
    forged[-1100 - 512] ^= 1
    with pytest.raises((DigestMismatchError, InstallerError)) as refused:
        verify_archive(io.BytesIO(forged), sender.root, sink=DiscardingSink())
    assert not isinstance(refused.value, MediaError)
