"""gunicorn's configuration module: says when a worker has loaded the application and will answer, and how one ended.

The supervisor sees gunicorn's own process alone, and gunicorn's hooks do not tell how a worker ended. So the statuses
are taken where every way of collecting them passes: in ``os.waitpid``, for gunicorn's first process only.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from gunicorn import util  # type: ignore[import-untyped, unused-ignore]

from appliance.isolation.confinement import seal

_statuses: dict[int, int] = {}  # of processes that ended, until `child_exit` asks


def on_starting(_server: Any) -> None:
    """Start no other program from here, and keep the status of each process that is collected."""
    seal(os.environ)
    collect = os.waitpid

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        ended, status = collect(pid, options)
        if ended:
            _statuses[ended] = status
        return ended, status

    os.waitpid = waitpid
    util.get_username = _name_of


def _name_of(uid: int) -> str:
    """gunicorn wants the user's name, for groups that it is not to set. The name service may be a socket away, and
    asking it would be refused, and reported."""
    raise KeyError(uid)


def post_worker_init(_worker: Any) -> None:
    """Write one byte to the descriptor that the supervisor reads; it cannot ask over HTTP, having no way to connect."""
    os.write(int(os.environ["APPLIANCE_READY_FD"]), b"\x01")


def pre_fork(_server: Any, worker: Any) -> None:
    """Note when the worker begins; it has no pid yet."""
    worker.began_s = time.monotonic()


def child_exit(server: Any, worker: Any) -> None:
    """Tell the supervisor how a worker ended. When gunicorn ends, it has closed its listeners and told them to."""
    status = _statuses.pop(worker.pid, None)
    if status is None or not server.LISTENERS:
        return
    code = os.waitstatus_to_exitcode(status)
    how = f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    line = json.dumps({"how": how, "ran_s": round(time.monotonic() - worker.began_s, 1)}) + "\n"
    os.write(int(os.environ["APPLIANCE_WORKERS_FD"]), line.encode())
