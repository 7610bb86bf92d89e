"""Quotas over HTTP: the chat and the API are held alike, refusals say what to do, and people see what is left."""

from __future__ import annotations

import gc
import re

import pytest
from werkzeug.test import TestResponse

from appliance.audit.details.denials import QuotaReached
from appliance.people.accounts import Role
from appliance.people.key_rights import ALL_SCOPES, KeyRights
from appliance.people.quotas import Quota
from tests.fakes import FakeEngine, Gate
from tests.waiting import wait_for
from tests.webui.conftest import SYSTEM, Browser, MakeSite, Site
from tests.webui.test_chat import Chat


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def complete(site: Site, secret: str, **body: object) -> TestResponse:
    return site.app.test_client().post(
        "/v1/chat/completions", headers={"Authorization": f"Bearer {secret}"},
        json={"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hi"}], **body},
    )  # fmt: skip


def test_the_form_gives_a_quota_and_takes_it_away(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    path = f"/admin/quotas/person/{ada.id}"
    assert "<strong>ada</strong>" not in admin.get("/admin/quotas").text
    response = admin.post(path, tokens_per_day="1,000", requests_per_day="", concurrent_turns="2")
    assert (response.status_code, response.headers["Location"]) == (303, "/admin/quotas?notice=saved")
    assert site.services.quotas.get("person", ada.id) == Quota(1000, None, 2)
    page = admin.get("/admin/quotas").text
    assert "<strong>ada</strong>" in page
    assert "1,000 tokens a day; 2 answers at the same time" in page
    assert 'value="1000"' in admin.get(path).text
    assert "0 of 1,000" in admin.get(f"/admin/people/{ada.id}").text
    admin.post(path)
    assert site.services.quotas.get("person", ada.id) == Quota()


@pytest.mark.parametrize("text", ["-1", "1.5", "many", "9" * 16, "\uff11"])
def test_what_is_no_number_is_refused(site: Site, admin: Browser, text: str) -> None:
    response = admin.client.post(
        "/admin/quotas/everybody/all", data={"csrf_token": admin.token(), "tokens_per_day": text},
        headers={"Origin": "http://localhost"}, follow_redirects=True,
    )  # fmt: skip
    assert "is a whole number" in response.text
    assert site.services.quotas.get("everybody") == Quota()


@pytest.mark.parametrize("path", ["person/x", "group/x", "everybody/x", "nobody/all", "group/all"])
def test_a_holder_that_is_not_there_is_not_found(admin: Browser, path: str) -> None:
    assert admin.get(f"/admin/quotas/{path}").status_code == 404


def test_chat_and_api_share_one_quota(site: Site) -> None:
    chat = Chat(site)
    secret = site.add_key(chat.user)
    site.services.quotas.give("everybody", "", Quota(requests_per_day=2), by=SYSTEM)
    conversation = chat.create()
    assert chat.ask(conversation)
    assert complete(site, secret).status_code == 200
    refused = complete(site, secret)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "quota_spent")  # type: ignore[index]
    assert int(refused.headers["Retry-After"]) > 0
    message = refused.json["error"]["message"]  # type: ignore[index]
    assert re.match(r"The quota of everybody is 2 requests a day, and it is used up; it is there again on ", message)
    asked = chat.start(conversation, text="Once more")
    assert asked.status_code == 429
    assert "The quota of everybody is 2 requests a day" in asked.json["error"]["message"]  # type: ignore[index]
    details = [event.content.details for event in site.events() if event.header.action == "denied" and event.content]
    assert details[0] == QuotaReached(limit=2, of="requests a day", whose="everybody")


def test_every_choice_of_a_request_counts(site: Site) -> None:
    ada = site.add_user("ada")
    secret = site.add_key(ada)
    site.services.quotas.give("person", ada.id, Quota(requests_per_day=4, concurrent_turns=3), by=SYSTEM)
    assert complete(site, secret, n=3).status_code == 200
    assert complete(site, secret, n=2).status_code == 429  # the second of the two
    gc.collect()  # the first of the two was dropped before it began
    answer = complete(site, secret)
    assert answer.status_code == 429, "four were let in: three answered, and one that was dropped"


def test_what_is_left_is_named_by_the_strictest(site: Site) -> None:
    ada = site.add_user("ada")
    secret = site.add_key(ada, KeyRights(ALL_SCOPES, requests_per_minute=5, tokens_per_day=1000))
    first = complete(site, secret).headers
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-limit-tokens"]) == ("5", "1000")
    site.services.quotas.give("person", ada.id, Quota(tokens_per_day=100, requests_per_day=500), by=SYSTEM)
    headers = complete(site, secret).headers
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("100", "46")
    assert headers["x-ratelimit-limit-requests"] == "5"
    without = complete(site, site.add_key(ada)).headers
    assert (without["x-ratelimit-limit-requests"], without["x-ratelimit-remaining-requests"]) == ("500", "497")
    assert site.services.api_keys.list_keys(ada.id)


def test_the_account_page_shows_what_is_left(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    assert "Your quota" not in browser.get("/account").text
    site.services.quotas.give("person", ada.id, Quota(tokens_per_day=100), by=SYSTEM)
    assert complete(site, site.add_key(ada)).status_code == 200
    page = browser.get("/account").text
    assert "Your quota" in page
    assert "27 of 100" in page


def test_answers_at_the_same_time_are_held_and_places_come_back(make_site: MakeSite, gate: Gate) -> None:
    site = make_site(FakeEngine(gate.script))
    chat = Chat(site)
    secret = site.add_key(chat.user)
    site.services.quotas.give("person", chat.user.id, Quota(concurrent_turns=1), by=SYSTEM)
    conversation = chat.create()
    running = chat.start(conversation, text="First")
    assert running.status_code == 200
    refused = complete(site, secret)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "too_many_running")  # type: ignore[index]
    assert refused.headers["Retry-After"] == "5"
    assert chat.start(chat.create(), text="Second").status_code == 429
    gate.go_on.set()
    for _ in running.iter_encoded():
        pass
    wait_for(lambda: complete(site, secret).status_code == 200)


def test_a_turn_that_cannot_be_recorded_gives_its_place_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = site.add_user("ada")
    secret = site.add_key(ada)
    site.services.quotas.give("person", ada.id, Quota(concurrent_turns=1), by=SYSTEM)
    with monkeypatch.context() as full:
        full.setattr(site.services.record, "refusal", lambda: "The disk is full.")
        assert complete(site, secret).status_code == 503
    assert complete(site, secret).status_code == 200
