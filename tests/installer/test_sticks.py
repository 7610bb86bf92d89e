"""Real FAT32 and exFAT: volumes are written to them and read from them, and a stick may be pulled out meanwhile.

The file systems run through FUSE, so that no kernel needs to have them. When its process is killed, such a file system
answers as a stick does that was pulled out: every call on it fails, closing a file included.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bundler.volumes import split_archive
from installer.archive import ByteStream
from installer.cli import main
from installer.errors import MediaError
from installer.media.source import open_media
from installer.site import Site
from installer.verify import DiscardingSink, verify_archive
from tests.conftest import require
from tests.installer.archives import Sender, listing, small_files
from tests.installer.test_media import NAME, VOLUME_BYTES, kept_blobs, run_install
from tests.unprivileged import USER_OPTION, let_through
from tests.waiting import wait_for

SIZE_BYTES = 64 << 20  # sparse; FAT32 needs as much
KINDS = {"FAT32": ("mkfs.vfat", "-F", "32"), "exFAT": ("mkfs.exfat",)}


@dataclass
class Stick:
    """A formatted stick, and the drive that it is put into."""

    kind: str
    device: str
    drive: Path
    process: subprocess.Popen[bytes] | None = None

    def put_in(self, mode: str = "rw") -> None:
        if self.kind == "FAT32":
            command = ["fusefat", "-f", "-o", "rw+" if mode == "rw" else "ro", self.device, self.drive]
        else:
            command = ["mount.exfat-fuse", "-d", "-o", mode, self.device, self.drive]
        self.process = process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: os.path.ismount(self.drive), alive=lambda: process.poll() is None)

    def pull_out(self) -> None:
        """Without unmounting: files that are open stay open, and nothing can be read from them."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @property
    def is_out(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def unmount(self) -> None:
        if self.process is not None:
            subprocess.run(["umount", "--lazy", self.drive], check=True)
            self.process.wait()
            self.process = None
            wait_for(self.is_released)

    def is_released(self) -> bool:
        """Whether the device can be mounted again: the kernel gives it up after the file system's process has ended."""
        try:
            os.close(os.open(self.device, os.O_RDWR | os.O_EXCL))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def swap(self, mode: str) -> None:
        self.unmount()
        self.put_in(mode)


@pytest.fixture(params=KINDS)
def stick(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stick]:
    """A stick that is in."""
    kind = request.param
    require(os.geteuid() == 0 and os.path.exists("/dev/fuse"), "root and FUSE, to mount a stick")
    for program in (KINDS[kind][0], "fusefat", "mount.exfat-fuse", "losetup"):
        require(shutil.which(program) is not None, program)
    image, drive = tmp_path / "stick.img", tmp_path / "drive"
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    subprocess.run([*KINDS[kind], image], check=True, capture_output=True)
    drive.mkdir()
    loop = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    found = Stick(kind, loop.stdout.strip(), drive)
    try:
        found.put_in()
        yield found
    finally:
        found.unmount()
        subprocess.run(["losetup", "--detach", found.device], check=True)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_volumes_written_to_a_stick_are_installed_from_it(
    stick: Stick, release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    made = split_archive(release_1, stick.drive, VOLUME_BYTES)
    shutil.copyfile(sender.root_path, stick.drive / "root.json")
    stick.swap("ro")
    root = ("--root", stick.drive / "root.json")
    assert sorted(os.listdir(stick.drive)) == [*(path.name for path in made), "root.json"]
    for named in (["--media", stick.drive], [made[2]], [stick.drive / f"{NAME}.003".upper()]):
        done = run("verify", *named, *root)
        assert (done.exit_code, f"{NAME}: verified" in done.stdout) == (0, True), done.output
    prefix = tmp_path / "site"
    let_through(prefix)
    done = run("install", "--media", stick.drive, *root, "--prefix", prefix, *USER_OPTION)
    assert done.exit_code == 0, done.output
    modes = {path.stat().st_mode & 0o777 for path in (prefix / "current").resolve().rglob("*") if path.is_file()}
    assert modes <= {0o444, 0o555, 0o644}, "of the site, not those of the stick"


@dataclass
class UntilPulledOut:
    """Passes an archive on, and pulls its stick out after so many bytes."""

    stream: ByteStream
    stick: Stick
    left_bytes: int

    def read(self, count: int, /) -> bytes:
        if count < self.left_bytes or self.stick.is_out:
            self.left_bytes -= count
            return self.stream.read(count)
        data = self.stream.read(self.left_bytes)
        self.stick.pull_out()
        return data + self.stream.read(count - len(data))


def test_a_stick_that_is_pulled_out_is_named_and_the_same_command_goes_on(
    stick: Stick, release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    split_archive(release_1, stick.drive, VOLUME_BYTES)
    prefix, most = tmp_path / "site", release_1.stat().st_size - VOLUME_BYTES
    with (
        pytest.raises(MediaError, match=r"airgap\.00. cannot be read from the media: .*run the same command again"),
        open_media([], [stick.drive], pipe=io.BytesIO(), ask=None) as media,
    ):
        run_install(UntilPulledOut(media.stream, stick, most), sender, prefix)
    kept = kept_blobs(prefix)
    assert kept >= 2
    assert not (prefix / "current").exists()
    for named in (["--media", stick.drive], [stick.drive / f"{NAME}.001"]):
        done = run("verify", *named, "--root", sender.root_path)
        assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1), done.output
        assert "cannot" in done.stderr
        assert os.strerror(errno.ENOTCONN) in done.stderr

    stick.swap("ro")
    with open_media([], [stick.drive], pipe=io.BytesIO(), ask=None) as media:
        assert run_install(media.stream, sender, prefix) == kept
    assert Site(prefix).pointed("current") == "1.0"


def test_a_person_who_puts_the_stick_back_reads_on(stick: Stick, release_1: Path) -> None:
    split_archive(release_1, stick.drive, VOLUME_BYTES)
    asked: list[str] = []

    def ask(sentence: str) -> None:
        asked.append(sentence)
        stick.swap("ro")

    with open_media([], [stick.drive], pipe=io.BytesIO(), ask=ask) as media:
        stream = UntilPulledOut(media.stream, stick, VOLUME_BYTES)
        assert stream.read(release_1.stat().st_size) == release_1.read_bytes()
    (sentence,) = asked
    assert f"put in the medium with volume 3 of 5, {NAME}.003" in sentence or "put its medium back" in sentence


def test_a_whole_archive_on_a_stick_that_is_pulled_out_is_named(stick: Stick, sender: Sender) -> None:
    large = {"model/config.json": bytes(range(256)) * (16 << 10)}  # the kernel reads a little ahead, and keeps it
    made = sender.archive({**small_files(), **large}, f"large-{stick.kind}", version=950)
    shutil.copyfile(made, stick.drive / NAME)
    stick.swap("ro")
    with (
        pytest.raises(MediaError, match=r"cannot be read from the media: .*run the same command again"),
        open_media([stick.drive / NAME], [], pipe=io.BytesIO(), ask=None) as media,
    ):
        verify_archive(UntilPulledOut(media.stream, stick, 512), sender.root, sink=DiscardingSink())


@pytest.mark.parametrize("place", ["", "site"], ids=["the stick itself", "below it"])
def test_a_prefix_on_a_stick_is_refused_and_nothing_is_written(
    place: str, stick: Stick, release_1: Path, sender: Sender
) -> None:
    before = listing(stick.drive)
    done = run("install", release_1, "--root", sender.root_path, "--prefix", stick.drive / place, *USER_OPTION)
    assert (done.exit_code, "lacks hard links or the owners and modes of files: choose a prefix on" in done.stderr) == (
        1, True,
    ), done.output  # fmt: skip
    asked = run("preflight", release_1, "--root", sender.root_path, "--prefix", stick.drive / place)
    assert "FAIL  prefix: " in asked.stdout
    assert listing(stick.drive) == before
