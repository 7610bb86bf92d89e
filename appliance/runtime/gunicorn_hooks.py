"""gunicorn's configuration module: reports when a worker is ready to answer, and how a worker ended.

The supervisor sees only gunicorn's own process, and gunicorn's hooks do not say how a worker ended. gunicorn collects
every status through ``os.waitpid``, so this module replaces that function, in gunicorn's first process alone. The
replacement also resumes a worker that somebody has stopped; gunicorn would notice after a minute and end its streams.

Of gunicorn's signals only SIGTERM keeps its meaning. The others would change the number of workers, reload the
configuration, or start a second server beside this one.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from gunicorn import util  # type: ignore[import-untyped, unused-ignore]

from appliance.isolation.confinement import seal
from appliance.signals import how_ended, name_of

_statuses: dict[int, int] = {}  # of ended processes, until `child_exit` takes them


def on_starting(server: Any) -> None:
    """Forbid starting other programs, obey SIGTERM alone, and keep the status of each collected process."""
    seal(os.environ)
    server.SIGNALS = [signal.SIGTERM]  # those that gunicorn will handle; all others are ignored already
    collect = os.waitpid

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        changed, status = collect(pid, options | os.WUNTRACED)
        while changed and os.WIFSTOPPED(status):
            _go_on(server, changed, name_of(os.WSTOPSIG(status)))
            changed, status = collect(pid, options | os.WUNTRACED)
        if changed:
            _statuses[changed] = status
        return changed, status

    os.waitpid = waitpid
    util.get_username = _name_of


def _go_on(server: Any, worker: int, stopped_by: str) -> None:
    os.kill(worker, signal.SIGCONT)
    server.log.warning("the web worker was stopped by %s and goes on", stopped_by)


def _name_of(uid: int) -> str:
    """Say that the user has no name. gunicorn asks for it to set groups, which it must not do. Asking the name service
    may need a socket, which would be refused and reported."""
    raise KeyError(uid)


def post_worker_init(_worker: Any) -> None:
    """Tell the supervisor by one byte. The supervisor cannot ask over HTTP, because it has no way to connect."""
    os.write(int(os.environ["APPLIANCE_READY_FD"]), b"\x01")


def pre_fork(_server: Any, worker: Any) -> None:
    """Note when the worker begins; it has no pid yet."""
    worker.began_s = time.monotonic()


def post_fork(_server: Any, _worker: Any) -> None:
    """Keep a worker from forging, flooding or swallowing gunicorn's reports of ended workers."""
    os.close(int(os.environ["APPLIANCE_WORKERS_FD"]))


def child_exit(server: Any, worker: Any) -> None:
    """Tell the supervisor how a worker ended, unless gunicorn itself is ending; then its listeners are closed."""
    status = _statuses.pop(worker.pid, None)
    if status is None or not server.LISTENERS:
        return
    how = how_ended(os.waitstatus_to_exitcode(status))
    line = json.dumps({"how": how, "ran_s": round(time.monotonic() - worker.began_s, 1)}) + "\n"
    os.write(int(os.environ["APPLIANCE_WORKERS_FD"]), line.encode())
