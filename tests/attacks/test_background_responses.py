"""Responses in the background against two real web workers, with the official client: killed workers, cancels and reads
from either, lost connections, a revoked key, a server that ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai.types.responses import Response

from appliance.people.accounts import Role
from appliance.turns.interrupted import INTERRUPTED
from tests.attacks.locks import who_locks
from tests.fakes import FakeEngine, Gate
from tests.waiting import HELD_S, wait_for
from tests.webui.conftest import SYSTEM, MakeSite, Site
from tests.webui.served import gunicorn, write_release

MODEL = "gpt-oss-fake"
TRIES = 5  # each on a connection of its own, so that both workers get some


@pytest.fixture
def site(make_site: MakeSite, gate: Gate) -> Site:
    made = make_site(FakeEngine(gate.script))
    write_release(made.services.config.home / "current", MODEL)
    return made


@pytest.fixture
def key(site: Site) -> str:
    return site.add_key(site.add_user("ada", Role.USER))


@pytest.fixture
def port(site: Site) -> Iterator[int]:
    with gunicorn(site.services.config.home, site.engine.doorbell, workers=2) as port:
        yield port


def client(port: int, key: str) -> openai.OpenAI:
    """A client that opens a connection for each request, which any worker may take."""
    return openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=HELD_S,
        default_headers={"Connection": "close"},
    )  # fmt: skip


@pytest.fixture
def ada(port: int, key: str) -> Iterator[openai.OpenAI]:
    with client(port, key) as made:
        yield made


def begin(ada: openai.OpenAI) -> str:
    """Begin a response and return its id, once the engine has said something."""
    begun = ada.responses.create(model=MODEL, input="Hello", background=True)
    assert begun.status == "queued"
    wait_for(lambda: ada.responses.retrieve(begun.id).status == "in_progress")
    return begun.id


def owner_of(site: Site, response_id: str) -> int:
    """The worker that holds the lock of a turn's file."""
    (path,) = (site.services.config.home / "state" / "tmp" / "web" / "turns").glob(f"*.{response_id}")
    (owner,) = who_locks([path])
    return owner


def begin_in_both(site: Site, ada: openai.OpenAI) -> dict[int, str]:
    """Responses, each in another worker."""
    begun: dict[int, str] = {}
    for _ in range(40):
        response_id = begin(ada)
        owner = owner_of(site, response_id)
        if owner in begun:
            ada.responses.cancel(response_id)
        begun.setdefault(owner, response_id)
        if len(begun) == 2:
            return begun
    raise AssertionError("one worker takes every request")


def outcomes(site: Site) -> list[str]:
    return [event.header.outcome for event in site.events() if event.header.action == "answer"]


def test_any_worker_reads_follows_and_cancels_those_of_another(site: Site, ada: openai.OpenAI) -> None:
    for response_id in begin_in_both(site, ada).values():
        assert {ada.responses.retrieve(response_id).status for _ in range(TRIES)} == {"in_progress"}
        with ada.responses.retrieve(response_id, stream=True) as stream:
            texts = (event.delta for event in stream if event.type == "response.output_text.delta")
            assert next(texts) == "Half "
        with ThreadPoolExecutor(TRIES) as pool:
            ends = list(pool.map(lambda _, one=response_id: ada.responses.cancel(one), range(TRIES)))
        assert {(end.status, end.output_text) for end in ends} == {("cancelled", "Half ")}
        assert {ada.responses.retrieve(response_id).status for _ in range(TRIES)} == {"cancelled"}


def test_a_killed_worker_loses_its_own_and_no_others(site: Site, ada: openai.OpenAI, gate: Gate) -> None:
    begun = begin_in_both(site, ada)
    (killed, lost), (_, other) = begun.items()
    before = outcomes(site).count("interrupted")
    os.kill(killed, signal.SIGKILL)
    ended = end_of(ada, lost)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.message == INTERRUPTED
    assert {ada.responses.retrieve(lost).status for _ in range(TRIES)} == {"failed"}
    assert ada.responses.cancel(lost).status == "failed"
    assert outcomes(site).count("interrupted") == before + 1  # once, whoever found it
    gate.go_on.set()
    assert end_of(ada, other).output_text == "Half and all of it"


def end_of(ada: openai.OpenAI, response_id: str) -> Response:
    """The response, once it has ended."""
    found = wait_for(lambda: _end_of(ada, response_id))
    assert found is not None
    return found


def _end_of(ada: openai.OpenAI, response_id: str) -> Response | None:
    try:
        found = ada.responses.retrieve(response_id)
    except openai.APIConnectionError:  # the killed worker had taken this request
        return None
    return found if found.status not in ("queued", "in_progress") else None


def test_a_client_that_lost_its_stream_goes_on_with_it_in_any_worker(ada: openai.OpenAI, gate: Gate) -> None:
    with ada.responses.create(model=MODEL, input="Hello", background=True, stream=True) as stream:
        first = next(stream)
        assert first.type == "response.created"
        response_id = first.response.id
        seen = next(event for event in stream if event.type == "response.output_text.delta")
    gate.go_on.set()
    end_of(ada, response_id)
    for _ in range(TRIES):
        with ada.responses.retrieve(response_id, stream=True, starting_after=seen.sequence_number) as rest:
            events = list(rest)
        assert events[0].type == "response.output_text.delta"
        assert (events[0].delta, events[0].sequence_number) == ("and all of it", seen.sequence_number + 1)
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == "Half and all of it"


def test_a_key_that_is_revoked_in_the_middle_ends_them_in_both(site: Site, ada: openai.OpenAI, port: int) -> None:
    begun = begin_in_both(site, ada)
    services = site.services
    access = services.api_keys.authenticate(ada.api_key)
    another = site.add_key(access.user)
    services.api_keys.revoke(access.user.id, access.key.id, by=SYSTEM)
    with pytest.raises(openai.AuthenticationError):
        ada.responses.retrieve(next(iter(begun.values())))
    with client(port, another) as reader:
        for response_id in begun.values():
            ended = end_of(reader, response_id)
            assert ended.status == "failed"
            assert ended.error is not None
            assert "revoked" in ended.error.message
            assert ended.output_text == "Half "


def test_a_server_that_ends_ends_them_and_says_so(site: Site, key: str) -> None:
    with (
        gunicorn(site.services.config.home, site.engine.doorbell, workers=2) as port,
        client(port, key) as ada,
    ):
        begun = list(begin_in_both(site, ada).values())
    with gunicorn(site.services.config.home, site.engine.doorbell) as port, client(port, key) as ada:
        for response_id in begun:
            ended = ada.responses.retrieve(response_id)
            assert (ended.status, ended.output_text) == ("failed", "Half ")
            assert ended.error is not None
            assert "stopped while this was being answered" in ended.error.message
    assert set(outcomes(site)) == {"cancelled"}
