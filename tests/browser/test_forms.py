"""Forms as a browser repeats them: reload and Back after what was sent, and what asks first."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from appliance.people.accounts import Role
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched


@pytest.fixture
def signed_in(page: Page, server: Server, watched: Watched) -> Page:
    server.site.add_user("root", *Role)
    pages.sign_in(page, server.address, "root", server.password)
    return page


def test_a_key_is_seen_once_and_reload_and_back_make_no_other(signed_in: Page, server: Server) -> None:
    page = signed_in
    page.goto(f"{server.address}/account")
    page.get_by_label("What is the new key for?").fill("nightly")
    page.get_by_role("button", name="Make a key").click()
    secret = page.locator("[data-new-key]").inner_text()
    assert secret not in page.url
    page.reload()
    expect(page.locator("[data-new-key]")).to_have_count(0)
    expect(page.get_by_role("status").filter(has_text="A new key is shown once.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.goto(f"{server.address}/chat")
    for _ in range(2):
        page.go_back()
        expect(page.get_by_role("heading", name="API keys")).to_be_visible()
        expect(page.get_by_text(secret)).to_have_count(0)
    root = server.site.services.accounts.find("root")
    assert len(server.site.services.api_keys.list_keys(root.id)) == 1


def test_a_link_is_seen_once_and_no_reload_ends_it(signed_in: Page, server: Server) -> None:
    page = signed_in
    page.goto(f"{server.address}/admin")
    page.get_by_role("textbox", name="Name").fill("grace")
    page.get_by_role("button", name="Add", exact=True).click()
    link = page.locator("[data-new-link]").inner_text()
    page.reload()
    expect(page.locator("[data-new-link]")).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert server.site.services.accounts.link_user(link.rpartition("/")[2]) is not None


def test_a_refused_sign_in_is_not_sent_again_by_a_reload(page: Page, server: Server, watched: Watched) -> None:
    server.site.add_user("ada")
    page.goto(f"{server.address}/sign-in?next=/account")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    expect(page.get_by_label("Name")).to_have_value("ada")
    expect(page.get_by_label("Password")).to_be_focused()
    attempts = len(server.site.events())
    page.reload()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert len(server.site.events()) == attempts
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(server.password)
    page.get_by_label("Password").press("Enter")
    expect(page).to_have_url(re.compile("/account$"))
    watched.forgive("401")


def test_ending_the_other_sessions_asks_by_keyboard(signed_in: Page, server: Server) -> None:
    page, site = signed_in, server.site
    root = site.services.accounts.find("root")
    site.services.sessions.create(root, address="192.0.2.1")
    page.goto(f"{server.address}/account")
    page.get_by_role("button", name="End all others").press("Enter")
    expect(page.get_by_text("must sign in again.")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Back, change nothing")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("192.0.2.1")).to_be_visible()
    page.get_by_role("button", name="End all others").press("Enter")
    page.get_by_role("button", name="End all others").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("You are signed out everywhere else.")
    page.go_back()  # to the question: answered again, it ends nothing more
    page.reload()
    assert len(site.services.sessions.list_sessions(root.id, own_token="")) == 1
