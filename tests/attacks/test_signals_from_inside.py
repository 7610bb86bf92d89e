"""Code inside a real web worker, engine and recorder, under the real supervisor, sends signals. An attacker who could
stop the watcher would act unseen; one who could stop recorder or supervisor would not be recorded.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from appliance.isolation.landlock import landlock_abi
from tests.appliance.supervised import ENGINE, RECORDER, Site, supervised
from tests.attacks.test_silence_watcher import watcher_of
from tests.conftest import require

_SIGNALS_ABI = 6
# Signal 0 asks whether a signal could be sent. The attacker knows no filter and no process id.
_TRY = """
import ctypes, errno, json, os
_libc = ctypes.CDLL(None, use_errno=True)
def outcome(*call):
    return "OPEN" if _libc.syscall(*call) == 0 else errno.errorcode[ctypes.get_errno()]
def try_all(pids):
    return {str(pid): [outcome(62, pid, 0), outcome(234, pid, pid, 0), outcome(200, pid, 0)] for pid in pids}
"""
_WEB = (
    _TRY
    + """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(try_all(map(int, environ["QUERY_STRING"].split(",")))).encode()]
"""
)
_OWN = """
import signal, threading
signal.signal(signal.SIGUSR1, lambda *_: print("{name} heard itself", flush=True))
signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
print("{name} tried:", json.dumps(try_all([os.getppid()])), flush=True)
"""


def asked(site: Site, pids: list[int]) -> dict[str, list[str]]:
    """The outcome of the web's kill, tgkill and tkill for each of these processes."""
    query = ",".join(map(str, pids))
    with urllib.request.urlopen(f"{site.url}/?{query}", timeout=30) as answer:  # noqa: S310
        found: dict[str, list[str]] = json.load(answer)
    return found


def programs(site: Site) -> dict[str, int]:
    """Pids of the supervisor, the watcher and the programs, by what their command lines hold."""
    found = {"supervisor": site.process.pid, "watcher": watcher_of(site)}
    for pid in site.descendants():
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        for name in ("engine", "recorder"):
            if f"{name} heard itself".encode() in line:
                found[name] = pid
    return found


@pytest.mark.skipif("platform.machine() != 'x86_64'", reason="the attacker's code is written for x86-64")
@pytest.mark.parametrize("leave_out", [[], ["namespace", "landlock"]], ids=["every layer", "filter alone"])
def test_no_program_signals_who_watches_over_it(tmp_path_factory: pytest.TempPathFactory, leave_out: list[str]) -> None:
    require(bool(leave_out) or landlock_abi() >= _SIGNALS_ABI, "Landlock, ABI 6")
    home = tmp_path_factory.mktemp("signalled")
    (home / "current").mkdir()
    (home / "current" / "signalling.py").write_text(_WEB)
    engine = _TRY + _OWN.format(name="engine") + ENGINE
    recorder = _TRY + _OWN.format(name="recorder") + RECORDER
    with supervised(home, web="signalling:app", engine=engine, recorder=recorder, leave_out=leave_out) as site:
        assert site.url
        named = programs(site)
        assert set(named) == {"supervisor", "watcher", "engine", "recorder"}
        found = asked(site, sorted(named.values()))
        # Without Landlock a filter cannot tell gunicorn's own workers from programs that start later.
        out_of_reach = set(named) if not leave_out else {"supervisor", "watcher"}
        assert {name: found[str(named[name])] for name in out_of_reach} == dict.fromkeys(out_of_reach, ["EPERM"] * 3)
        for name in ("engine", "recorder"):
            tried = json.loads(site.wait_for(f"{name} tried: (.*)"))
            assert tried == {str(site.process.pid): ["EPERM"] * 3}
            assert f"{name} heard itself" in site.said()
