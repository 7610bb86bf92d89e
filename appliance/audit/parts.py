"""Checks the whole tree, in several processes where there are several cores.

The log is cut into parts. Each part begins with the stored hashes of what is before it, which the parts before compare
with the events below them, so that together they check exactly what one pass checks. A part whose process cannot be
started, or dies, is checked by the caller.
"""

from __future__ import annotations

import os
import pickle
import time
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import sqlalchemy as sa

from appliance.audit import merkle
from appliance.audit.fault import MAX_FAULTS, Fault
from appliance.audit.stored_tree import LogDamagedError, log_size, stored_hashes
from appliance.audit.tree import MAX_REMARKS, Marks, TreeCheck, check_rows, erased_ranges, strays
from appliance.database.tables import audit_events
from appliance.database.transactions import Database, DatabaseError

SMALLEST_PART = 50_000  # events that take less time than a process takes to begin

Reached = Callable[[int, "bytes | None"], None]


@dataclass(frozen=True)
class TreeReport:
    """What `check_tree` found."""

    size: int
    root: bytes | None  # None when events are missing
    erased: int
    faults: tuple[Fault, ...]
    remarks: tuple[Fault, ...]
    duration_s: float


@dataclass(frozen=True)
class _Part:
    """The events ``begin`` + 1 to ``end``; ``sizes`` are those at which somebody wants the root."""

    begin: int
    end: int
    sizes: array[int]


@dataclass(frozen=True)
class _Found:
    """What checking a part found; ``roots`` belong to its sizes."""

    faults: list[Fault]
    remarks: list[Fault]
    erased: int
    roots: list[bytes | None]
    root: bytes | None


def check_tree(
    connection: sa.Connection,
    *,
    sizes: Iterable[int] = (),
    reached: Reached = lambda _size, _root: None,
    database: Database | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> TreeReport:
    """Check everything that tree.py lists.

    Args:
        sizes: ascending; `reached` is told the root at each, None when it cannot be known.
        database: to be read by other processes, of which there are up to `processes`.
        progress: told (events checked, events) now and then.
    """
    began_s = time.perf_counter()
    size = log_size(connection)
    count = 1 if database is None else max(1, min(processes, size // SMALLEST_PART))
    parts = _cut(size, array("q", sizes), count)
    others = [_start(database, part) for part in parts[1:]] if database is not None else []

    def told(done: int, _: int) -> None:
        if progress:
            progress(min(done * count, size), size)

    found = [_check(connection, parts[0], told)]
    for part, other in zip(parts[1:], others, strict=True):
        found.append(_result(other) or _check(connection, part, told))
    for part, one in zip(parts, found, strict=True):
        for wanted, root in zip(part.sizes, one.roots, strict=True):
            reached(wanted, root)
    faults = [fault for one in found for fault in one.faults][:MAX_FAULTS] + strays(connection)
    faults.sort(key=lambda fault: (fault.first, fault.last))
    remarks = tuple(remark for one in found for remark in one.remarks)[:MAX_REMARKS]
    erased = sum(one.erased for one in found)
    return TreeReport(size, found[-1].root, erased, tuple(faults), remarks, time.perf_counter() - began_s)


def _cut(size: int, sizes: array[int], count: int) -> list[_Part]:
    bounds = [size * number // count for number in range(count + 1)]
    parts = []
    for begin, end in pairwise(bounds):
        inside = array("q", (wanted for wanted in sizes if begin < wanted <= end or wanted == begin == 0))
        parts.append(_Part(begin, end, inside))
    return parts


def _check(connection: sa.Connection, part: _Part, progress: Callable[[int, int], None] | None) -> _Found:
    roots: list[bytes | None] = []
    marks = Marks(iter(part.sizes), lambda _, root: roots.append(root))
    try:
        hashes = stored_hashes(connection, merkle.covering(0, part.begin))
    except LogDamagedError:  # the part before reports it; later parts have no known root
        hashes = []
    before = sa.select(audit_events.c.time_us).where(audit_events.c.sequence == part.begin)
    last_us = connection.scalar(before) if part.begin else None
    check = TreeCheck(
        part.begin, hashes, erased=lambda: erased_ranges(connection), marks=marks,
        last_us=last_us if type(last_us) is int else None,
    )  # fmt: skip
    if not hashes and part.begin:
        check.forget_edge()
    check_rows(connection, check, part.end, progress=progress)
    return _Found(check.faults, check.remarks, check.erased, roots, check.root())


def _start(database: Database, part: _Part) -> tuple[int, int] | None:
    """A process that checks the part: its pid, and where its result can be read; None where none can be had."""
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        return None
    if pid:
        os.close(writer)
        return pid, reader
    with suppress(BaseException):  # whatever happens, this process ends here and the caller checks the part
        os.close(reader)
        database.engine.dispose(close=False)  # connections are the parent's
        with database.read() as connection, os.fdopen(writer, "wb") as file:
            pickle.dump(_check(connection, part, None), file)
    os._exit(0)


def _result(started: tuple[int, int] | None) -> _Found | None:
    """What the process found; None when it did not end well."""
    if started is None:
        return None
    pid, reader = started
    found = None
    with suppress(EOFError, pickle.UnpicklingError, DatabaseError), os.fdopen(reader, "rb") as file:
        found = pickle.load(file)  # noqa: S301 - written by our own child
    os.waitpid(pid, 0)
    return found if isinstance(found, _Found) else None
