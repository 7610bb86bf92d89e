"""The installed appliance goes on as it was after a storm of signals and with a stopped engine."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable

from tests.attacks.test_signals_from_outside import ENDING, STORM, children_of, state_of
from tests.scenarios.conftest import Served
from tests.waiting import wait_for

LIMIT_S = 120.0


def is_ready(appliance: Served) -> bool:
    try:
        with urllib.request.urlopen(f"{appliance.url}/readyz", timeout=30) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def until(condition: Callable[[], bool], appliance: Served) -> None:
    wait_for(condition, within_s=LIMIT_S, said=lambda: "\n".join(appliance.lines))


def test_a_storm_of_signals_and_a_stopped_engine_change_nothing(appliance: Served) -> None:
    until(lambda: is_ready(appliance), appliance)
    gunicorn = next(pid for pid in children_of(appliance.process.pid) if children_of(pid))
    (worker,) = children_of(gunicorn)
    before = set(appliance.children()) - {worker}
    for pid in [appliance.process.pid, *before, worker]:
        for number in STORM - (ENDING if pid == appliance.process.pid else set()):
            os.kill(pid, number)
    engine = appliance.pid_of("appliance.engine.server")
    os.kill(engine, signal.SIGSTOP)
    until(lambda: state_of(engine) != "T", appliance)
    os.kill(worker, signal.SIGKILL)  # gunicorn handles this one after all the signals before
    until(lambda: children_of(gunicorn) not in ([], [worker]), appliance)
    until(lambda: is_ready(appliance), appliance)
    (another,) = children_of(gunicorn)
    assert set(appliance.children()) - {another} == before
