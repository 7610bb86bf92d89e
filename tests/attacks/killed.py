"""Kills a command before the changes that it makes to the file system, one after the other.

Python tells an audit hook of each change (PEP 578) before it makes it. A child process runs the command and kills
itself before the chosen change. Many changes are alike (a file is written after another was written), so of each kind
after another kind the first is chosen, and then every thirtieth; of forty or fewer changes all are. What the kernel has
not yet written when the power fails is another matter.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

CHANGES = frozenset({
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
})  # fmt: skip
FEW, EVERY = 40, 30
_DONE = 99  # exit status of a child whose command has ended


def kills(command: Callable[[Path], object], fresh: Callable[[], Path]) -> Iterator[tuple[int, Path]]:
    """Run the command once to its end, then again and again in a fresh place, killed before one of its changes.

    Args:
        command: is given the place.
        fresh: makes a new place, the same each time.
    Yields:
        the number of the change, from 0 on, and the place that the kill left.
    """
    changes = _changes_of(command, fresh())
    for number in _chosen(changes):
        place = fresh()
        status = _in_child(lambda place=place, number=number: _run(command, place, number))  # type: ignore[misc]
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise AssertionError(f"the command was not killed before change {number}, which was {changes[number]}")
        yield number, place


def _changes_of(command: Callable[[Path], object], place: Path) -> list[str]:
    """The changes of a run that nobody kills."""
    report = place.parent / "changes"
    status = _in_child(lambda: report.write_text(json.dumps(_run(command, place, None))))
    if not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == _DONE):
        raise AssertionError("the command failed by itself")
    changes: list[str] = json.loads(report.read_text())
    return changes


def _chosen(changes: list[str]) -> Iterator[int]:
    """All of a few changes; else of each kind of change after each kind the first, and then every ``EVERY``-th."""
    seen: Counter[tuple[str, str]] = Counter()
    for number, pair in enumerate(zip(["", *changes], changes, strict=False)):
        seen[pair] += 1
        if len(changes) <= FEW or seen[pair] == 1 or seen[pair] % EVERY == 0:
            yield number


def _in_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = _DONE
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def _run(command: Callable[[Path], object], place: Path, last: int | None) -> list[str]:
    """Run the command in this process, a child. The value is its changes; with ``last``, die by SIGKILL before that."""
    changes: list[str] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in CHANGES or (event == "open" and _writes(arguments)):
            if len(changes) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            changes.append(event)

    sys.dont_write_bytecode = True  # modules that are imported late are no change of the command's
    tempfile.tempdir = str(place.parent)
    sys.addaudithook(note)
    command(place)
    return changes[:]


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
