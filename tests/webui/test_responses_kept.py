"""Kept responses over the application: read, continued, referred to, listed and deleted, by their owner alone."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from appliance.database.tables import kept_responses
from appliance.database.transactions import DatabaseError
from appliance.people.key_rights import KeyRights, Scope
from appliance.people.responses import Responses
from appliance.turns.events import AnswerDelta, Failed, ReasoningDelta, Started, ToolCallDelta
from appliance.turns.request import Message, ToolCall
from tests.fakes import done
from tests.webui.conftest import MakeSite, Site
from tests.webui.test_responses import CALL, LIKELY, URL, Caller, events_of, play, said

RESULT = {"type": "function_call_output", "call_id": "call_a", "output": "noon"}
ANSWER = "You said: "


@pytest.fixture
def caller(site: Site) -> Caller:
    return Caller(site)


def call(caller: Caller, method: str, path: str) -> TestResponse:
    return caller.client.open(f"{URL}/{path}", method=method, headers=caller.headers)


def code_of(response: TestResponse) -> tuple[int, str]:
    assert response.json is not None
    return response.status_code, response.json["error"]["code"]


def spoken(caller: Caller) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in caller.sent().messages]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_read_again_as_it_was_answered(caller: Caller, stream: bool) -> None:
    body = events_of(caller.ask(stream=True))[-1]["response"] if stream else caller.whole()
    assert body["store"] is True
    assert call(caller, "GET", body["id"]).json == body


def test_log_probabilities_are_given_once_and_not_kept(site: Site, caller: Caller) -> None:
    play(site, *LIKELY)
    body = caller.whole(top_logprobs=1)
    kept = call(caller, "GET", body["id"]).json
    assert kept is not None
    texts = [item["content"][0] for item in body["output"] if item["type"] == "message"]
    assert all(text["logprobs"] for text in texts)
    for text in texts:
        text["logprobs"] = []
    assert kept == body


def test_a_response_that_is_not_to_be_kept_is_not(caller: Caller) -> None:
    body = caller.whole(store=False)
    assert body["store"] is False
    assert code_of(call(caller, "GET", body["id"])) == (404, "response_not_found")


def test_a_conversation_goes_on_from_a_response(caller: Caller) -> None:
    first = caller.whole(input="One", instructions="Be brief.")
    second = caller.whole(input="Two", previous_response_id=first["id"], instructions="Be kind.")
    assert second["previous_response_id"] == first["id"]
    caller.whole(input="Three", previous_response_id=second["id"])
    assert spoken(caller) == [
        ("user", "One"), ("assistant", f"{ANSWER}One"),
        ("user", "Two"), ("assistant", f"{ANSWER}Two"),
        ("user", "Three"),
    ]  # fmt: skip


def test_two_conversations_branch_from_one_response(caller: Caller) -> None:
    first = caller.whole(input="One")
    for text in ("Left", "Right"):
        caller.whole(input=text, previous_response_id=first["id"])
        assert spoken(caller) == [("user", "One"), ("assistant", f"{ANSWER}One"), ("user", text)]


def test_the_result_of_a_call_needs_only_the_response_that_called(site: Site, caller: Caller) -> None:
    play(site, *CALL)
    first = caller.whole()
    caller.whole(previous_response_id=first["id"], input=[RESULT])
    assert caller.sent().messages[1:] == (
        Message("assistant", "I look it up.", "I need the time.", (ToolCall("call_a", "now", '{"zone":"UTC"}'),)),
        Message("tool", "noon", tool_call_id="call_a", name="now"),
    )


def test_a_call_that_is_not_answered_is_refused(site: Site, caller: Caller) -> None:
    play(site, *CALL)
    first = caller.whole()
    assert caller.error(previous_response_id=first["id"]) == (400, "invalid_value", "input[0]")


def test_items_are_named_by_their_ids(site: Site, caller: Caller) -> None:
    """Some clients send nothing but the ids of what they have received."""
    play(site, *CALL)
    first = caller.whole(input=[said("user", "Hello")])
    [asked] = call(caller, "GET", f"{first['id']}/input_items").json["data"]  # type: ignore[index]
    named = [{"type": "item_reference", "id": item["id"]} for item in (asked, *first["output"])]
    second = caller.whole(input=[*named, RESULT])
    sent = caller.sent().messages
    assert [message.role for message in sent] == ["user", "assistant", "tool"]
    assert sent[1] == Message(
        "assistant", "I look it up.", "I need the time.", (ToolCall("call_a", "now", '{"zone":"UTC"}'),)
    )
    listed = call(caller, "GET", f"{second['id']}/input_items?order=asc").json
    assert listed is not None
    assert [item["id"] for item in listed["data"]][:4] == [entry["id"] for entry in named]


def test_a_reference_is_no_copy(site: Site, caller: Caller) -> None:
    first = caller.whole(input="a secret")
    named = {"type": "item_reference", "id": first["output"][1]["id"]}
    second = caller.whole(input=[named, said("user", "Two")])
    with site.services.record.database.read() as connection:
        kept = connection.scalar(sa.select(kept_responses.c.input).where(kept_responses.c.id == second["id"]))
    assert kept is not None
    assert "a secret" not in kept
    call(caller, "DELETE", first["id"])
    assert caller.error(previous_response_id=second["id"])[:2] == (400, "previous_response_not_found")
    listed = call(caller, "GET", f"{second['id']}/input_items").json
    assert listed is not None
    assert [item["content"][0]["text"] for item in listed["data"]] == ["Two"]


@pytest.mark.parametrize("name", ["msg_x", "msg_" + "0" * 32 + "_0", "msg_{hex}_7", "rs_{hex}_1", "msg_{hex}_in9"])
def test_a_reference_to_nothing_is_refused(caller: Caller, name: str) -> None:
    first = caller.whole()
    reference = {"type": "item_reference", "id": name.replace("{hex}", first["id"].removeprefix("resp_"))}
    assert caller.error(input=[said("user", "x"), reference]) == (400, "invalid_value", "input[1].id")


def test_another_persons_response_does_not_exist(site: Site, caller: Caller) -> None:
    body = caller.whole()
    bob = Caller(site, "bob")
    never = "resp_" + "0" * 32
    for method, path in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
        theirs, none = (call(bob, method, f"{name}{path}") for name in (body["id"], never))
        assert theirs.status_code == 404
        assert theirs.data == none.data
    assert bob.ask(previous_response_id=body["id"]).data == bob.ask(previous_response_id=never).data
    reference = {"type": "item_reference", "id": body["output"][0]["id"]}
    assert bob.error(input=[reference]) == (400, "invalid_value", "input[0].id")
    assert call(caller, "GET", body["id"]).status_code == 200


def test_a_key_without_the_scope_answers_and_goes_on_from_nothing(site: Site, caller: Caller) -> None:
    body = caller.whole()
    ada = site.services.accounts.find("ada")
    caller.headers = {"Authorization": f"Bearer {site.add_key(ada, KeyRights(frozenset({Scope.GENERATE})))}"}
    assert caller.whole()["store"] is True
    refused = (403, "insufficient_scope", None)
    assert caller.error(previous_response_id=body["id"]) == refused
    assert caller.error(input=[{"type": "item_reference", "id": body["output"][1]["id"]}]) == refused
    assert code_of(call(caller, "GET", body["id"])) == (403, "insufficient_scope")


def test_a_deleted_response_is_gone_and_the_record_says_so(site: Site, caller: Caller) -> None:
    body = caller.whole()
    assert call(caller, "DELETE", body["id"]).json == {"id": body["id"], "object": "response", "deleted": True}
    header = site.events()[-1].header
    assert (header.action, header.subject, header.actor.name) == ("response_deleted", body["id"], "ada")
    assert code_of(call(caller, "GET", body["id"])) == (404, "response_not_found")
    assert code_of(call(caller, "DELETE", body["id"])) == (404, "response_not_found")
    assert caller.error(previous_response_id=body["id"]) == (
        400, "previous_response_not_found", "previous_response_id",
    )  # fmt: skip


def test_nothing_can_be_cancelled_by_its_id(caller: Caller) -> None:
    assert code_of(call(caller, "POST", f"{caller.whole()['id']}/cancel")) == (400, "not_in_background")


def test_a_response_that_failed_is_not_kept(site: Site, caller: Caller) -> None:
    play(site, Started(1, 0.0), AnswerDelta("so far"), Failed("engine_failed", "The model failed."))
    body = events_of(caller.ask(stream=True))[-1]["response"]
    assert code_of(call(caller, "GET", body["id"])) == (404, "response_not_found")
    assert caller.error(previous_response_id=body["id"])[1] == "previous_response_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_cannot_be_kept_is_never_called_complete(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(Responses, "keep", fail)
    response = caller.ask(stream=stream)
    if stream:
        assert events_of(response)[-1]["type"] == "response.failed"
    else:
        assert code_of(response) == (503, "unavailable")
    assert "disk" not in response.text


def test_a_site_that_keeps_no_responses_says_so(make_site: MakeSite) -> None:
    caller = Caller(make_site(response_days=0))
    body = caller.whole()
    assert body["store"] is False
    assert code_of(call(caller, "GET", body["id"])) == (404, "response_not_found")
    assert caller.error(store=True) == (400, "unsupported_value", "store")
    assert caller.error(previous_response_id=body["id"])[1] == "previous_response_not_found"
    assert caller.whole(store=False)["status"] == "completed"


def test_the_input_is_listed_page_by_page(caller: Caller) -> None:
    body = caller.whole(input=[said("user", f"{number}") for number in range(5)])

    def page(query: str) -> tuple[list[str], bool]:
        listed: Any = call(caller, "GET", f"{body['id']}/input_items?{query}").json
        assert (listed["first_id"], listed["last_id"]) == (listed["data"][0]["id"], listed["data"][-1]["id"])
        return [item["content"][0]["text"] for item in listed["data"]], listed["has_more"]

    stem = body["id"].removeprefix("resp_")
    assert page("") == (["4", "3", "2", "1", "0"], False)
    assert page("order=asc&limit=2") == (["0", "1"], True)
    assert page(f"order=asc&limit=2&after=msg_{stem}_in1") == (["2", "3"], True)
    assert page(f"limit=2&after=msg_{stem}_in2") == (["1", "0"], False)


@pytest.mark.parametrize("query", ["order=up", "limit=0", "limit=101", "limit=x", "after=msg_1"])
def test_a_page_that_cannot_be_is_refused(caller: Caller, query: str) -> None:
    body = caller.whole()
    assert code_of(call(caller, "GET", f"{body['id']}/input_items?{query}")) == (400, "invalid_value")


def test_what_the_model_wrote_and_no_database_takes_can_be_continued(site: Site, caller: Caller) -> None:
    play(site, ReasoningDelta("\ud83d"), ToolCallDelta(0, "call_a", "now", '{"a": "\0\ud83d"}'), done())
    first = caller.whole()
    caller.whole(previous_response_id=first["id"], input=[RESULT])
    assert caller.sent().messages[1].tool_calls[0].arguments == '{"a": "\ufffd\ufffd"}'
