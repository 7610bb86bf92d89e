"""Code inside a web worker misuses the output that programs print to: it tries to erase or forge the log, to reach the
terminal behind it, and to fill the disk. It also reaches for the memory of other processes. Tried with every layer and
with the filter alone.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.runtime.log_relay import Lines
from tests.appliance.supervised import ENGINE, RECORDER, Site, supervised
from tests.attacks.test_silence_watcher import watcher_of

_ESCAPES = b"\x1b]0;title\x07\x1b[2J\x9b6n\r\x08supervisor: all is well\n"
_WEB = """
import errno, json, os, stat
def outcome(attempt):
    try:
        attempt()
        return "OPEN"
    except OSError as exc:
        return errno.errorcode[exc.errno]
def app(environ, start_response):
    os.write(2, bytes.fromhex(environ["PATH_INFO"].strip("/") or "0a"))
    found = {"kinds": sorted({stat.S_IFMT(os.fstat(fd).st_mode) for fd in (1, 2)})}
    for fd in (1, 2):
        found[f"cut {fd}"] = outcome(lambda: os.ftruncate(fd, 0))
        found[f"write over {fd}"] = outcome(lambda: os.pwrite(fd, b"forged", 0))
        found[f"read {fd}"] = outcome(lambda: os.read(fd, 1))
        for way in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            found[f"open {fd} again, {way}"] = outcome(
                lambda: os.close(os.open(f"/proc/self/fd/{fd}", way | os.O_NONBLOCK)))
    found["tell of ended workers"] = outcome(lambda: os.fstat(int(os.environ["APPLIANCE_WORKERS_FD"])))
    for pid in filter(None, environ["QUERY_STRING"].split(",")):
        found[f"memory {pid}"] = outcome(lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)))
        found[f"descriptors {pid}"] = outcome(lambda: os.listdir(f"/proc/{pid}/fd"))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
"""
_SEALED = "import os\nfrom appliance.isolation.confinement import seal\nseal(os.environ)\n# {name} of the test\n"


def ask(site: Site, prints: bytes = b"\n", pids: str = "") -> dict[str, Any]:
    with urllib.request.urlopen(f"{site.url}/{prints.hex()}?{pids}", timeout=30) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.fixture(params=[[], ["namespace", "landlock"]], ids=["every layer", "filter alone"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("logged")
    (home / "current").mkdir()
    (home / "current" / "printing.py").write_text(_WEB)
    programs = {name: _SEALED.format(name=name) for name in ("engine", "recorder")}
    engine, recorder = programs["engine"] + ENGINE, programs["recorder"] + RECORDER
    with supervised(home, web="printing:app", engine=engine, recorder=recorder, leave_out=request.param) as running:
        assert running.url
        yield running


def test_a_program_holds_a_pipe_and_not_the_log(site: Site) -> None:
    before = site.said()
    found = ask(site, _ESCAPES)
    assert found["kinds"] == [0o010000]  # pipes
    refused = {name: found[name] for name in found if name != "kinds"}
    assert set(refused.values()) <= {"EINVAL", "ESPIPE", "EBADF", "EACCES"}, refused
    assert site.wait_for("all is well")
    assert site.said().startswith(before)
    assert "web: \\x1b]0;title\\x07\\x1b[2J\\x9b6n\\r\\x08supervisor: all is well\n" in site.said()


def test_no_memory_of_a_neighbour_and_nothing_it_has_open_is_reached(site: Site) -> None:
    pids = {"supervisor": site.process.pid, "watcher": watcher_of(site)}
    for pid in site.descendants():
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        pids |= {name: pid for name in ("engine", "recorder") if f"# {name} of the test".encode() in line}
    assert set(pids) == {"supervisor", "watcher", "engine", "recorder"}
    found = ask(site, pids=",".join(map(str, pids.values())))
    for name, pid in pids.items():
        assert {found[f"memory {pid}"], found[f"descriptors {pid}"]} <= {"EACCES", "EPERM"}, name


def test_when_the_relay_is_killed_another_takes_over(site: Site) -> None:
    (relay,) = (pid for pid in site.descendants() if Path(f"/proc/{pid}/comm").read_text() == "log relay\n")
    os.kill(relay, signal.SIGKILL)
    assert site.wait_for("another one takes over")
    ask(site, b"still heard\n")
    assert site.wait_for("web: still heard")


def test_one_kind_of_process_does_not_fill_the_disk() -> None:
    lines = Lines("web", now_s=0.0)
    flood = b"".join(lines.take(b"x" * 1000 + b"\n", now_s=0.0) for _ in range(5000))
    assert len(flood) < 1.1 * 2**20
    assert flood.endswith(b"web: it writes too much; what follows is left out\n")
    assert lines.take(b"again\n", now_s=3600.0).endswith(b" lines were left out\nweb: again\n")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_every_line_begins_with_who_wrote_it(newline: bytes) -> None:
    lines = Lines("web", now_s=0.0)
    assert lines.take(b"one" + newline + b"recorder: tw", now_s=0.0) == b"web: one\n"
    assert lines.take(b"o" + newline, now_s=0.0) == b"web: recorder: two\n"
    assert lines.take(b"\xff\xe2\x80\xae", now_s=0.0) == b""
    assert lines.take(b"", now_s=0.0) == b"web: \\xff\\u202e\n"


def test_a_line_without_an_end_is_no_way_to_take_memory() -> None:
    lines = Lines("web", now_s=0.0)
    taken = b"".join(lines.take(b"y" * 65536, now_s=0.0) for _ in range(4))
    assert len(taken) >= 4 * 65536
    assert max(map(len, taken.splitlines())) < 17000
