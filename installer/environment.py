"""The release's own Python environment, and its self-test, which is the only program of a release that is run here.

The environment is a directory of packages and one command, `venv/bin/appliance`, which starts the host's interpreter.
It holds no interpreter, no `pyvenv.cfg` and nothing else that Python would obey before the command has compared the
release with its manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Container, Mapping
from pathlib import Path
from typing import IO

from installer.archive import CHUNK_BYTES, Sha256Hex
from installer.child import run_child
from installer.errors import PlatformError, SelfTestError, WheelInstallError
from installer.formats.manifest import LAUNCHER, Entry
from installer.formats.release import Release
from installer.owner import Owner
from installer.progress import SILENT, Progress
from installer.store import make_directories
from installer.targets import Target
from installer.wheels import Member, as_damage, compiled, environment_members, launcher_bytes, open_members

_LONGEST_INTERPRETER = 120  # characters; Linux before 5.1 reads 127 characters of a script's first line
SELF_TEST_TIMEOUT_S = 3600  # loading 120b from a slow disk takes many minutes


def host_interpreter() -> str:
    """The interpreter that will run a release: this one, by its real path, outside any virtual environment.

    Raises:
        PlatformError: its path cannot stand in the first line of a command.
    """
    path = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    if not re.fullmatch(rf"/[!-~]{{1,{_LONGEST_INTERPRETER}}}", path):
        raise PlatformError(
            f"a command cannot start {path}: run the installer with a Python whose path is short and has no space"
        )
    return path


def members_of(
    directory: Path, release: Release, targets: tuple[Target, ...], python: str, *, kept: Container[str] = ()
) -> dict[str, Member]:
    """The members of wheels that make up the environment of a release. Wheels and lock must be verified.

    Args:
        python: one of the release's Pythons, such as "3.11".
        kept: see `environment_members`.
    Raises:
        WheelInstallError: the lock or a wheel cannot be used.
    """
    wheels: dict[str, Path] = {t.sha256: directory / t.path for t in targets if t.path.endswith(".whl")}
    lock = (directory / release.target.lock(python)).read_text(encoding="utf-8", errors="replace")
    return environment_members(wheels, lock, python, kept=kept)


def environment_files(
    members: Mapping[str, Member],
    interpreter: str,
    python: str,
    *,
    write_to: Path | None = None,
    with_compiled: bool = True,
    progress: Progress = SILENT,
) -> dict[str, Entry]:
    """Path relative to the release -> the content that each file of its environment must have.

    Args:
        members: from `members_of`.
        interpreter: path of the host's Python.
        write_to: the release directory, for an installation; None: write nothing.
        with_compiled: whether to compile. Then ``python`` must be the running interpreter's version.
        progress: told the bytes of the members, not the stage: the caller names it.
    Raises:
        WheelInstallError: a wheel is damaged, or a file is not what its RECORD says.
    """
    entries: dict[str, Entry] = {}
    for place, stream in open_members(members):
        member = members[place]
        with as_damage(member.wheel):
            if place.endswith(".py"):
                source = stream.read()
                _put(entries, write_to, place, source)
                if with_compiled and (made := compiled(place, source)) is not None:
                    _put(entries, write_to, *made)
            else:
                entries[place] = _copy(stream, write_to, place)
        if member.sha256 and entries[place].sha256 != member.sha256:
            raise WheelInstallError(f"{member.wheel.name}: {member.name!r} is not what its RECORD says")
        progress.bytes_done(member.size_bytes)
    _put(entries, write_to, LAUNCHER, launcher_bytes(members, interpreter, python), mode=0o555)
    return entries


def run_self_test(release: Path, environ: Mapping[str, str], owner: Owner | None) -> None:
    """Run the release's own `appliance selftest`: the model must give its known answers on this machine.

    Args:
        owner: the user to run it as; None: the present user. An installed release never runs as root.
    Raises:
        SelfTestError: it did not, could not be started, or took longer than an hour.
    """
    command = [str(release / LAUNCHER), "selftest", "--release", str(release)]
    try:
        done = run_child(command, _clean(environ), owner=owner, timeout_s=SELF_TEST_TIMEOUT_S)
    except OSError as exc:
        raise SelfTestError(f"the release's self-test cannot be started: {exc.strerror}") from exc
    except subprocess.TimeoutExpired as exc:
        raise SelfTestError(f"the release's self-test took longer than {SELF_TEST_TIMEOUT_S} s") from exc
    if done.status:
        raise SelfTestError(f"the release failed its self-test: {done.said}")


def _put(entries: dict[str, Entry], write_to: Path | None, place: str, data: bytes, *, mode: int = 0o444) -> None:
    entries[place] = Entry(len(data), hashlib.sha256(data).hexdigest())
    if write_to is not None:
        with _made(write_to, place, mode) as file:
            file.write(data)


def _copy(stream: IO[bytes], write_to: Path | None, place: str) -> Entry:
    """Copy a file that may be large (a compiled module) piece by piece."""
    running, size = hashlib.sha256(), 0
    out = None if write_to is None else _made(write_to, place, 0o444)
    try:
        while piece := stream.read(CHUNK_BYTES):
            running.update(piece)
            size += len(piece)
            if out is not None:
                out.write(piece)
    finally:
        if out is not None:
            out.close()
    return Entry(size, Sha256Hex(running.hexdigest()))


def _made(release: Path, place: str, mode: int) -> IO[bytes]:
    """A new file of the release. Its directories are writable for their owner alone, whatever the umask is."""
    path = release / place
    make_directories(release, path.parent)
    file = path.open("xb")
    os.fchmod(file.fileno(), mode)
    return file


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"LC_ALL": "C.UTF-8"}  # messages are compared and quoted
