"""`webui.wsgi:app` in a real gunicorn, for the tests that speak HTTP to it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.audit.log import AuditLog
from appliance.config import init_state
from appliance.database.transactions import open_database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.api_keys import ApiKeys
from appliance.transport import Transport
from tests.webui.conftest import FAST_PASSWORDS, SYSTEM

PROJECT = Path(__file__).parents[2]


def write_release(path: Path, model_id: str) -> None:
    """A release directory that can be read, though not run."""
    for name in ("config.json", "vocabulary", "graph"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
    model = {"id": model_id, "title": "Fake", "description": "Repeats.", "context_tokens": 4096, "example_prompts": []}
    body = {
        "format": 1, "name": model_id, "version": "0.0.1", "accelerators": ["cpu"], "graphs": {"cpu": "graph"},
        "config": "config.json", "vocabulary": "vocabulary", "known_answers": None,
        "target": {"python": "3.11", "platform": "any"}, "model": {**model, "notice": None},
    }  # fmt: skip
    (path / "release.json").write_text(json.dumps(body))


@contextlib.contextmanager
def gunicorn(
    home: Path, doorbell: socket.socket, *, application: str = "webui.wsgi:app", threads: int = 4, workers: int = 1,
    transport: Transport = Transport.LOOPBACK, worker: str = "webui.serving.worker.SiteWorker",
    prefix: tuple[str, ...] = (), messages: Path | None = None,
) -> Iterator[int]:  # fmt: skip
    """Serve the site at `home` on an inherited listener, as under the supervisor. The value is the port.

    Args: prefix: a command that starts the rest; messages: a file for what it says.
    """
    reader_bell, no_reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.create_server(("127.0.0.1", 0)) as listener, reader_bell, no_reader:
        fds = (listener.fileno(), doorbell.fileno(), reader_bell.fileno())
        environ = {"APPLIANCE_HOME": str(home), "APPLIANCE_DOORBELL_FD": str(fds[1]), "PYTHONPATH": str(PROJECT)}
        environ["APPLIANCE_READER_FD"] = str(fds[2])
        environ["APPLIANCE_TRANSPORT"] = transport.value
        program = Path(sys.executable).with_name("gunicorn")
        numbers = (f"--threads={threads}", f"--workers={workers}", "--graceful-timeout=2")
        options = (f"--worker-class={worker}", *numbers, f"--bind=fd://{fds[0]}")
        quiet = ("--no-control-socket", "--log-level=warning")
        argv = (*prefix, sys.executable, str(program), *options, *quiet, application)
        with contextlib.ExitStack() as open_ones:
            errors = None if messages is None else open_ones.enter_context(messages.open("wb"))
            process = subprocess.Popen(argv, env=environ, pass_fds=fds, cwd=home, stderr=errors)
            try:
                yield listener.getsockname()[1]
            finally:
                process.terminate()
                process.wait(timeout=20)


@contextlib.contextmanager
def site_with_key(home: Path, model_id: str) -> Iterator[tuple[AuditLog, str]]:
    """A site in the empty directory `home`, for `gunicorn`. The value is its record and the key of a person who may
    chat."""
    init_state(home)
    write_release(home / "releases" / "0.0.1", model_id)
    (home / "current").symlink_to("releases/0.0.1")
    database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
    try:
        record = AuditLog(database)
        yield record, add_user_with_key(record)
    finally:
        database.close()


def add_user_with_key(record: AuditLog) -> str:
    """Add a person who may chat. The value is an API key of that person."""
    accounts = Accounts(AccountStore(record, passwords=FAST_PASSWORDS))
    user = accounts.create_user("ada", None, [Role.USER], by=SYSTEM)
    return ApiKeys(record.database, record).create(user, "test", by=SYSTEM)[1]
