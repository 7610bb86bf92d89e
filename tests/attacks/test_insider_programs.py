"""A signed release whose own program is hostile: what it may do to the person who installs it, in its self-test."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from installer.child import run_child
from tests.waiting import wait_for

LOUD = "import sys; sys.stderr.write('x' * 5_000_000); sys.exit(1)"
LEAVES_A_CHILD = """
import os, time
if os.fork() == 0:
    time.sleep(600)
    os._exit(0)
print(os.getpid())
"""
LEAVES_A_STRANGER = """
import os, time
if os.fork() == 0:
    os.setsid()
    while True:
        os.write(1, b'x' * 4096)
"""
TYPES = """
import fcntl, sys, termios
with open('/dev/tty', 'wb', buffering=0) as terminal:
    for byte in b'forged':
        fcntl.ioctl(terminal, termios.TIOCSTI, bytes([byte]))
"""


def ended(program: str, *, timeout_s: float = 60) -> tuple[int, str]:
    done = run_child([sys.executable, "-c", program], dict(os.environ), owner=None, timeout_s=timeout_s)
    return done.status, done.said


def test_what_it_prints_is_quoted_in_part() -> None:
    status, said = ended(LOUD)
    assert status == 1
    assert said == ".." + 1000 * "x"


def test_what_it_leaves_running_is_ended_with_it() -> None:
    status, session = ended(LEAVES_A_CHILD)
    assert status == 0
    wait_for(lambda: not group_lives(int(session)))  # until init has reaped it


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_leaves_its_session_and_prints_for_ever_is_not_waited_for() -> None:
    status, said = ended(LEAVES_A_STRANGER)  # it ends by SIGPIPE
    assert status == 0
    assert set(said.removeprefix("..")) <= {"x"} or said == "no output"


@pytest.mark.parametrize(
    "program", ["while True: print('x')", "import os, time; os.close(1); os.close(2); time.sleep(600)"]
)
def test_one_that_does_not_end_is_ended(program: str) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        ended(program, timeout_s=0.5)


def test_it_has_no_terminal_and_no_input() -> None:
    """Otherwise a program of the appliance's user could type commands into root's shell."""
    child, terminal = pty.fork()
    if child == 0:  # the person at the terminal, who leads its session
        signal.alarm(60)
        status, said = ended("import sys; print(repr(sys.stdin.read()))")
        typed, why = ended(TYPES)
        os.write(1, f"{status} {said}; {typed != 0} {'No such device' in why}".encode())
        os._exit(0)
    shown = b""
    while not shown.endswith((b"True", b"False")):
        shown += os.read(terminal, 4096)
    os.waitpid(child, 0)
    os.close(terminal)
    assert shown.decode() == "0 ''; True True"
