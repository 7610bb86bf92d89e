"""A person's own page: password and API keys."""

from __future__ import annotations

import re
from collections.abc import Iterable

from appliance.people.accounts import Role
from appliance.people.key_rights import KeyRights, Scope
from tests.webui.conftest import PASSWORD, SYSTEM, Browser, Site

NEW = "another quite long phrase"


def new_key(browser: Browser, label: str = "script", scopes: Iterable[Scope] = Scope) -> str:
    page = browser.post("/account/keys", label=label, scope=[scope.value for scope in scopes]).text
    found = re.search(r"<code data-new-key>([^<]+)</code>", page)
    assert found is not None, page
    return found[1]


def change(browser: Browser, current: str, new: str) -> int:
    return browser.post("/account/password", current_password=current, new_password=new).status_code


def test_a_new_password_replaces_the_old_and_ends_the_other_sessions(site: Site) -> None:
    ada = site.add_user("ada")
    here, elsewhere = site.browser(ada), site.browser(ada)
    assert change(here, PASSWORD, NEW) == 303
    assert "The password is changed" in here.get("/account?notice=password").text
    assert elsewhere.get("/account").status_code == 302
    assert site.browser().post("/sign-in", name="ada", password=PASSWORD).status_code == 401
    assert site.browser().post("/sign-in", name="ada", password=NEW).status_code == 303


def test_the_password_changes_only_with_the_present_one(site: Site) -> None:
    ada = site.add_user("ada")
    assert change(site.browser(ada), "wrong", NEW) == 400
    assert site.browser().post("/sign-in", name="ada", password=NEW).status_code == 401


def test_a_weak_new_password_is_refused_and_the_old_one_stays(site: Site) -> None:
    ada = site.add_user("ada")
    assert change(site.browser(ada), PASSWORD, "short") == 400
    assert site.browser().post("/sign-in", name="ada", password=PASSWORD).status_code == 303


def test_a_key_is_shown_once_works_and_is_recorded(site: Site) -> None:
    browser = site.browser(site.add_user("ada"))
    secret = new_key(browser, "nightly report")
    page = browser.get("/account").text
    assert "nightly report" in page
    assert secret not in page
    response = site.browser().client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
    assert response.status_code == 200
    assert "api_key_created" in [event.header.action for event in site.events()]


def test_a_person_chooses_what_a_key_may_do_and_the_page_shows_it(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    page = browser.get("/account").text
    assert [f'name="scope" value="{scope}" checked' in page for scope in Scope] == [True] * len(Scope)
    new_key(browser, "everything")
    new_key(browser, "monitor", [Scope.MODELS])
    rights = KeyRights(frozenset({Scope.GENERATE, Scope.TOKENIZE}), requests_per_minute=60, tokens_per_day=1_000_000)
    site.services.api_keys.create(ada, "from the host", by=SYSTEM, rights=rights)
    page = browser.get("/account").text
    cells = re.findall(r'<td class="key-rights"><span class="cell-word">May</span> (.*?)</td>', page)
    assert cells == [
        'Ask, Tokens<br><span class="soft">at most 60 requests a minute</span>'
        '<br><span class="soft">at most 1,000,000 tokens a day</span>',
        "Models",
        "Everything",
    ]


def test_a_key_that_may_do_nothing_is_not_made(site: Site) -> None:
    ada = site.add_user("ada")
    refused = site.browser(ada).post("/account/keys", label="idle")
    assert refused.status_code == 400
    assert "choose what it may do" in refused.text
    assert 'value="idle"' in refused.text
    assert site.services.api_keys.list_keys(ada.id) == []


def test_a_revoked_key_stops_at_once_and_leaves_the_page(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    secret = new_key(browser)
    key_id = site.services.api_keys.list_keys(ada.id)[0].id
    assert "Revoke the key “script”?" in browser.post(f"/account/keys/{key_id}/revoke").text
    assert site.browser().client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    response = browser.post(f"/account/keys/{key_id}/revoke", confirmed="yes")
    assert (response.status_code, response.headers["Location"]) == (303, "/account?notice=revoked")
    assert key_id not in browser.get("/account").text
    assert site.browser().client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_nobody_revokes_the_key_of_another(site: Site) -> None:
    ada, eve = site.add_user("ada"), site.add_user("eve")
    secret = new_key(site.browser(ada))
    key_id = site.services.api_keys.list_keys(ada.id)[0].id
    thief = site.browser(eve)
    assert thief.post(f"/account/keys/{key_id}/revoke").status_code == 404
    assert site.browser().client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_a_key_needs_a_label(site: Site) -> None:
    browser = site.browser(site.add_user("ada"))
    assert browser.post("/account/keys", label=" ", scope="models").status_code == 400


def test_keys_are_for_people_who_may_chat(site: Site) -> None:
    browser = site.browser(site.add_user("rex", Role.REVIEWER))
    assert browser.post("/account/keys", label="x").status_code == 403
    assert site.denials() == ["missing_role"]


def test_an_unknown_notice_says_nothing(site: Site) -> None:
    page = site.browser(site.add_user("ada")).get("/account?notice=<script>").text
    assert "<script>" not in page.replace("<script src", "").replace('<script type="module"', "")
