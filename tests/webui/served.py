"""`webui.wsgi:app` in a real gunicorn, for the tests that speak HTTP to it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.accounts import Accounts, Role
from appliance.audit.log import AuditLog
from appliance.sessions import ApiKeys
from tests.webui.conftest import FAST_PASSWORDS, SYSTEM

PROJECT = Path(__file__).parents[2]


@contextlib.contextmanager
def gunicorn(home: Path, doorbell: socket.socket) -> Iterator[int]:
    """The application of the site at `home`, on an inherited listener as under the supervisor; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fds = (listener.fileno(), doorbell.fileno())
        environ = {"APPLIANCE_HOME": str(home), "APPLIANCE_DOORBELL_FD": str(fds[1]), "PYTHONPATH": str(PROJECT)}
        program = Path(sys.executable).with_name("gunicorn")
        options = ("--worker-class=gthread", "--threads=4", f"--bind=fd://{fds[0]}", "--graceful-timeout=1")
        argv = (sys.executable, str(program), *options, "--no-control-socket", "--log-level=warning", "webui.wsgi:app")
        process = subprocess.Popen(argv, env=environ, pass_fds=fds, cwd=home)
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.wait(timeout=20)


def add_user_with_key(record: AuditLog) -> str:
    """A person who may chat; the value is an API key of theirs."""
    accounts = Accounts(record.database, record, passwords=FAST_PASSWORDS)
    user = accounts.create_user("ada", None, [Role.USER], by=SYSTEM)
    return ApiKeys(record.database, record).create(user, "test", by=SYSTEM)[1]
