"""Prefixes, archives and umasks as people have them: each works, or is refused in one sentence before a copy."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from installer.cli import main
from installer.errors import PrefixError
from installer.prefix import _nobody_here, check_file_system
from tests.conftest import WAY_IS_OPEN, require
from tests.installer.archives import Sender, listing
from tests.installer.sites import works
from tests.unprivileged import SERVICE_UID, USER_OPTION, let_through

as_root = pytest.mark.skipif("os.geteuid() != 0", reason="only root gives files away and mounts file systems")
INSTALLER = [sys.executable, "-m", "installer.cli"]
OTHER_UID = 54321


def run_install(archive: Path, root: Path, prefix: Path) -> Result:
    arguments = ["install", archive, "--root", root, "--prefix", prefix, *USER_OPTION]
    return CliRunner().invoke(main, [os.fspath(argument) for argument in arguments])


def install_as(user: int | None, archive: Path, sender: Sender, prefix: Path, umask: int) -> None:
    """Install in a process of its own, which can have another user and umask; None: root."""
    command = [*INSTALLER, "install", str(archive), "--root", str(sender.root_path), "--prefix", str(prefix)]
    if user is None:
        done = subprocess.run([*command, *USER_OPTION], capture_output=True, text=True, check=False, umask=umask)
    else:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, umask=umask, user=user, group=user, extra_groups=()
        )
    assert done.returncode == 0, done.stderr


def refused(exit_code: int, stderr: str, words: str) -> None:
    assert exit_code == 1
    assert words in stderr
    assert len(stderr.splitlines()) == 1
    assert stderr.rstrip("\n").isprintable()


@pytest.fixture
def alarm() -> Iterator[None]:
    """Ends the whole run if a command waits for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


NAMES = {
    "colon": b"a:b",
    "space": b"a b",
    "newline": b"a\nb",
    "not UTF-8": b"a\xff",
    "dollar": b"a$HOME",
    "percent": b"a%n",
    "quote": b"a'b",
    "escape": b"a\x1b[2J",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_services_misread_is_refused(name: str, release_1: Path, sender: Sender, tmp_path: Path) -> None:
    let_through(tmp_path)
    prefix = tmp_path / os.fsdecode(NAMES[name]) / "site"
    done = run_install(release_1, sender.root_path, prefix)
    refused(done.exit_code, done.stderr, "has the character")
    assert list(tmp_path.iterdir()) == []


def test_letters_of_other_languages_are_a_name(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    prefix = tmp_path / "größe-数据_1.2+x@y=z,~"
    let_through(tmp_path)
    assert run_install(release_1, sender.root_path, prefix).exit_code == 0
    assert works(prefix)


def made(prefix: Path, mode: int = 0o755, uid: int = -1) -> None:
    prefix.mkdir()
    prefix.chmod(mode)
    os.chown(prefix, uid, -1)


def with_parent(prefix: Path, mode: int, uid: int = -1) -> None:
    prefix.parent.chmod(mode)
    os.chown(prefix.parent, uid, -1)


def with_entry(prefix: Path, name: str, make: Callable[[Path], object]) -> None:
    prefix.mkdir()
    (prefix / "store").mkdir()
    shutil.rmtree(prefix / name, ignore_errors=True)
    (prefix / name).parent.mkdir(exist_ok=True)
    make(prefix / name)


def to_elsewhere(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere")


def with_a_letter(prefix: Path) -> None:
    prefix.mkdir()
    (prefix / "letter").touch()


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another user's": (lambda p: made(p, uid=OTHER_UID), "run `chown root"),
    "world-writable": (lambda p: made(p, 0o777), "others may write"),
    "world-writable and sticky": (lambda p: made(p, 0o1777), "others may write"),
    "group-writable": (lambda p: made(p, 0o775), "others may write"),
    "below another user's": (lambda p: with_parent(p, 0o755, OTHER_UID), "could put another directory in the place of"),
    "below a world-writable one": (lambda p: with_parent(p, 0o777), "everybody may write"),
    "store a link": (lambda p: with_entry(p, "store", to_elsewhere), "store is a link"),
    "blobs a link": (lambda p: with_entry(p, "store/sha256", to_elsewhere), "store/sha256 is a link"),
    "releases a link": (lambda p: with_entry(p, "releases", to_elsewhere), "releases is a link"),
    "state a link": (lambda p: with_entry(p, "state", to_elsewhere), "state is a link"),
    "trust a link": (lambda p: with_entry(p, "state/trust", to_elsewhere), "state/trust is a link"),
    "quarantine a link": (lambda p: with_entry(p, ".incoming", to_elsewhere), ".incoming is a link"),
    "store a file": (lambda p: with_entry(p, "store", Path.touch), "store is a file"),
    "releases a FIFO": (lambda p: with_entry(p, "releases", os.mkfifo), "releases is a FIFO"),
    "current a directory": (lambda p: with_entry(p, "current", Path.mkdir), "current is a directory"),
    "current a file": (lambda p: with_entry(p, "current", Path.touch), "current is a file"),
    "previous a FIFO": (lambda p: with_entry(p, "previous", os.mkfifo), "previous is a FIFO"),
    "a file": (Path.touch, "Not a directory"),
    "a FIFO": (os.mkfifo, "Not a directory"),
    "a dangling link": (lambda p: p.symlink_to("nowhere"), "is a link that leads nowhere"),
    "somebody's files": (with_a_letter, "neither empty nor a site"),
}


@as_root
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_hold_a_site_is_refused(
    place: str, release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    let_through(tmp_path)
    above = tmp_path / "above"
    above.mkdir()
    make, words = PLACES[place]
    make(above / "site")
    before = {str(path): path.lstat() for path in tmp_path.rglob("*")}
    done = run_install(release_1, sender.root_path, above / "site")
    refused(done.exit_code, done.stderr, words)
    after = {str(path): path.lstat() for path in tmp_path.rglob("*")}
    assert {name: (s.st_mode, s.st_uid) for name, s in before.items()} == {
        name: (s.st_mode, s.st_uid) for name, s in after.items()
    }


MOUNTS = {
    "noexec": ('mount -t tmpfs -o noexec,mode=755 tmpfs "$1"', "because it is mounted noexec: choose another prefix"),
    "read-only": ('mount -t tmpfs -o ro,mode=755 tmpfs "$1"', "is mounted read-only"),
    "store of its own": (
        'mkdir -p "$1/site/store" && mount -t tmpfs -o mode=755 tmpfs "$1/site/store"',
        "store is mounted by itself",
    ),
    "releases bound": (
        'mkdir -p "$1/site/releases" "$1/r" && mount --bind "$1/r" "$1/site/releases"',
        "releases is mounted by itself",
    ),
    "full": ('mount -t tmpfs -o size=1m,mode=755 tmpfs "$1"', "MiB free, the release needs about"),
}


@as_root
@pytest.mark.parametrize("mount", MOUNTS)
def test_a_file_system_that_cannot_hold_a_site_is_refused(
    mount: str, release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    let_through(tmp_path)
    command, words = MOUNTS[mount]
    script = f'{command} && shift && "$@"; status=$?; find "$0" -type f; exit $status'
    install = [*INSTALLER, "install", release_1, "--root", sender.root_path, *USER_OPTION]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, tmp_path, tmp_path, *install, "--prefix", tmp_path / "site"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    refused(done.returncode, done.stderr, words)
    assert done.stdout == "", "nothing was copied"


@as_root
def test_an_empty_disk_has_lost_found_and_takes_a_site(release_1: Path, sender: Sender, tmp_path: Path) -> None:
    let_through(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "lost+found").mkdir(mode=0o700)
    done = run_install(release_1, sender.root_path, tmp_path / "site")
    assert done.exit_code == 0, done.stderr
    assert works(tmp_path / "site")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_hard_links_is_refused(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(source))  # vfat, exfat

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PrefixError, match=f"the file system of {tmp_path} has no hard links"):
        check_file_system(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uid_map", "trusted"),
    [("0 0 4294967295", set()), ("0 1000 1\n1 100000 65536", set()), ("0 1000 1", {65534}), ("0 1000 65534", {65534})],
)
def test_in_a_user_namespace_the_owners_outside_it_are_nobody_s(
    uid_map: str, trusted: set[int], tmp_path: Path
) -> None:
    (tmp_path / "sys" / "kernel").mkdir(parents=True)
    (tmp_path / "sys" / "kernel" / "overflowuid").write_text("65534\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "uid_map").write_text(uid_map + "\n")
    assert _nobody_here(tmp_path) == trusted


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def link_to_fifo(path: Path) -> None:
    os.mkfifo(f"{path}.fifo")
    path.symlink_to(f"{path}.fifo")


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (os.mkfifo, "is a FIFO, not a file"),
    "a link to a FIFO": (link_to_fifo, "is a FIFO, not a file"),
    "a socket": (bind_socket, "is a socket, not a file"),
    "a directory": (Path.mkdir, "is a directory, not a file"),
    "an endless device": (lambda p: p.symlink_to("/dev/zero"), "is a device, not a file"),
    "a full device": (lambda p: p.symlink_to("/dev/full"), "is a device, not a file"),
    "a terminal": (lambda p: p.symlink_to(_terminal()), "is a device, not a file"),
    "missing": (lambda p: None, "No such file or directory"),
    "a loop": (lambda p: p.symlink_to(p.name), "Too many levels of symbolic links"),
    "empty": (Path.touch, ""),
}


def _terminal() -> str:
    return os.ttyname(os.openpty()[1])


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["archive", "root"])
def test_what_is_no_file_is_refused_at_once(
    what: str, kind: str, release_1: Path, sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_through(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "given"
    make, words = KINDS[kind]
    make(path)
    given = (path, sender.root_path) if what == "archive" else (release_1, path)
    done = run_install(*given, tmp_path / "site")
    refused(done.exit_code, done.stderr, words)
    assert not (tmp_path / "site").exists()


def test_output_that_cannot_be_written_is_said(site: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*INSTALLER, "status", "--prefix", site], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "installer: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077], ids=oct)
@pytest.mark.parametrize("who", [pytest.param("root", marks=as_root), pytest.param("user", marks=as_root)])
def test_under_every_umask_the_owner_can_serve_and_nobody_else_can_write(
    who: str, umask: int, release_1: Path, sender: Sender, tmp_path: Path
) -> None:
    require(WAY_IS_OPEN, "a mount namespace in which an unprivileged user can reach this checkout")
    home = tmp_path / "home"
    home.mkdir()
    for path in (home, release_1, sender.root_path):
        let_through(path)
    if who == "user":
        os.chown(home, SERVICE_UID, SERVICE_UID)
    prefix = home / "deep" / "site"
    install_as(SERVICE_UID if who == "user" else None, release_1, sender, prefix, umask)
    owner = 0 if who == "root" else SERVICE_UID
    for path in (home / "deep", prefix, *prefix.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            continue
        assert not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH), path
        is_state = prefix / "state" in (path, *path.parents) and prefix / "state" / "trust" not in (path, *path.parents)
        assert status.st_uid == (SERVICE_UID if is_state else owner), path
    ran = subprocess.run(
        [prefix / "current/venv/bin/appliance", "selftest", "--release", prefix / "current"], user=SERVICE_UID,
        group=SERVICE_UID, extra_groups=(), capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert listing(prefix / "state") != {}
