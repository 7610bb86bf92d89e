"""Two web workers (`[web] workers = 2`): what one counts, locks or takes away holds in the other."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from urllib.parse import urlencode

import pytest

from appliance.people.accounts import Role, User
from appliance.people.key_rights import KeyRights
from tests.attacks.locks import who_locks
from tests.fakes import FakeEngine, Gate
from tests.waiting import HELD_S
from tests.webui.conftest import SYSTEM, MakeSite, Site
from tests.webui.served import gunicorn, write_release

BODY = json.dumps({"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
STREAMS = 6


@pytest.fixture
def site(make_site: MakeSite, gate: Gate) -> Site:
    made = make_site(FakeEngine(gate.script))
    write_release(made.services.config.home / "current", "gpt-oss-fake")
    return made


@pytest.fixture
def port(site: Site) -> Iterator[int]:
    with gunicorn(site.services.config.home, site.engine.doorbell, workers=2) as port:
        yield port


@pytest.fixture
def ada(site: Site) -> User:
    return site.add_user("ada", Role.USER)


def begin_stream(port: int, key: str, open_ones: ExitStack) -> HTTPResponse:
    connection = open_ones.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=HELD_S)))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", BODY, headers)
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    return response


@pytest.fixture
def open_ones() -> Iterator[ExitStack]:
    """Closes the streams that a test began."""
    with ExitStack() as stack:
        yield stack


def workers_that_serve(site: Site) -> set[int]:
    """The processes that run turns. Each holds a lock on a file of its own."""
    home = site.services.config.home
    return who_locks(path for path in home.rglob("*") if path.is_file()) - {os.getpid()}


def begin_in_both(site: Site, port: int, key: str, open_ones: ExitStack) -> list[HTTPResponse]:
    """Begin streams until both workers have some."""
    streams = [begin_stream(port, key, open_ones) for _ in range(STREAMS)]
    while len(workers_that_serve(site)) < 2:
        assert len(streams) < 300, "one worker takes every connection"
        streams.append(begin_stream(port, key, open_ones))
    return streams


def test_streams_of_both_end_with_the_access(site: Site, port: int, ada: User, open_ones: ExitStack) -> None:
    streams = begin_in_both(site, port, site.add_key(ada), open_ones)
    site.services.accounts.disable(ada.id, by=SYSTEM)
    for stream in streams:
        rest = stream.read().decode()
        assert "The account was disabled. The answer was cancelled." in rest
        assert "[DONE]" not in rest


def test_a_killed_worker_takes_its_own_streams_and_no_others(
    site: Site, port: int, ada: User, open_ones: ExitStack
) -> None:
    key = site.add_key(ada)
    streams = begin_in_both(site, port, key, open_ones)
    killed, _ = sorted(workers_that_serve(site))
    os.kill(killed, signal.SIGKILL)
    begin_stream(port, key, open_ones)  # somebody else's stream, meanwhile
    site.services.accounts.disable(ada.id, by=SYSTEM)
    ended = [_end_of(stream) for stream in streams]
    assert "cut off" in ended
    assert "The account was disabled. The answer was cancelled." in "".join(ended)


def _end_of(stream: HTTPResponse) -> str:
    try:
        return stream.read().decode()
    except (OSError, IncompleteRead):
        return "cut off"


def guess(port: int, number: int) -> int:
    """Try one wrong password on a new connection. Returns the status of the page that says so."""
    connection = HTTPConnection("127.0.0.1", port, timeout=HELD_S)
    connection.request("GET", "/sign-in")
    response = connection.getresponse()
    found = re.search(r'name="csrf_token" value="([^"]+)"', response.read().decode())
    assert found is not None
    cookie = (response.getheader("Set-Cookie") or "").partition(";")[0]
    form = urlencode({"csrf_token": found[1], "name": "ada", "password": f"a wrong guess {number}"})
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded", "Connection": "close"}
    connection.request("POST", "/sign-in", form, headers)
    sent = connection.getresponse()
    refused = (sent.getheader("Set-Cookie") or "").partition(";")[0]
    sent.close()
    connection.request("GET", sent.getheader("Location") or "", headers={"Cookie": f"{cookie}; {refused}"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_guesses_are_counted_together(port: int, ada: User) -> None:
    assert [guess(port, number) for number in range(7)] == [401] * 5 + [429] * 2


def test_requests_of_a_key_are_counted_together_and_never_too_many(site: Site, port: int, ada: User) -> None:
    limit, every_s = 6, 10
    key = site.add_key(ada, KeyRights(requests_per_minute=limit))
    began_s = time.monotonic()

    def ask(_: int) -> int:
        with closing(HTTPConnection("127.0.0.1", port, timeout=HELD_S)) as connection:
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
            return connection.getresponse().status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(ask, range(40)))
    come_back = int((time.monotonic() - began_s) // every_s) + 1  # a slow machine gives some of them back meanwhile
    assert set(statuses) == {200, 429}
    assert limit <= statuses.count(200) <= limit + come_back
