"""The proof that the door is shut: each kind of process makes every attempt to get out; the kernel must refuse each.

A child under the policy of a kind makes the attempts of that kind. The watcher must have noticed exactly these.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass

from appliance.child import ChildEndedError, value_of_child
from appliance.errors import ApplianceError
from appliance.isolation.attempts import Attempt, Props, every_attempt
from appliance.isolation.kernel import SilenceError
from appliance.isolation.policy import Kind
from appliance.isolation.watch import Watch


@dataclass(frozen=True)
class AttemptResult:
    """What the kernel answered to one attempt of one kind of process: an errno's name, or OPEN.

    The record of a start and the report of `appliance doctor` hold these fields by their names.
    """

    way: str  # the name of the attempt
    answer: str
    refused: bool
    kind: str = ""


def prove_self(props: Props, kind: Kind, answer: int, *, starts: Collection[Kind] = ()) -> tuple[AttemptResult, ...]:
    """Make every attempt in this process, whose filter refuses with ``answer``.

    Args:
        starts: kinds of process that inherit this filter. What the filter must allow to an engine on CUDA is not tried.
    Raises:
        SilenceError: an attempt was not refused, or its answer shows that another layer refused it; all such are named.
    """
    needing = {kind} | ({Kind.ENGINE_CUDA} & set(starts))
    results = tuple(_try(attempt, kind, answer) for attempt in every_attempt(props) if not needing & attempt.spared)
    _check(results)
    return results


def prove_kind(props: Props, kind: Kind, watch: Watch | None, confine: Callable[[], None]) -> tuple[AttemptResult, ...]:
    """Make every attempt in a child that ``confine`` has put under the policy of ``kind``.

    Raises:
        SilenceError: as `prove_self`; or the watcher did not notice what was tried.
    """
    results = _results_of_child(kind, lambda: _try_all(props, kind, confine))
    _check(results)
    if watch is not None:
        tried = Counter[str]()
        for attempt in every_attempt(props):
            if kind not in attempt.spared and attempt.times:
                tried[attempt.call] += attempt.times
        missed = tried - Counter(watch.noticed(kind))
        if missed:
            calls = ", ".join(f"{call} ({count} of {tried[call]})" for call, count in sorted(missed.items()))
            raise SilenceError(f"refused calls of the {kind} are not noticed, nothing may start: {calls}")
    return results


def _try_all(props: Props, kind: Kind, confine: Callable[[], None]) -> list[AttemptResult]:
    confine()
    return [_try(attempt, kind, errno.EPERM) for attempt in every_attempt(props) if kind not in attempt.spared]


def _try(attempt: Attempt, kind: Kind, answer: int) -> AttemptResult:
    expected = answer if attempt.answer == errno.EPERM else attempt.answer
    try:
        attempt.perform()
    except OSError as exc:
        code = exc.errno or 0
        return AttemptResult(attempt.name, errno.errorcode.get(code, str(code)), code == expected, kind)
    return AttemptResult(attempt.name, "OPEN", False, kind)


def _check(results: Iterable[AttemptResult]) -> None:
    found = [f"{result.way} ({result.answer}, {result.kind})" for result in results if not result.refused]
    if found:
        raise SilenceError(f"the way out is not shut, nothing may start: {'; '.join(found)}")


def _results_of_child(kind: Kind, try_all: Callable[[], list[AttemptResult]]) -> tuple[AttemptResult, ...]:
    try:
        report = value_of_child(lambda _: _report(try_all))
    except ChildEndedError as exc:
        raise SilenceError(f"the process that tried the ways out of the {kind} ended ({exc})") from exc
    if isinstance(report, str):
        raise SilenceError(report)
    return tuple(AttemptResult(**result) for result in report)


def _report(try_all: Callable[[], Collection[AttemptResult]]) -> list[dict[str, object]] | str:
    try:
        return [asdict(result) for result in try_all()]
    except ApplianceError as exc:
        return str(exc)


def reach_into_memory(pid: int) -> bool:
    """Whether this process may write to the memory of a process of the same user that stays outside."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
    except OSError:
        return False
    return True
