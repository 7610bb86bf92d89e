"""The pages of the library of prompts, and who may do what there."""

from __future__ import annotations

import pytest

from appliance.people.accounts import Role
from tests.webui.conftest import SYSTEM, Browser, Site
from tests.webui.test_files import Person


@pytest.fixture
def ada(site: Site) -> Person:
    return Person(site)


@pytest.fixture
def root(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def test_a_person_keeps_changes_and_removes_prompts(site: Site, ada: Person) -> None:
    assert ada.browser.send("/chat/prompts", title="Mail", text="Write to {{whom}}").status_code == 303
    page = ada.browser.get("/chat/prompts").text
    assert "Write to {{whom}}" in page
    found = site.services.prompts.of(ada.user.id)[0]
    assert 'value="Mail"' in ada.browser.get(f"/chat/prompts?edit={found.id}").text
    ada.browser.send(f"/chat/prompts/{found.id}", title="Letter", text="Dear {{whom}}")
    asked = ada.browser.post(f"/chat/prompts/{found.id}/remove")
    assert "Remove the prompt “Letter”?" in asked.text
    assert site.services.prompts.of(ada.user.id)
    ada.browser.send(f"/chat/prompts/{found.id}/remove", confirmed="yes")
    assert site.services.prompts.of(ada.user.id) == []


def test_what_is_refused_is_said_and_stays_in_the_form(ada: Person) -> None:
    refused = ada.browser.post("/chat/prompts", title="x" * 81, text="A text that took an hour")
    assert refused.status_code == 400
    assert "1 to 80 printable characters" in refused.text
    assert "A text that took an hour</textarea>" in refused.text


def test_the_menu_lists_ones_own_and_the_sites(site: Site, ada: Person, root: Browser) -> None:
    site.services.prompts.add(Person(site, "eve").user.id, "Secret of Eve", "x", by=SYSTEM)
    ada.browser.send("/chat/prompts", title="Mine", text="a <b>")
    root.send("/admin/prompts", title="Ours", text="for all")
    listed = ada.browser.client.get("/chat/prompts/list").get_json()["prompts"]
    assert listed == [
        {"title": "Mine", "text": "a <b>", "shared": False}, {"title": "Ours", "text": "for all", "shared": True},
    ]  # fmt: skip
    page = ada.browser.get("/chat/prompts").text
    assert "a &lt;b&gt;" in page
    assert "for all" in page
    assert "Secret of Eve" not in page


def test_nobody_changes_those_of_another_or_of_the_site(site: Site, ada: Person, root: Browser) -> None:
    root.send("/admin/prompts", title="Ours", text="for all")
    ours = site.services.prompts.of(None)[0]
    eve = Person(site, "eve")
    eve.browser.send("/chat/prompts", title="Hers", text="x")
    hers = site.services.prompts.of(eve.user.id)[0]
    for one in (ours, hers):
        assert ada.browser.send(f"/chat/prompts/{one.id}", title="x", text="attack").status_code == 404
        assert ada.browser.send(f"/chat/prompts/{one.id}/remove", confirmed="yes").status_code == 404
    for path in ("/admin/prompts", f"/admin/prompts/{ours.id}", f"/admin/prompts/{ours.id}/remove"):
        assert ada.browser.send(path, title="x", text="attack").status_code == 403
    assert root.send(f"/admin/prompts/{hers.id}", title="x", text="attack").status_code == 404
    assert root.get("/chat/prompts").status_code == 403
    assert [one.text for one in (*site.services.prompts.of(None), *site.services.prompts.of(eve.user.id))] == [
        "for all", "x",
    ]  # fmt: skip
