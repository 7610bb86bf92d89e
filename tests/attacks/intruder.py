"""What an intruder inside a process of the appliance tries on files, each attempt by a plain call.

``try_all`` is run inside a web worker and an engine, for which this file is copied into their release; it imports
nothing of ours. An attempt is [verb, path] and its outcome "done" or the name of an errno.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable


def try_all(attempts: list[list[str]]) -> dict[str, str]:
    return {" ".join(attempt): outcome(*attempt) for attempt in attempts}


def outcome(verb: str, path: str) -> str:
    try:
        VERBS[verb](path)
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc))
    return "done"


def read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def write(path: str) -> None:
    """Open an existing file for writing, and leave it as it is."""
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))


def cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path))


def make(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)


def remove(path: str) -> None:
    """Rename it and back: a file that may not be renamed may not be removed either."""
    os.rename(path, path + "-")
    os.rename(path + "-", path)


def link(path: str) -> None:
    os.link(path, os.path.join(os.environ["TMPDIR"], "link"))


def symlink(path: str) -> None:
    os.symlink("/etc/passwd", path)
    os.unlink(path)


def device(path: str) -> None:
    os.mkfifo(path)
    os.unlink(path)


def open_for_both(path: str) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))


def look_into(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def open_up(path: str) -> None:
    """Open a file or directory for reading, and let everybody write it through that descriptor."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, os.fstat(descriptor).st_mode & 0o777 | 0o022)
    finally:
        os.close(descriptor)


def give_away(path: str) -> None:
    """Open it in the same way, and give it to one of one's own groups."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchown(descriptor, -1, os.getgid())
    finally:
        os.close(descriptor)


def execute(path: str) -> None:
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.execve(path, [path], {})  # noqa: S606 - the attack
        except OSError as exc:
            code = exc.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def execute_written(path: str) -> None:
    """Write a script that does nothing, and execute it."""
    with open(path, "w") as file:
        file.write("#!/bin/true\n")
    os.chmod(path, 0o700)
    try:
        execute(path)
    finally:
        os.unlink(path)


def raid_memory(path: str) -> None:
    """Open the memory of the process whose number is in ``path``."""
    os.close(os.open(f"/proc/{path}/mem", os.O_RDWR))


VERBS: dict[str, Callable[[str], None]] = {
    "read": read, "write": write, "cut": cut, "make": make, "remove": remove, "link": link, "symlink": symlink,
    "fifo": device, "open": open_for_both, "open-up": open_up, "give-away": give_away, "look-into": look_into,
    "execute": execute,
    "execute-written": execute_written, "memory": raid_memory,
}  # fmt: skip
