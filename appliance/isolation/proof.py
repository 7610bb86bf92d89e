"""The proof that the door is shut: each kind of process tries each way out, and the kernel must refuse every one.

A kind is tried in a child under its own policy, and what its watcher noticed must be what was tried.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass

from appliance.child import ChildEndedError, value_of_child
from appliance.errors import ApplianceError
from appliance.isolation.kernel import SilenceError
from appliance.isolation.policy import Kind
from appliance.isolation.watch import Watch
from appliance.isolation.ways import Props, Way, ways_out


@dataclass(frozen=True)
class Attempt:
    """One way out, tried by one kind of process, and what the kernel answered: an errno's name, or OPEN."""

    way: str
    answer: str
    refused: bool
    kind: str = ""


def prove_self(props: Props, kind: Kind, answer: int, *, starts: Collection[Kind] = ()) -> tuple[Attempt, ...]:
    """Try every way in this process, whose filter refuses with ``answer``.

    Args:
        starts: kinds of process that inherit this filter; what it must leave to an engine on CUDA is not tried.
    Raises:
        SilenceError: one was not refused, or refused in a way that shows another layer at work; all such are named.
    """
    needing = {kind} | ({Kind.ENGINE_CUDA} & set(starts))
    attempts = tuple(_try(way, kind, answer) for way in ways_out(props) if not needing & way.spared)
    _check(attempts)
    return attempts


def prove_kind(props: Props, kind: Kind, watch: Watch | None, confine: Callable[[], None]) -> tuple[Attempt, ...]:
    """Try every way in a child that ``confine`` has put under the policy of ``kind``.

    Raises:
        SilenceError: as `prove_self`; or the watcher did not notice what was tried.
    """
    attempts = _attempts_of_child(kind, lambda: _try_all(props, kind, confine))
    _check(attempts)
    if watch is not None:
        tried = Counter[str]()
        for way in ways_out(props):
            if kind not in way.spared and way.times:
                tried[way.call] += way.times
        missed = tried - Counter(watch.noticed(kind))
        if missed:
            calls = ", ".join(f"{call} ({count} of {tried[call]})" for call, count in sorted(missed.items()))
            raise SilenceError(f"refused calls of the {kind} are not noticed, nothing may start: {calls}")
    return attempts


def _try_all(props: Props, kind: Kind, confine: Callable[[], None]) -> list[Attempt]:
    confine()
    return [_try(way, kind, errno.EPERM) for way in ways_out(props) if kind not in way.spared]


def _try(way: Way, kind: Kind, answer: int) -> Attempt:
    expected = answer if way.answer == errno.EPERM else way.answer
    try:
        way.attempt()
    except OSError as exc:
        code = exc.errno or 0
        return Attempt(way.name, errno.errorcode.get(code, str(code)), code == expected, kind)
    return Attempt(way.name, "OPEN", False, kind)


def _check(attempts: Iterable[Attempt]) -> None:
    found = [f"{attempt.way} ({attempt.answer}, {attempt.kind})" for attempt in attempts if not attempt.refused]
    if found:
        raise SilenceError(f"the way out is not shut, nothing may start: {'; '.join(found)}")


def _attempts_of_child(kind: Kind, try_all: Callable[[], list[Attempt]]) -> tuple[Attempt, ...]:
    try:
        report = value_of_child(lambda _: _report(try_all))
    except ChildEndedError as exc:
        raise SilenceError(f"the process that tried the ways out of the {kind} ended ({exc})") from exc
    if isinstance(report, str):
        raise SilenceError(report)
    return tuple(Attempt(**attempt) for attempt in report)


def _report(try_all: Callable[[], Collection[Attempt]]) -> list[dict[str, object]] | str:
    try:
        return [asdict(attempt) for attempt in try_all()]
    except ApplianceError as exc:
        return str(exc)


def reach_into_memory(pid: int) -> bool:
    """Whether this process may open the memory of another of the same user, outside of the isolation, for writing."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
    except OSError:
        return False
    return True
