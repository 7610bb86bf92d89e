"""The proof that the door is shut: each kind of process makes every attempt to get out; the kernel must refuse each.

A child under the policy of a kind makes the attempts of that kind. The watcher must have noticed exactly these. Where a
filter of the host refuses some of them first, the filter of the kind must also refuse them alone, and the report says
that the watcher cannot notice them.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

from appliance.child import ChildEndedError, value_of_child
from appliance.errors import ApplianceError
from appliance.isolation.attempts import Attempt, Props, every_attempt
from appliance.isolation.kernel import SilenceError
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.privileges import process_status
from appliance.isolation.recipients import keep_signals
from appliance.isolation.rules import CallPolicy
from appliance.isolation.seccomp import Refusal, install_filter
from appliance.isolation.watch import Watch

Foreseen = Mapping[str, int]  # attempts that a filter of the host refuses, and the errors it answers
NOTHING: Final[Foreseen] = MappingProxyType({})


@dataclass(frozen=True)
class AttemptResult:
    """What the kernel answered to one attempt of one kind of process: an errno's name, or OPEN.

    The record of a start and the report of `appliance doctor` hold these fields by their names.
    """

    way: str  # the name of the attempt
    answer: str
    refused: bool
    kind: str = ""


def refused_before(props: Props) -> Foreseen:
    """The attempts that a filter of the host refuses already (a service manager's, a container's), with its answers.

    Such an error is harsher than the answers of our own filters here, so it hides them, and the watcher notices
    nothing. A child under a filter that answers ENOSYS to every attempt shows which attempts these are: they alone get
    another answer. Nothing reaches the kernel behind the filters.

    Raises:
        SilenceError: the host's filter gives the answer by which `prove_alone` knows ours.
    """
    if process_status()["Seccomp"] == "0":
        return {}
    report = _value_of_child(Kind.RECORDER, lambda: _answers(props))
    foreseen = {way: code for way, code in report if code not in (0, errno.ENOSYS)}
    if errno.ENOANO in foreseen.values():
        raise SilenceError(
            "the service manager or container refuses calls with the error ENOANO, by which the proof knows our own "
            "filter; nothing may start; have it answer EPERM (SystemCallErrorNumber=EPERM)"
        )
    return foreseen


def _answers(props: Props) -> list[tuple[str, int]]:
    policy = keep_signals(call_policy(Kind.RECORDER), Kind.RECORDER, never={os.getppid()})
    install_filter(policy, Refusal.TRACE)
    return [(attempt.name, _errno_of(attempt)) for attempt in _attempts_of(props, {Kind.RECORDER})]


def prove_self(
    props: Props, kind: Kind, answer: int, *, starts: Collection[Kind] = (), foreseen: Foreseen = NOTHING
) -> tuple[AttemptResult, ...]:
    """Make every attempt in this process, whose filter refuses with ``answer``.

    Args:
        starts: kinds of process that inherit this filter. What the filter must allow to an engine on CUDA is not tried.
        foreseen: from `refused_before`.
    Raises:
        SilenceError: an attempt was not refused, or its answer shows that another layer refused it; all such are named.
    """
    attempts = _attempts_of(props, {kind} | ({Kind.ENGINE_CUDA} & set(starts)))
    results = tuple(_try(attempt, kind, answer, foreseen) for attempt in attempts)
    _check(results)
    return results


def prove_kind(
    props: Props,
    kind: Kind,
    watch: Watch | None,
    confine: Callable[[], None],
    foreseen: Foreseen = NOTHING,
) -> tuple[AttemptResult, ...]:
    """Make every attempt in a child that ``confine`` has put under the policy of ``kind``.

    Raises:
        SilenceError: as `prove_self`; or the watcher did not notice what was tried.
    """

    def try_all() -> list[AttemptResult]:
        confine()
        return [_try(attempt, kind, errno.EPERM, foreseen) for attempt in _attempts_of(props, {kind})]

    results = _results_of_child(kind, try_all)
    _check(results)
    if watch is not None:
        tried = Counter[str]()
        for attempt in _attempts_of(props, {kind}):
            if attempt.times and attempt.name not in foreseen:
                tried[attempt.call] += attempt.times
        missed = tried - Counter(watch.noticed(kind))
        if missed:
            calls = ", ".join(f"{call} ({count} of {tried[call]})" for call, count in sorted(missed.items()))
            raise SilenceError(f"refused calls of the {kind} are not noticed, nothing may start: {calls}")
    return results


def prove_alone(
    props: Props, kind: Kind, policy: Callable[[], CallPolicy], *, spared: Collection[Kind], leave_out: Collection[str]
) -> None:
    """Prove that the filter of ``kind`` refuses every attempt by itself, where a filter of the host hides its answers.

    In a child it answers with an error of its own, which counts because it is the newer of two errors.

    Args:
        policy: called in the child; the policy depends on the parent.
        spared: the kinds whose needs are not tried.
        leave_out: as for `shut_the_door`.
    Raises:
        SilenceError: as `prove_self`.
    """

    def try_all() -> list[AttemptResult]:
        install_filter(policy(), Refusal.OWN, leave_out=leave_out)
        return [_try(attempt, kind, errno.ENOANO, NOTHING) for attempt in _attempts_of(props, {kind, *spared})]

    _check(_results_of_child(kind, try_all))


def _attempts_of(props: Props, spared: Collection[Kind]) -> list[Attempt]:
    """The attempts that none of these kinds needs for its work."""
    return [attempt for attempt in every_attempt(props) if not attempt.spared & set(spared)]


def _try(attempt: Attempt, kind: Kind, answer: int, foreseen: Foreseen) -> AttemptResult:
    expected = answer if attempt.answer == errno.EPERM else attempt.answer
    code = _errno_of(attempt)
    if code == 0:
        return AttemptResult(attempt.name, "OPEN", False, kind)
    refused = code == foreseen.get(attempt.name, expected)
    return AttemptResult(attempt.name, errno.errorcode.get(code, str(code)), refused, kind)


def _errno_of(attempt: Attempt) -> int:
    """The kernel's answer; 0 for success."""
    try:
        attempt.perform()
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0


def _check(results: Iterable[AttemptResult]) -> None:
    found = [f"{result.way} ({result.answer}, {result.kind})" for result in results if not result.refused]
    if found:
        raise SilenceError(f"the way out is not shut, nothing may start: {'; '.join(found)}")


def _results_of_child(kind: Kind, try_all: Callable[[], list[AttemptResult]]) -> tuple[AttemptResult, ...]:
    return tuple(AttemptResult(**result) for result in _value_of_child(kind, lambda: [asdict(r) for r in try_all()]))


def _value_of_child(kind: Kind, work: Callable[[], list[Any]]) -> list[Any]:
    try:
        report = value_of_child(lambda _: _report(work))
    except ChildEndedError as exc:
        raise SilenceError(f"the process that tried the ways out of the {kind} ended ({exc})") from exc
    if isinstance(report, str):
        raise SilenceError(report)
    return list(report)


def _report(work: Callable[[], list[Any]]) -> list[Any] | str:
    try:
        return work()
    except ApplianceError as exc:
        return str(exc)


def reach_into_memory(pid: int) -> bool:
    """Whether this process may write to the memory of a process of the same user that stays outside."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
    except OSError:
        return False
    return True
