"""What a person chooses for a conversation: how its answers are drawn, and instructions that the model reads first."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.audit.details.turns import PromptDetails
from appliance.database.tables import conversations, instructions
from appliance.people.accounts import Role
from appliance.people.instructions import MAX_CHARS
from appliance.people.sampling import Sampling
from appliance.turns.request import TurnRequest
from tests.webui.conftest import Site
from tests.webui.test_files import Person

RULES = "Answer in one sentence."
ALL: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 300, "seed": 7}


@pytest.fixture
def ada(site: Site) -> Person:
    return Person(site)


def last(person: Person) -> TurnRequest:
    return person.site.engine.requests[-1]


def write(person: Person, text: str) -> Any:
    return person.browser.post("/account/instructions", text=text)


def test_an_answer_is_drawn_as_chosen_and_the_conversation_keeps_it(site: Site, ada: Person) -> None:
    conversation = ada.begin()
    ada.ask(conversation, sampling=ALL)
    asked = last(ada)
    assert {name: getattr(asked, name) for name in ALL} == ALL
    contents = [event.content for event in site.events() if event.header.action == "prompt"]
    assert contents[0] is not None
    assert isinstance(contents[0].details, PromptDetails)
    assert contents[0].details.request == asked
    assert site.services.conversations.get(ada.user.id, conversation).sampling == Sampling(**ALL)
    page = ada.browser.get(f"/chat/{conversation}").text
    assert 'name="temperature" type="number" min="0" max="2" step="any" value="0.5"' in page
    ada.ask(conversation)  # a page that says nothing changes nothing
    assert (last(ada).temperature, last(ada).seed) == (0.5, 7)
    ada.ask(conversation, regenerate=True, text=None, sampling={})  # back to the model's own
    default = TurnRequest("", "", (), 0)
    assert (last(ada).temperature, last(ada).top_k) == (default.temperature, default.top_k)
    assert last(ada).seed != 7
    assert site.services.conversations.get(ada.user.id, conversation).sampling == Sampling()


@pytest.mark.parametrize(("name", "value", "said"), [
    ("temperature", 2.1, "The temperature is a number from 0 to 2."),
    ("temperature", "hot", "The temperature is a number from 0 to 2."),
    ("temperature", True, "The temperature is a number from 0 to 2."),
    ("top_p", 0, "Top p is a number above 0 and up to 1."),
    ("top_k", 0, "Top k is a number from 1 to 199,998."),
    ("top_k", 1.5, "Top k is a number from 1 to 199,998."),
    ("min_p", -0.1, "Min p is a number from 0 to 1."),
    ("max_tokens", 0, "The longest answer is a number from 1 to 2,147,483,647."),
    ("seed", 2**53, "The seed is a number from 0 to 9,007,199,254,740,991."),
    ("seed", -1, "The seed is a number from 0 to 9,007,199,254,740,991."),
])  # fmt: skip
def test_a_value_that_cannot_be_is_refused_before_anything_is_recorded(
    site: Site, ada: Person, name: str, value: object, said: str
) -> None:
    conversation = ada.begin()
    before = len(site.events())
    refused = ada.ask(conversation, sampling={name: value})
    assert refused.status_code == 400
    assert said in refused.get_json()["error"]["message"]
    assert (len(site.events()), site.engine.requests) == (before, [])
    assert site.services.conversations.get(ada.user.id, conversation).sampling == Sampling()


def test_settings_that_are_no_object_are_refused(ada: Person) -> None:
    for wrong in ["x", 7, ["x"]]:
        assert ada.ask(ada.begin(), sampling=wrong).status_code == 400
    assert ada.ask(ada.begin(), sampling={"temperature": float("nan")}).status_code == 400


def test_instructions_are_read_first_counted_and_recorded(site: Site, ada: Person) -> None:
    conversation = ada.begin()
    before = ada.send("POST", f"/chat/{conversation}/room", effort="low", text="Hi").get_json()["line"]
    assert write(ada, f"{RULES}\r\nBe kind.").status_code == 303
    after = ada.send("POST", f"/chat/{conversation}/room", effort="low", text="Hi").get_json()["line"]
    assert before != after  # the fake engine counts letters
    without = ada.send("POST", f"/chat/{conversation}/room", effort="low", text="Hi", without_instructions=True)
    assert without.get_json()["line"] == before
    ada.ask(conversation)
    assert (last(ada).messages[0].role, last(ada).messages[0].content) == ("developer", f"{RULES}\nBe kind.")
    ada.ask(conversation, text="And now?")
    assert [one.role for one in last(ada).messages] == ["developer", "user", "assistant", "user"]
    contents = [event.content for event in site.events() if event.header.action == "prompt"]
    details = [one.details for one in contents if one is not None and isinstance(one.details, PromptDetails)]
    assert all(one.request.messages[0].content == f"{RULES}\nBe kind." for one in details)
    assert contents[-1] is not None
    assert contents[-1].text == "And now?"  # what the person said; the rest stands beside it
    reviewer = site.browser(site.add_user("rita", Role.REVIEWER))
    number = next(e.header.sequence for e in reversed(site.events()) if e.header.action == "prompt")
    assert RULES in reviewer.get(f"/review/{number}").text


def test_a_conversation_can_do_without_them_and_remembers_that(site: Site, ada: Person) -> None:
    write(ada, RULES)
    conversation = ada.begin()
    ada.ask(conversation, without_instructions=True)
    assert [one.role for one in last(ada).messages] == ["user"]
    ada.ask(conversation, text="And now?")
    assert last(ada).messages[0].role == "user"
    page = ada.browser.get(f"/chat/{conversation}").text
    assert 'data-instructions autocomplete="off">' in page
    ada.ask(conversation, text="And now?", without_instructions=False)
    assert last(ada).messages[0].role == "developer"
    made = ada.send("POST", f"/chat/{conversation}/summary", effort="low").get_json()["id"]
    assert made
    assert last(ada).messages[0].content == RULES


def test_a_change_holds_from_the_next_question_on_and_blank_text_ends_them(site: Site, ada: Person) -> None:
    conversation = ada.begin()
    for text, role in ((RULES, "developer"), ("Be brief.", "developer"), (" \n ", "user")):
        write(ada, text)
        ada.ask(conversation, text="Hello")
        assert last(ada).messages[0].role == role
    with site.services.record.database.read() as connection:
        assert connection.execute(instructions.select()).all() == []


def test_instructions_that_cannot_be_kept_are_refused_and_the_old_ones_stay(ada: Person) -> None:
    write(ada, RULES)
    for wrong, said in (("x" * (MAX_CHARS + 1), "8,001 characters, and 8,000"), ("a\x00b", "cannot be kept")):
        refused = write(ada, wrong)
        assert refused.status_code == 400
        assert said in refused.text
    assert ada.site.services.instructions.of(ada.user.id) == RULES


def test_nobody_reads_or_writes_those_of_another(site: Site, ada: Person) -> None:
    write(ada, RULES)
    eve = Person(site, "eve")
    assert RULES not in eve.browser.get("/account").text
    eve.ask(eve.begin())
    assert [one.role for one in last(eve).messages] == ["user"]
    admin = site.browser(site.add_user("root", Role.ADMIN))
    assert admin.send("/account/instructions", text="x").status_code == 403
    assert "instructions-text" not in admin.get("/account").text


def test_they_are_in_no_export(ada: Person) -> None:
    write(ada, RULES)
    conversation = ada.begin()
    ada.ask(conversation)
    for form in ("markdown", "html", "json"):
        assert RULES not in ada.browser.get(f"/chat/{conversation}/export/{form}").text


@pytest.mark.parametrize("damaged", ['"x"', '{"temperature": "hot"}', '{"warmth": 1}', "[1]"])
def test_damaged_settings_are_said_and_harm_no_other_conversation(site: Site, ada: Person, damaged: str) -> None:
    good, bad = ada.begin(), ada.begin()
    with site.services.record.database.write() as connection:
        mine = conversations.c.id == bad
        connection.exec_driver_sql(f"UPDATE conversations SET sampling = '{damaged}' WHERE id = '{bad}'")  # noqa: S608
        assert connection.execute(conversations.select().where(mine)).one() is not None
    assert ada.browser.get(f"/chat/{bad}").status_code in (409, 500, 503)
    assert ada.browser.get(f"/chat/{good}").status_code == 200
