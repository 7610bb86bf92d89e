"""The page of settings: each has a sentence, the few that can be changed hold at once, and the others say why not."""

from __future__ import annotations

import html
import re

import pytest
from werkzeug.test import TestResponse

from appliance.config import settings_by_section
from appliance.people.accounts import Role
from appliance.people.live_settings import LIVE
from tests.fakes import FakeEngine, Gate
from tests.webui.conftest import Browser, MakeSite, Site
from tests.webui.test_chat import Chat
from webui.admin.setting_words import SENTENCES
from webui.live import LiveServices

NAMES = [f"{section}.{key}" for section, keys in settings_by_section().items() for key in keys]


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def change(browser: Browser, name: str, value: str, **form: str) -> TestResponse:
    return browser.post(f"/admin/settings/{name}", value=value, **form)


def test_every_setting_has_a_sentence_of_its_own(site: Site, admin: Browser) -> None:
    assert set(SENTENCES) == set(NAMES)
    page = admin.get("/admin/settings").text
    assert re.findall(r'data-setting="([^"]+)"', page) == NAMES
    assert page.count("Not here: ") == len(NAMES) - len(LIVE)
    assert '<span class="bar-section-word">Admin</span>' in page  # the frame stands around it
    assert "Every page carries the name “gpt-oss appliance”." in page
    assert html.escape(str(site.services.config.home)) not in page  # no path of the host


def test_the_name_changes_at_once_and_returns_to_the_file(site: Site, admin: Browser) -> None:
    assert change(admin, "site.name", "North & gate").headers["Location"] == "/admin/settings?notice=saved"
    assert "North &amp; gate</title>" in admin.get("/account").text
    assert "North &amp; gate" in site.browser().get("/sign-in").text
    page = admin.get("/admin/settings").text
    assert "chosen by root" in page
    assert "Return to the file" in page
    change(admin, "site.name", "", do="file")
    assert "gpt-oss appliance</title>" in admin.get("/account").text
    assert [event.header.subject for event in site.events() if event.header.action == "setting_changed"] == [
        "site.name", "site.name",
    ]  # fmt: skip


def test_a_dangerous_setting_asks_for_its_word(site: Site, admin: Browser) -> None:
    for word in ({}, {"word": "endless"}):
        refused = change(admin, "site.banner_text", "UNMARKED", **word)
        assert refused.status_code == 400
        assert "type the word banner" in refused.text
    assert "UNMARKED" not in admin.get("/account").text
    change(admin, "site.banner_text", "UNMARKED", word=" Banner ")
    assert admin.get("/account").text.count("UNMARKED") == 2


def test_a_setting_of_the_operator_is_refused_with_the_reason(admin: Browser) -> None:
    refused = change(admin, "engine.slots", "4")
    assert refused.status_code == 400
    assert "engine.slots cannot be changed here." in refused.text
    assert "loading it again would end every answer" in refused.text


def test_what_is_chosen_is_what_holds(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    assert 'value="never"' not in browser.get("/account").text
    change(admin, "accounts.endless_api_keys", "yes", word="endless")
    assert 'value="never"' in browser.get("/account").text
    change(admin, "record.daily_mib_per_user", "1")
    big = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "x " * 15_000}]}
    headers = {"Authorization": f"Bearer {site.add_key(ada)}"}
    statuses = [
        site.app.test_client().post("/v1/chat/completions", headers=headers, json=big).status_code for _ in range(40)
    ]
    assert statuses[0] == 200
    assert statuses[-1] == 429


def test_a_change_ends_no_answer(make_site: MakeSite, gate: Gate) -> None:
    site = make_site(FakeEngine(gate.script))
    admin = site.browser(site.add_user("root", Role.ADMIN))
    chat = Chat(site)
    running = chat.start(chat.create(), text="First")
    change(admin, "site.name", "Another")
    change(admin, "web.session_hours", "1")
    gate.go_on.set()
    assert b'"end"' in b"".join(running.iter_encoded())


def test_other_workers_see_a_change_within_their_next_look(site: Site, admin: Browser) -> None:
    now_s = [100.0]
    other = LiveServices(site.app, site.services, clock_s=lambda: now_s[0])
    assert other.current().config.site_name == "gpt-oss appliance"
    change(admin, "site.name", "Northgate")
    now_s[0] += 0.9
    assert other.current().config.site_name == "gpt-oss appliance"
    now_s[0] += 0.2
    assert other.current().config.site_name == "Northgate"
