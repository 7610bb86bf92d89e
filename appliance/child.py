"""Does work in a child process, because the work could not be undone in this one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from typing import Any

from appliance.errors import ApplianceError
from appliance.signals import how_ended

_FAILED = 255  # exit status of a child that met anything but an OSError


class NoProcessError(ApplianceError):
    """The kernel starts no more processes for this user."""


class ChildEndedError(ApplianceError):
    """A child ended before it brought its value back; the message says how."""


def fork() -> int:
    """Fork as ``os.fork`` does, for a process that cannot go on without a child.

    Raises:
        NoProcessError: a limit is reached, or memory is short.
    """
    try:
        return os.fork()
    except OSError as exc:
        remedy = "end other processes of this user, or raise its limit (ulimit -u, TasksMax of a service)"
        if exc.errno == errno.ENOMEM:
            remedy = "free memory"
        raise NoProcessError(f"no further process can be started: {exc.strerror}; {remedy}") from exc


def errno_of_child(work: Callable[[], object]) -> int:
    """Do ``work`` in a child; return 0, or the errno of its OSError, or 255 if it failed otherwise.

    If the work becomes another program, return its exit status, which is negative for a signal.

    Raises:
        NoProcessError: no child can be started.
    """
    pid = fork()
    if pid == 0:
        code = _FAILED
        try:
            work()
            code = 0
        except OSError as exc:
            code = exc.errno or _FAILED
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def value_of_child(work: Callable[[int], object]) -> Any:
    """Do ``work`` in a child and return its value, which JSON must be able to hold.

    Args:
        work: gets the descriptor through which the value comes back, and must leave it open.
    Raises:
        NoProcessError: no child can be started.
        ChildEndedError: the child ended without a value.
    """
    read_end, write_end = os.pipe()
    pid = fork()
    if pid == 0:
        code = _FAILED
        try:
            _write_all(write_end, json.dumps(work(write_end)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise ChildEndedError(how_ended(code))
    return json.loads(answer)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
