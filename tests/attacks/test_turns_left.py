"""People who ask and leave, and workers that die in mid-answer: with two real web workers."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from appliance.people.accounts import Role
from appliance.turns.interrupted import INTERRUPTED
from tests.attacks.locks import who_locks
from tests.fakes import FakeEngine, Gate
from tests.waiting import HELD_S, wait_for
from tests.webui.conftest import MakeSite, Site
from tests.webui.served import gunicorn, write_release

MOST = 3


class Person:
    """Somebody signed in, without a browser. Each request has a connection of its own, which any worker may take."""

    def __init__(self, site: Site, port: int, name: str) -> None:
        self.site, self._port = site, port
        self.user = site.add_user(name, Role.USER)
        token = site.services.sessions.create(self.user, address="127.0.0.1")
        self._headers = {"Cookie": f"session={token}", "Accept": "application/json", "Connection": "close"}
        page = self.send("GET", "/account", accept="text/html").read().decode()
        found = re.search(r'<meta name="csrf-token" content="([0-9a-f]{64})">', page)
        assert found is not None, page
        self._headers |= {"X-CSRF-Token": found[1], "Origin": f"http://127.0.0.1:{port}"}

    def send(self, method: str, path: str, body: object = None, *, accept: str = "application/json") -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=HELD_S)
        raw = None if body is None else json.dumps(body)
        headers = {**self._headers, "Accept": accept, "Content-Type": "application/json"}
        connection.request(method, path, raw, headers)
        return connection.getresponse()

    def begin(self) -> tuple[str, HTTPResponse]:
        """Begin a turn in a new conversation. Returns the conversation and the stream."""
        conversation = json.load(self.send("POST", "/chat", {"text": "Hello"}))["id"]
        return conversation, self.send("POST", f"/chat/{conversation}/turns", {"text": "Hello", "effort": "low"})

    def follow(self, conversation: str, after: int = 0) -> HTTPResponse:
        return self.send("GET", f"/chat/{conversation}/turns/current?after={after}")

    def last(self, conversation: str) -> Any:
        return self.site.services.conversations.messages(self.user.id, conversation)[-1]


def lines_of(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.strip():
            yield json.loads(line)


def read_half(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    assert response.status == 200, response.read()
    lines = lines_of(response)
    for line in lines:
        if line["type"] == "answer":
            return lines
    raise AssertionError("no words came")


@pytest.fixture
def site(make_site: MakeSite, gate: Gate) -> Site:
    made = make_site(FakeEngine(gate.script))
    home = made.services.config.home
    write_release(home / "current", "gpt-oss-fake")
    settings = home / "state" / "config" / "appliance.toml"
    settings.write_text(f"[engine]\nqueue_limit_per_user = {MOST}\n")
    return made


@pytest.fixture
def port(site: Site) -> Iterator[int]:
    with gunicorn(site.services.config.home, site.engine.doorbell, workers=2) as port:
        yield port


def owner_of(site: Site, conversation: str) -> int:
    """The worker that holds the lock of a conversation's turn."""
    (path,) = (site.services.config.home / "state" / "tmp" / "web" / "turns").glob(f"*.{conversation}")
    (owner,) = who_locks([path])
    return owner


def test_asking_and_leaving_takes_no_place_from_others(site: Site, port: int, gate: Gate) -> None:
    mallory, ada = Person(site, port, "mallory"), Person(site, port, "ada")
    statuses = []
    for _ in range(4 * MOST):
        _, response = mallory.begin()
        statuses.append(response.status)
        if response.status == 200:
            read_half(response)
        response.close()
    assert statuses == [200] * MOST + [429] * 3 * MOST  # in both workers together
    own = [ada.begin() for _ in range(MOST)]
    rest = [read_half(response) for _, response in own]
    gate.go_on.set()
    for lines in rest:
        assert list(lines)[-1]["complete"] is True
    assert len(site.engine.requests) == 2 * MOST


def test_any_worker_reads_along_and_stops_the_turn_of_another(site: Site, port: int) -> None:
    ada = Person(site, port, "ada")
    conversation, response = ada.begin()
    own = read_half(response)
    others = [read_half(ada.follow(conversation)) for _ in range(8)]  # some of them reach the other worker
    assert ada.send("DELETE", f"/chat/{conversation}/turns/current").status == 204
    ends = [list(lines)[-1] for lines in (own, *others)]
    assert all("Stopped before the end" in end["html"] for end in ends)
    assert site.events()[-1].header.outcome == "cancelled"


def test_a_worker_that_is_killed_in_mid_answer_is_said_at_once_and_closed_in_the_record(site: Site, port: int) -> None:
    ada, bob = Person(site, port, "ada"), Person(site, port, "bob")
    conversation, response = ada.begin()
    read_half(response)
    killed = owner_of(site, conversation)
    followers = [read_half(ada.follow(conversation)) for _ in range(8)]
    os.kill(killed, signal.SIGKILL)
    ends = []
    for lines in followers:
        try:
            ends += [line for line in lines if line["type"] == "end"]
        except OSError:  # this one was read from the killed worker
            continue
    for end in ends:
        assert INTERRUPTED in end["html"]
        assert end["complete"] is False
    wait_for(lambda: ada.last(conversation).role == "assistant")  # whoever finds it first closes it, without a recorder
    assert ada.last(conversation).facts.values()["problem"] == INTERRUPTED
    answers = [event for event in site.events() if event.header.action == "answer"]
    assert [event.header.outcome for event in answers] == ["interrupted"]
    assert ada.last(conversation).facts.values()["turn"] == answers[0].header.subject
    again = ada.send("POST", f"/chat/{conversation}/turns", {"regenerate": True, "effort": "low"})
    with closing(again):
        read_half(again)
    _, other = bob.begin()
    read_half(other)


def test_a_stop_of_the_server_records_every_answer(site: Site, gate: Gate) -> None:
    with gunicorn(site.services.config.home, site.engine.doorbell, workers=2) as port:
        people = [Person(site, port, name) for name in ("ada", "bob", "eve")]
        begun = [(person, *person.begin()) for person in people for _ in range(MOST)]
        for _, _, response in begun:
            read_half(response)
        for _, _, response in begun[::2]:  # some are read to the end, the others are left
            response.close()
    answers = [event for event in site.events() if event.header.action == "answer"]
    assert [event.header.outcome for event in answers] == ["cancelled"] * len(begun)
    for person, conversation, _ in begun:
        kept = person.last(conversation)
        assert (kept.content, kept.facts.values()["failure"]) == ("Half ", "closing")
    assert list((site.services.config.home / "state" / "tmp" / "web" / "turns").iterdir()) == []
