"""The events that the signer checks before each signature: the new ones, and a stretch of older ones in turn."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.audit.fault import Fault, LogBrokenError
from appliance.audit.log import AuditLog
from appliance.audit.rounds import Rounds
from appliance.audit.stored_tree import LogDamagedError
from appliance.audit.tree import TreeCheck, check_rows, erased_ranges, is_accepted

RECHECKED_EVENTS = 20_000  # older events checked again at each checkpoint: about a quarter of a second


def check_stretch(log: AuditLog, begin: int, end: int, accepted: Sequence[tuple[int, int]]) -> bytes:
    """Recompute the events `begin` + 1 to `end`; returns the root of the first `end`.

    Args:
        accepted: events whose damage a reviewer has acknowledged.
    Raises:
        LogBrokenError: something does not fit.
    """
    try:
        hashes = log.subtree_hashes(begin)
    except LogDamagedError as exc:
        raise LogBrokenError([Fault(1, begin, str(exc))]) from exc
    with log.database.read() as connection:
        check = TreeCheck(begin, hashes, erased=lambda: erased_ranges(connection))
        check_rows(connection, check, end)
    faults = [fault for fault in check.faults if not is_accepted(fault, accepted)]
    root = check.root()
    if root is None and not faults:  # the accepted damage is at the edge, whose stored hashes were signed since
        root = log.root(end)
    if faults or root is None:
        raise LogBrokenError(faults)
    return root


def recheck_older(log: AuditLog, rounds: Rounds, signed: int, accepted: Sequence[tuple[int, int]]) -> None:
    """Recompute the next stretch of the first `signed` events.

    Raises:
        LogBrokenError: something does not fit.
    """
    begin, end = rounds.next(signed)
    check_stretch(log, begin, end, accepted)
