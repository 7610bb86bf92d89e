"""A site that belongs to an unprivileged user, for tests run by root: the appliance refuses to serve as root.

    give_to_user(home)        # state/ is theirs, everything on the way to it can be passed

Such a user must be able to run the interpreter and to read this checkout, which may lie below a directory that is
root's alone (/root). ``open_the_way``, once for a whole test run, then shows this process and its descendants, in a
mount namespace of their own, the same directories with a mode that lets others through; nothing on the disk changes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path

from appliance.isolation.kernel import syscall

SERVICE_UID = 65534  # nobody: has no privileges and owns nothing
SERVICE_USER = str(SERVICE_UID) if os.geteuid() == 0 else None  # for `install`: only root gives a site away
# Options for the installer's command. It must not make a service of the host that runs the tests.
USER_OPTION = () if SERVICE_USER is None else ("--user", SERVICE_USER, "--no-service")
PROJECT = Path(__file__).parents[1]
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PASSABLE = 0o001


def give_to_user(home: Path) -> None:
    """If we are root, give ``state/`` of the site ``home`` to the unprivileged user and let them reach it."""
    if os.geteuid() != 0:
        return
    from tests.conftest import WAY_IS_OPEN, require  # that module asks open_the_way of this one

    require(WAY_IS_OPEN, "a mount namespace in which an unprivileged user can reach this checkout")
    state = home / "state"
    state.mkdir(parents=True, exist_ok=True)
    for directory, names, files in os.walk(state):
        for path in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
            os.chown(path, SERVICE_UID, SERVICE_UID, follow_symlinks=False)
    let_through(home)


def let_through(path: Path) -> None:
    """Let everybody pass the temporary directories on the way to ``path``, and read it if it exists."""
    temporary = Path(tempfile.gettempdir())
    for directory in (path, *path.parents):
        if directory == temporary or temporary not in directory.parents:
            return
        if directory.exists():
            directory.chmod(directory.stat().st_mode | 0o055)


def open_the_way() -> bool:
    """Let everybody reach the interpreter and this checkout. False if the way is closed and this host forbids to open
    it.
    """
    if os.geteuid() != 0:
        return True
    wanted = [Path(sys.base_prefix), Path(sys.prefix), PROJECT]
    try:
        for directory in _closed_on_the_way(wanted):
            _show_passable(directory)
    except OSError:
        return False
    return not _closed_on_the_way(wanted)


def _closed_on_the_way(wanted: list[Path]) -> list[Path]:
    """Directories that only root may pass, outermost first."""
    passed = {directory for path in wanted for directory in (path.resolve(), *path.resolve().parents)}
    return sorted((path for path in passed if not path.stat().st_mode & _PASSABLE), key=lambda path: len(path.parts))


def _show_passable(directory: Path) -> None:
    """Cover the directory with a passable one in memory that holds the same entries by bind mounts."""
    syscall("unshare", _CLONE_NEWNS)
    _mount("none", Path("/"), "none", _MS_REC | _MS_PRIVATE)
    covered = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    entries = list(directory.iterdir())
    _mount("tmpfs", directory, "tmpfs", 0)
    directory.chmod(0o755)
    for place in entries:
        entry = Path(f"/proc/self/fd/{covered}", place.name)
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
            continue
        if entry.is_dir():
            place.mkdir()
        else:
            place.touch()
        _mount(str(entry), place, "none", _MS_BIND | _MS_REC)
    os.close(covered)


def _mount(source: str, target: Path, kind: str, flags: int) -> None:
    """mount(2): kernel.py knows its number, to refuse it."""
    names = [ctypes.c_char_p(os.fsencode(name)) for name in (source, target, kind)]
    syscall("mount", *names, flags, None)
