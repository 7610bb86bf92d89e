"""Responses in the background over the application: begun, read, followed, cancelled and deleted, in either of two
workers."""

from __future__ import annotations

import threading
from copy import deepcopy
from typing import Any

import pytest

from appliance.database.tables import api_keys
from appliance.people.key_rights import KeyRights, Scope
from appliance.turns.events import AnswerDelta, Failed, Queued, ReasoningDelta, Started, Waiting
from appliance.turns.run import Turn
from tests.fakes import HALF, Gate, done
from tests.waiting import HELD_S, wait_for
from tests.webui.conftest import SYSTEM, MakeSite, Site
from tests.webui.in_background import (
    RUNNING,
    Program,
    as_elsewhere,
    read_events,
    site_that_waits,
    until_text,
)
from tests.webui.test_responses import CALL, LIKELY, assembled, events_of, play
from tests.webui.test_responses_kept import RESULT, code_of


@pytest.fixture
def waiting(make_site: MakeSite, gate: Gate) -> Site:
    return site_that_waits(make_site, gate)


@pytest.fixture
def ada(waiting: Site) -> Program:
    return Program(waiting)


def outcomes(site: Site) -> list[str]:
    return [event.header.outcome for event in site.events() if event.header.action == "answer"]


def test_it_is_answered_at_once_and_read_when_it_has_ended(ada: Program, gate: Gate) -> None:
    response_id = ada.begin(metadata={"a": "b"})
    running = ada.read(response_id)
    assert (running["status"], running["output"], running["usage"]) == ("in_progress", [], None)
    gate.go_on.set()
    ended = ada.end_of(response_id)
    assert (ended["status"], ended["background"], ended["metadata"]) == ("completed", True, {"a": "b"})
    assert ended["output"][0]["content"][0]["text"] == "Half and all of it"
    assert ended["usage"]["total_tokens"] == 27
    assert ended["completed_at"] >= ended["created_at"] == running["created_at"]
    assert outcomes(ada.site) == ["ok"]


def test_it_is_queued_until_the_engine_begins(make_site: MakeSite) -> None:
    gate = Gate(first=(Waiting(Queued(1, None)),), rest=lambda _: (*HALF, done()))
    ada = Program(site_that_waits(make_site, gate))
    response_id = ada.whole(background=True)["id"]
    directory = ada.site.services.config.home / "state" / "tmp" / "web"
    wait_for(lambda: any(b"Queued" in path.read_bytes() for path in directory.rglob("*") if path.is_file()))
    assert ada.read(response_id)["status"] == "queued"
    assert ada.site.engine.requests
    gate.go_on.set()
    assert ada.end_of(response_id)["status"] == "completed"


def test_the_record_has_it_like_any_turn(ada: Program, gate: Gate) -> None:
    response_id = ada.begin(input="Hello")
    gate.go_on.set()
    ada.end_of(response_id)
    prompt, answer = [event for event in ada.site.events() if event.header.subject == response_id]
    assert (prompt.header.action, prompt.header.actor.via, prompt.header.actor.name) == ("prompt", "api", "ada")
    assert (answer.header.action, answer.header.outcome) == ("answer", "ok")
    assert prompt.content is not None
    assert answer.content is not None
    assert (prompt.content.text, answer.content.text) == ("Hello", "Half and all of it")


@pytest.mark.parametrize(
    ("end", "status"), [(done(finish_reason="length"), "incomplete"), (Failed("engine_failed", "No."), "failed")]
)
def test_it_says_how_it_ended(site: Site, end: Any, status: str) -> None:
    ada = Program(site)
    play(site, *HALF, end)
    ended = ada.end_of(ada.begin())
    assert ended["status"] == status
    assert [item["status"] for item in ended["output"]] == ["incomplete"]
    assert ended["output"][0]["content"][0]["text"] == "Half "
    assert (ended["error"] or {}).get("message") == ("No." if status == "failed" else None)


def test_another_worker_reads_follows_and_cancels_it(ada: Program) -> None:
    response_id, other = ada.begin(), as_elsewhere(ada)
    assert other.read(response_id)["status"] == "in_progress"
    seen = until_text(other.follow(response_id))
    assert seen[-1]["delta"] == "Half "
    cancelled = other.cancel(response_id)
    assert (cancelled["status"], cancelled["error"], cancelled["usage"]) == ("cancelled", None, None)
    assert ada.read(response_id) == cancelled
    assert outcomes(ada.site) == ["cancelled"]


def test_a_cancelled_response_keeps_what_came(ada: Program) -> None:
    response_id = ada.begin()
    [item] = ada.cancel(response_id)["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Half ")
    answer = ada.site.events()[-1]
    assert answer.content is not None
    assert answer.content.text == "Half "


def test_it_is_cancelled_twice_and_many_times_at_once(ada: Program) -> None:
    response_id = ada.begin()
    programs = [ada if number % 2 else as_elsewhere(ada) for number in range(6)]
    ends: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda one=one: ends.append(one.cancel(response_id))) for one in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HELD_S)
    assert ends == [ada.cancel(response_id)] * 6
    assert ends[0]["status"] == "cancelled"
    assert outcomes(ada.site) == ["cancelled"]


def test_one_that_has_ended_is_given_as_it_ended(ada: Program, gate: Gate) -> None:
    response_id = ada.begin()
    gate.go_on.set()
    ended = ada.end_of(response_id)
    assert ada.cancel(response_id) == ended
    assert ended["status"] == "completed"


def test_a_cancel_and_the_end_at_the_same_moment_agree(make_site: MakeSite) -> None:
    """Whichever comes first, everybody reads the same end, and the record has the same."""
    gates: dict[str, Gate] = {}

    def script(request: Any) -> Any:
        return gates.setdefault(request.id, Gate()).script(request)

    ada = Program(make_site())
    ada.site.engine.script = script
    for _ in range(5):
        response_id = ada.begin()
        letting_go = threading.Thread(target=gates[response_id].go_on.set)
        letting_go.start()
        told = as_elsewhere(ada).cancel(response_id)
        letting_go.join(HELD_S)
        assert told == ada.read(response_id) == ada.cancel(response_id)
        assert (told["status"], outcomes(ada.site)[-1]) in (("completed", "ok"), ("cancelled", "cancelled"))
        whole = "Half and all of it" if told["status"] == "completed" else "Half "
        assert told["output"][0]["content"][0]["text"].startswith("Half ")
        assert whole.startswith(told["output"][0]["content"][0]["text"])


def test_what_is_not_in_the_background_is_neither_cancelled_nor_followed(site: Site) -> None:
    ada = Program(site)
    response_id = ada.whole()["id"]
    assert code_of(ada.call("POST", f"{response_id}/cancel")) == (400, "not_in_background")
    assert code_of(ada.call("GET", f"{response_id}?stream=true")) == (400, "not_in_background")


def test_nobody_else_reads_follows_cancels_or_deletes_it(ada: Program) -> None:
    response_id, bob = ada.begin(), Program(ada.site, "bob")
    never = "resp_" + "0" * 32
    paths = (("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/input_items"))
    for method, path in paths:
        theirs, none = (bob.call(method, f"{name}{path}") for name in (response_id, never))
        assert theirs.status_code == 404
        assert theirs.data == none.data
    assert ada.read(response_id)["status"] == "in_progress"


@pytest.mark.parametrize("name", ["..%2F..%2Fdatabase", "resp_%00", "*.*", "a" * 300, "ended"])
def test_an_id_that_is_the_name_of_nothing_opens_no_file(ada: Program, name: str) -> None:
    for method, path in (("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", "")):
        assert ada.call(method, f"{name}{path}").status_code == 404


def test_a_stream_is_taken_up_after_any_event(ada: Program, gate: Gate) -> None:
    seen = until_text(ada.ask(background=True, stream=True))  # and the program leaves
    kinds = ["created", "queued", "in_progress", "output_item.added", "content_part.added", "output_text.delta"]
    assert [event["type"].removeprefix("response.") for event in seen] == kinds
    response_id = seen[0]["response"]["id"]
    assert [event["response"]["status"] for event in seen[:3]] == ["queued", "queued", "in_progress"]
    gate.go_on.set()
    ended = ada.end_of(response_id)
    whole = events_of(ada.follow(response_id))
    assert whole[: len(seen)] == seen
    assert whole[-1]["response"] == ended
    assert assembled(deepcopy([event for event in whole if event["type"] != "response.queued"])) == ended["output"]
    for after in (-1, 0, 4, 5, len(whole) - 2, len(whole) - 1, len(whole) + 7):
        for program in (ada, as_elsewhere(ada)):
            assert list(read_events(program.follow(response_id, after))) == whole[after + 1 :]


def test_readers_along_get_the_same_events(ada: Program, gate: Gate) -> None:
    response_id = ada.begin()
    streams = [one.follow(response_id) for one in (ada, ada, as_elsewhere(ada))]
    gate.go_on.set()
    first, *others = [events_of(stream) for stream in streams]
    assert others == [first, first]
    assert first[-1]["type"] == "response.completed"


def test_a_stream_in_the_background_says_what_one_in_the_foreground_says(site: Site) -> None:
    ada = Program(site)
    play(site, *CALL)
    foreground = events_of(ada.ask(stream=True))
    background = events_of(ada.ask(stream=True, background=True))
    assert background[1]["type"] == "response.queued"
    del background[1]
    assert [_told(event) for event in background] == [_told(event) for event in foreground]


def _told(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what differs between two responses."""
    items = [event.get("item", {}), *event.get("response", {}).get("output", ())]
    said = [{key: value for key, value in item.items() if key != "id"} for item in items]
    return {key: event.get(key) for key in ("type", "delta", "text", "arguments", "part")} | {"items": said}


def test_a_stream_has_the_log_probabilities_and_the_sealed_reasoning_that_were_asked_for(site: Site) -> None:
    ada = Program(site)
    play(site, *LIKELY)
    asked = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    events = events_of(ada.ask(stream=True, background=True, top_logprobs=1, include=asked))
    again = events_of(ada.follow(events[0]["response"]["id"]))
    assert again == events
    texts = [event for event in events if event["type"] == "response.output_text.delta"]
    assert texts
    assert all(event["logprobs"] for event in texts)


def test_the_end_of_a_cancelled_stream_says_that_it_was_cancelled(ada: Program) -> None:
    response_id = ada.begin()
    stream = ada.follow(response_id)
    cancelled = as_elsewhere(ada).cancel(response_id)
    last = events_of(stream)[-1]
    assert (last["type"], last["response"]) == ("response.failed", cancelled)


def test_a_stream_whose_file_is_gone_has_each_item_in_one_piece(ada: Program, gate: Gate) -> None:
    gate.go_on.set()
    ada.site.engine.script = lambda _: CALL
    response_id = ada.begin()
    ended = ada.end_of(response_id)
    ada.site.services.turns.ended_turns.remove(ada.site.services.accounts.find("ada").id, response_id)
    events = events_of(ada.follow(response_id))
    assert assembled([event for event in events if event["type"] != "response.queued"]) == ended["output"]
    [last] = read_events(ada.follow(response_id, 40))
    assert (last["sequence_number"], last["type"], last["response"]) == (41, "response.completed", ended)


@pytest.mark.parametrize("query", ["stream=maybe", "stream=true&starting_after=-2", "starting_after=x"])
def test_what_cannot_be_followed_is_refused(ada: Program, query: str) -> None:
    response_id = ada.begin()
    assert code_of(ada.call("GET", f"{response_id}?{query}")) == (400, "invalid_value")


def test_a_conversation_goes_on_from_it_when_it_has_ended(ada: Program, gate: Gate) -> None:
    response_id = ada.begin(input="One")
    refused = ada.ask(input="Two", previous_response_id=response_id)
    assert code_of(refused) == (400, "previous_response_running")
    assert "wait until it has ended" in refused.text
    gate.go_on.set()
    ada.end_of(response_id)
    ada.whole(input="Two", previous_response_id=response_id)
    assert [message.content for message in ada.sent().messages] == ["One", "Half and all of it", "Two"]


def test_one_in_the_background_goes_on_from_another(site: Site) -> None:
    ada = Program(site)
    play(site, *CALL)
    first = ada.end_of(ada.begin())
    ada.end_of(ada.begin(previous_response_id=first["id"], input=[RESULT]))
    assert [message.role for message in ada.sent().messages] == ["user", "assistant", "tool"]


def test_it_is_deleted_while_it_is_written(ada: Program) -> None:
    response_id = ada.begin()
    stream = ada.follow(response_id)
    assert as_elsewhere(ada).call("DELETE", response_id).status_code == 200
    assert code_of(ada.call("GET", response_id)) == (404, "response_not_found")
    assert [event.header.action for event in ada.site.events()[-2:]] == ["answer", "response_deleted"]
    assert outcomes(ada.site) == ["cancelled"]
    assert list(read_events(stream))[-1]["error"]["code"] == "response_not_found"
    turns = ada.site.services.config.home / "state" / "tmp" / "web" / "turns"
    assert [path for path in turns.rglob("*") if path.is_file()] == []


def test_a_person_has_no_more_of_them_than_turns(make_site: MakeSite, gate: Gate) -> None:
    ada = Program(site_that_waits(make_site, gate, queue_limit_per_user=2))
    begun = [ada.begin(), as_elsewhere(ada).begin()]
    assert code_of(ada.ask(background=True)) == (429, "too_many_waiting")
    assert code_of(ada.ask(background=True, stream=True)) == (429, "too_many_waiting")
    Program(ada.site, "bob").begin()
    ada.cancel(begun[0])
    ada.begin()


def test_a_person_follows_no_more_streams_than_pages(ada: Program) -> None:
    response_id = ada.begin()
    streams = [ada.follow(response_id) for _ in range(12)]
    assert code_of(ada.call("GET", f"{response_id}?stream=true")) == (429, "too_many_readers")
    assert code_of(ada.ask(background=True, stream=True)) == (429, "too_many_readers")
    assert len(ada.site.engine.requests) == 1  # what cannot be followed is not begun
    for stream in streams:
        stream.close()
    ada.follow(response_id).close()


@pytest.mark.parametrize("ended_by", ["key", "its end", "scope", "account"])
def test_it_ends_with_the_access_that_began_it(ada: Program, ended_by: str) -> None:
    response_id = ada.begin()
    services = ada.site.services
    user = services.accounts.find("ada")
    reader = Program.__new__(Program)
    reader.site, reader.client = ada.site, ada.client
    reader.headers = {"Authorization": f"Bearer {ada.site.add_key(user)}"}
    stream = ada.follow(response_id)
    access = services.api_keys.authenticate(ada.headers["Authorization"].removeprefix("Bearer "))
    match ended_by:
        case "key":
            services.api_keys.revoke(user.id, access.key.id, by=SYSTEM)
        case "its end":
            with services.record.database.write() as connection:
                mine = api_keys.c.id == access.key.id
                connection.execute(api_keys.update().where(mine).values(expires_us=1))
        case "scope":
            services.api_keys.change(access.key.id, lambda _: KeyRights(frozenset({Scope.GENERATE})), by=SYSTEM)
        case "account":
            services.accounts.disable(user.id, by=SYSTEM)
    list(read_events(stream))
    wait_for(lambda: outcomes(ada.site) == ["cancelled"])
    if ended_by == "account":
        services.accounts.enable(user.id, by=SYSTEM)
    ended = reader.end_of(response_id)
    assert ended["status"] == "failed"
    assert "was cancelled" in ended["error"]["message"]
    assert ended["output"][0]["content"][0]["text"] == "Half "


def test_a_key_that_may_not_read_responses_begins_none(ada: Program) -> None:
    user = ada.site.services.accounts.find("ada")
    ada.headers = {"Authorization": f"Bearer {ada.site.add_key(user, KeyRights(frozenset({Scope.GENERATE})))}"}
    assert code_of(ada.ask(background=True)) == (403, "insufficient_scope")
    assert ada.site.engine.requests == []


def test_a_site_that_keeps_no_responses_begins_none(make_site: MakeSite) -> None:
    ada = Program(make_site(response_days=0))
    assert ada.error(background=True) == (400, "unsupported_value", "background")


def test_an_end_of_the_server_ends_it(ada: Program) -> None:
    response_id = ada.begin()
    ada.site.services.turns.end_all(HELD_S)
    ended = as_elsewhere(ada).read(response_id)
    assert ended["status"] == "failed"
    assert "stopped while this was being answered" in ended["error"]["message"]
    assert outcomes(ada.site) == ["cancelled"]


def test_what_a_broken_turn_leaves_is_a_failure(ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    response_id = ada.begin()

    def broken(_: Turn) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Turn, "__next__", broken)
    gate.go_on.set()
    assert ada.end_of(response_id)["status"] == "failed"


def test_reasoning_comes_in_the_background(site: Site) -> None:
    ada = Program(site)
    play(site, Started(1, 0.0), ReasoningDelta("I think."), AnswerDelta("Yes."), done())
    assert [item["type"] for item in ada.end_of(ada.begin())["output"]] == ["reasoning", "message"]
    assert all(status not in RUNNING for status in [ada.end_of(ada.begin())["status"]])
