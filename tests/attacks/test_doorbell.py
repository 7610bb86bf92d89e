"""Code inside a web worker shuts what web and engine share: without a new doorbell, nobody would get an answer until a
restart.
"""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from tests.appliance.supervised import WEB, Site, supervised

INTRUDER = (
    WEB.replace("def app(", "def ask(")
    + """
def app(environ, start_response):
    how = {"/write": socket.SHUT_WR, "/both": socket.SHUT_RDWR}.get(environ["PATH_INFO"])
    if how is None:
        return ask(environ, start_response)
    shut = []
    for fd in (3, int(os.environ["APPLIANCE_DOORBELL_FD"])):
        try:
            socket.socket(fileno=os.dup(fd)).shutdown(how)
            shut.append(fd)
        except OSError:
            pass
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shut).encode()]
"""
)


def shut(site: Site, way: str) -> str:
    with urllib.request.urlopen(f"{site.url}/{way}", timeout=20) as answer:  # noqa: S310
        return str(answer.read().decode())


@pytest.fixture
def intruder(tmp_path: Path) -> str:
    tmp_path.joinpath("current").mkdir()
    tmp_path.joinpath("current", "intruder.py").write_text(INTRUDER)
    return "intruder:app"


def test_a_doorbell_that_was_shut_is_replaced(tmp_path: Path, intruder: str) -> None:
    with supervised(tmp_path, web=intruder) as site:
        before = site.ask()
        assert shut(site, "write") != "[]"  # only the doorbell: a listener cannot be shut for writing
        site.until(lambda: all(site.ask()[name] != before[name] for name in ("engine", "pid")))
        assert "the doorbell was shut" in site.said()
        engine = site.ask()["engine"]
        assert site.ask()["engine"] == engine  # and the new one stays


def test_neither_listener_nor_doorbell_is_shut_for_reading(tmp_path: Path, intruder: str) -> None:
    with supervised(tmp_path, web=intruder) as site:
        before = site.ask()
        assert shut(site, "both") == "[]"
        assert site.ask() == before
