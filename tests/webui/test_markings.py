"""Markings over HTTP: the banner of each page, exports and imports, the record, and who may change what."""

from __future__ import annotations

import json
from typing import Any

import pytest
from werkzeug.test import TestResponse

from appliance.audit.details.turns import PromptDetails
from appliance.people.accounts import Role
from appliance.people.markings import Marking
from tests.webui.conftest import SYSTEM, Site
from tests.webui.test_files import Person


@pytest.fixture
def known(site: Site) -> list[Marking]:
    """The lowest first."""
    names = (("OFFICIAL", "grey"), ("SECRET", "amber"), ("TOP SECRET", "red"))
    return [site.services.markings.add(name, style, by=SYSTEM) for name, style in names]


@pytest.fixture
def ada(site: Site) -> Person:
    return Person(site)


def banners(page: str) -> list[str]:
    """The words of the banners of a page."""
    parts = page.split('aria-label="Classification" data-banner><span>')[1:]
    return [part.partition("</span>")[0] for part in parts]


def mark(person: Person, conversation: str, marking: str, reason: str = "") -> TestResponse:
    return person.browser.post(f"/chat/{conversation}/marking", marking=marking, reason=reason)


def marking_of(person: Person, conversation: str) -> str:
    found = person.site.services.conversation_markings.of(person.user.id, conversation)
    return found.name if found else ""


def attached(person: Person, marking: str) -> str:
    headers = {"Origin": "http://localhost", "Accept": "application/json", "X-CSRF-Token": person.browser.token()}
    query = {"name": "a.csv", "marking": marking}
    response = person.browser.client.post("/chat/files", query_string=query, data=b"name,value\n", headers=headers)
    assert response.status_code == 201, response.text
    return str(response.get_json()["id"])


def test_without_markings_pages_have_the_banner_of_the_site_and_no_way_to_mark(make_site: Any) -> None:
    person = Person(make_site(banner_text="RESTRICTED"))
    conversation = person.begin()
    page = person.browser.get(f"/chat/{conversation}").text
    assert banners(page) == ["RESTRICTED"] * 2
    assert "data-marking-link" not in page
    assert person.browser.get(f"/chat/{conversation}/marking").status_code == 404
    assert mark(person, conversation, "x").status_code == 404


def test_each_page_has_the_banner_of_what_it_shows(site: Site, known: list[Marking], ada: Person) -> None:
    conversation = ada.begin()
    address = f"/chat/{conversation}"
    assert banners(ada.browser.get("/chat").text) == ["NOT SET: HANDLE AS TOP SECRET"] * 2
    assert banners(ada.browser.get(address).text) == ["NOT SET: HANDLE AS TOP SECRET"] * 2
    assert mark(ada, conversation, known[0].id).status_code == 303
    for page in (address, f"{address}/print", f"{address}/marking"):
        text = ada.browser.get(page).text
        assert banners(text) == ["OFFICIAL"] * 2, page
        assert "banner-top banner-grey" in text
    for page in ("/account", "/nowhere"):  # may show anything, so the highest
        assert banners(ada.browser.get(page).text) == ["TOP SECRET"] * 2, page
    assert banners(site.browser().get("/sign-in").text) == ["TOP SECRET"] * 2
    listed = ada.browser.get("/chat").text
    assert '<span class="mark banner-grey">OFFICIAL</span>' in listed


def test_a_question_raises_the_marking_tells_the_page_and_is_recorded_with_it(
    site: Site, known: list[Marking], ada: Person
) -> None:
    conversation = ada.begin()
    mark(ada, conversation, known[0].id)
    answer = ada.ask(conversation, text="Hello")
    assert answer.headers["X-Marking"] == "grey OFFICIAL"
    answer = ada.ask(conversation, files=[attached(ada, known[2].id)])
    assert answer.headers["X-Marking"] == "red TOP%20SECRET"
    assert marking_of(ada, conversation) == "TOP SECRET"
    contents = [event.content for event in site.events() if event.header.action == "prompt"]
    details = [one.details for one in contents if one is not None and isinstance(one.details, PromptDetails)]
    assert [one.marking for one in details] == ["OFFICIAL", "TOP SECRET"]
    reviewer = site.browser(site.add_user("rita", Role.REVIEWER))
    number = next(e.header.sequence for e in reversed(site.events()) if e.header.action == "prompt")
    page = reviewer.get(f"/review/{number}").text
    assert "Marking: TOP SECRET" in page
    assert banners(page) == ["TOP SECRET"] * 2


def test_a_lower_marking_is_refused_in_words_that_keep_what_was_typed(known: list[Marking], ada: Person) -> None:
    conversation = ada.begin()
    ada.ask(conversation, files=[attached(ada, known[1].id)])
    refused = mark(ada, conversation, known[0].id, "because I say so")
    assert refused.status_code == 400
    assert "“a.csv” in this conversation is marked SECRET" in refused.text
    assert 'value="because I say so"' in refused.text
    mark(ada, conversation, known[2].id)
    assert "Say why it is lowered from TOP SECRET to SECRET." in mark(ada, conversation, known[1].id).text
    assert mark(ada, conversation, known[1].id, "the annex was removed").status_code == 303
    assert marking_of(ada, conversation) == "SECRET"


def test_nobody_marks_the_conversation_of_another(site: Site, known: list[Marking], ada: Person) -> None:
    conversation, eve = ada.begin(), Person(site, "eve")
    assert eve.browser.get(f"/chat/{conversation}/marking").status_code == 404
    assert mark(eve, conversation, known[0].id).status_code == 404
    assert marking_of(ada, conversation) == ""
    reviewer = site.browser(site.add_user("rita", Role.REVIEWER))
    assert reviewer.send(f"/chat/{conversation}/marking", marking=known[0].id, reason="x").status_code == 403


def test_a_file_has_a_marking_of_the_list_or_that_of_its_conversation(known: list[Marking], ada: Person) -> None:
    headers = {"Origin": "http://localhost", "Accept": "application/json", "X-CSRF-Token": ada.browser.token()}
    refused = ada.browser.client.post("/chat/files?name=a.csv&marking=nothing", data=b"a,b\n", headers=headers)
    assert refused.status_code == 400
    assert "There is no such marking" in refused.text
    attached(ada, known[1].id)
    attached(ada, "")
    waiting = ada.browser.client.get("/chat/files").get_json()["files"]
    assert [file["marking"] for file in waiting] == ["SECRET", None]


def test_a_summary_has_the_marking_of_what_it_sums_up(known: list[Marking], ada: Person) -> None:
    conversation = ada.begin()
    ada.ask(conversation)
    mark(ada, conversation, known[1].id)
    made = ada.send("POST", f"/chat/{conversation}/summary", effort="low").get_json()["id"]
    assert marking_of(ada, made) == "SECRET"


def test_exports_carry_it_first_and_last_and_an_import_brings_it_back(known: list[Marking], ada: Person) -> None:
    conversation = ada.begin()
    ada.ask(conversation)
    exported = ada.browser.get(f"/chat/{conversation}/export/markdown").text
    assert exported.startswith("**NOT SET: HANDLE AS TOP SECRET**")
    mark(ada, conversation, known[1].id)
    lines = ada.browser.get(f"/chat/{conversation}/export/markdown").text.strip().splitlines()
    assert (lines[0], lines[-1]) == ("**SECRET**", "**SECRET**")
    page = ada.browser.get(f"/chat/{conversation}/export/html").text
    assert page.count('<p class="exported-marking">SECRET</p>') == 2
    file = json.loads(ada.browser.get(f"/chat/{conversation}/export/json").data)
    assert file["marking"] == "SECRET"
    back = ada.send("POST", "/chat/import", **file).get_json()["imported"][0]
    assert (back["marking"], marking_of(ada, back["id"])) == ("SECRET", "SECRET")
    for name, marking in (("COSMIC", None), ("secret", "SECRET"), ("", None), (["SECRET"], None)):
        back = ada.send("POST", "/chat/import", **{**file, "marking": name}).get_json()["imported"][0]
        assert back["marking"] == marking
        assert marking_of(ada, back["id"]) == (marking or "")
    unknown = ada.send("POST", "/chat/import", **{**file, "marking": "COSMIC"}).get_json()["imported"][0]
    assert unknown["unknown_marking"] == "COSMIC"


def test_administrators_keep_the_list_and_nobody_else(site: Site, ada: Person) -> None:
    root = site.browser(site.add_user("root", Role.ADMIN))
    assert "There are no markings" in root.get("/admin/markings").text
    assert root.send("/admin/markings", name="OFFICIAL", style="grey").status_code == 303
    root.send("/admin/markings", name="SECRET", style="amber")
    refused = root.post("/admin/markings", name="secret", style="amber")
    assert refused.status_code == 400
    assert "There is a marking secret already." in refused.text
    low, high = site.services.markings.all()
    root.send(f"/admin/markings/{low.id}", name="OPEN", style="blue")
    root.send(f"/admin/markings/{low.id}/raise")
    assert [(one.name, one.style) for one in site.services.markings.all()] == [("SECRET", "amber"), ("OPEN", "blue")]
    conversation = ada.begin()
    mark(ada, conversation, high.id)
    kept = root.post(f"/admin/markings/{high.id}/remove", confirmed="yes")
    assert "1 conversation or file carries the marking SECRET" in kept.text
    asked = root.post(f"/admin/markings/{low.id}/remove")
    assert "Remove the marking OPEN?" in asked.text
    root.send(f"/admin/markings/{low.id}/remove", confirmed="yes")
    assert [one.name for one in site.services.markings.all()] == ["SECRET"]
    for path in ("/admin/markings", f"/admin/markings/{high.id}", f"/admin/markings/{high.id}/remove"):
        assert ada.browser.send(path, name="X", style="red").status_code == 403
    assert [one.name for one in site.services.markings.all()] == ["SECRET"]
