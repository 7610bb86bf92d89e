"""A site under the real supervisor, with small programs in place of engine and web, for tests of the supervisor.

Run as a script it is the supervisor's process: ``python supervised.py HOME OPTIONS`` where OPTIONS is a JSON object of
argument lists to put in the place of the programs' own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unprivileged import give_to_user
from tests.waiting import Found, wait_for

HEAVY = ("numpy", "flask", "sqlalchemy", "onnxruntime", "cryptography", "gunicorn", "openai_harmony")

ENGINE = """
import os, socket
from appliance.engine.wire import decode, encode
from appliance.turns.engine import Status
bell = socket.socket(fileno=int(os.environ["APPLIANCE_DOORBELL_FD"]))
while True:
    byte, fds, _, _ = socket.recv_fds(bell, 1, 1)
    if not byte:
        break
    with socket.socket(fileno=fds[0]) as turn:
        decode(turn.makefile("rb").readline())
        turn.sendall(encode(Status("tiny", "0", "cpu", 1, 1, 0, 0, {"pid": os.getpid()})))
"""
WEB = """
import json, os, socket
from appliance.engine.client import EngineClient
from appliance.turns.engine import EngineUnavailableError
engine = EngineClient(socket.socket(fileno=int(os.environ["APPLIANCE_DOORBELL_FD"])))
def app(environ, start_response):
    try:
        socket.create_connection(("127.0.0.1", 9))
        way_out = "OPEN"
    except OSError as exc:
        way_out = type(exc).__name__
    try:
        status = engine.status().details
    except EngineUnavailableError as exc:
        status = {"pid": None}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"engine": status["pid"], "pid": os.getppid(), "way_out": way_out}).encode()]
"""
READER = """
import os, socket
socket.socket(fileno=int(os.environ["APPLIANCE_READER_FD"])).recv(1, socket.MSG_PEEK)
"""
RECORDER = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
out = open("state/audit/recorded", "a", buffering=1)  # where a recorder may write
for line in sys.stdin:
    out.write(line)
    os.write(int(os.environ["APPLIANCE_READY_FD"]), b"1")
out.write(json.dumps({"event": "ended", "at": time.time()}) + chr(10))
"""


@dataclasses.dataclass
class Site:
    """A running supervisor and what it printed."""

    home: Path
    process: subprocess.Popen[str]
    output: Path

    @property
    def url(self) -> str:
        return self.wait_for(r"Appliance ready at (https?://\S+)")

    def said(self) -> str:
        return self.output.read_text()

    def until(self, condition: Callable[[], Found]) -> Found:
        """What ``condition`` gives, as soon as that is something; the supervisor runs meanwhile."""
        return wait_for(condition, alive=lambda: self.process.poll() is None, said=self.said)

    def wait_for(self, pattern: str) -> str:
        """The first group of ``pattern`` (or all of it) as soon as it was printed."""
        found = self.until(lambda: re.search(pattern, self.said()))
        assert found is not None
        return str(found[found.re.groups and 1])

    def ask(self) -> dict[str, Any]:
        """The web's answer, as soon as it has one from an engine."""
        url = self.url

        def answered() -> dict[str, Any] | None:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                body: dict[str, Any] = json.load(answer)
                return body if body["engine"] is not None else None
            return None

        body = wait_for(answered, said=self.said)
        assert body is not None
        return body

    def recorded(self) -> list[dict[str, Any]]:
        """What was recorded, without a line that is being written."""
        whole, _, _ = (self.home / "state" / "audit" / "recorded").read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def descendants(self) -> set[int]:
        """Pids of everything that the supervisor started."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        found, new = set[int](), {self.process.pid}
        while new:
            new = {pid for pid, parent in parents.items() if parent in new}
            found |= new
        return found


@contextmanager
def supervised(
    home: Path, *, release: bool = True, launched: Sequence[str] = (sys.executable,), **options: str | float | list[str]
) -> Iterator[Site]:
    """Start the supervisor of the site ``home``, which is made if need be. It ends afterwards, with all that it
    started.

    Started by root, it leaves root for an unprivileged user, to whom ``state/`` is given.

    ``launched`` is the command that runs this file; ``options`` are as for `_main`.
    """
    if release:
        home.joinpath("current").mkdir(parents=True, exist_ok=True)
        home.joinpath("current", "release.json").write_text("{}")
        home.joinpath("current", "tinyweb.py").write_text(WEB)
    give_to_user(home)
    output = home / f"output-{len(list(home.glob('output-*')))}"
    command = [*launched, __file__, str(home), json.dumps(options)]
    with output.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, text=True)
    site = Site(home, process, output)
    started: set[int] = set()
    try:
        yield site
        started = site.descendants()
    finally:
        started |= site.descendants()
        process.kill()
        process.wait()
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command_line(pid: int) -> str:
    """The arguments of a process, each ended by NUL; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _main(home: Path, options: dict[str, Any]) -> None:
    """Options: ``packer``, ``engine``, ``reader``, ``recorder`` (code), ``web`` (module:app), ``port``, ``leave_out``
    (as of shut_the_door), ``still_s`` (as of the supervisor), ``signal_at_first_word`` (sent to itself),
    ``no_process_while`` (a path: while it is there, the kernel refuses to fork)."""
    import appliance.runtime.serve
    import appliance.runtime.supervisor
    from appliance.config import load_config
    from appliance.errors import ApplianceError
    from appliance.isolation import shut_the_door_for_programs
    from appliance.runtime.inherited import begin_afresh
    from appliance.runtime.processes import programs_of
    from appliance.runtime.serve import serve

    begin_afresh()  # as the launcher does, before settings are read
    leave_out = options.pop("leave_out", [])
    partial = functools.partial(shut_the_door_for_programs, leave_out=leave_out)
    appliance.runtime.serve.shut_the_door_for_programs = partial  # type: ignore[attr-defined]
    appliance.runtime.supervisor.STILL_S = options.pop("still_s", appliance.runtime.supervisor.STILL_S)
    first_word = options.pop("signal_at_first_word", 0)

    limit, fork = options.pop("no_process_while", ""), os.fork

    def fork_below_limit() -> int:
        if limit and os.path.exists(limit):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    os.fork = fork_below_limit

    def say(line: str) -> None:
        print(line, flush=True)
        if first_word:
            os.kill(os.getpid(), first_word)

    logging.basicConfig(format="%(message)s")
    config = dataclasses.replace(load_config(home), listen_port=options.pop("port", 0), web_threads=4)
    programs = programs_of(config, os.environ)
    python = sys.executable
    programs = dataclasses.replace(
        programs,
        packer=(python, "-c", options.pop("packer", "")),
        engine=(python, "-c", options.pop("engine", ENGINE)),
        web=(*programs.web[:-1], f"--pythonpath={config.release_dir}", options.pop("web", "tinyweb:app")),
        reader=(python, "-c", options.pop("reader", READER)),
        recorder=(python, "-c", options.pop("recorder", RECORDER)),
        first_admin=(python, "-c", "import sys; print('first admin of', sys.argv[1])"),
    )
    try:
        serve(config, programs, say=say)
    except ApplianceError as exc:
        sys.exit(f"Error: {exc}")
    print("heavy:", [name for name in HEAVY if name in sys.modules])


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]))
