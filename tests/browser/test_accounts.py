"""Accounts as people meet them in a browser: confirming by keyboard and without scripts, on wide and narrow screens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from appliance.people.accounts import Role
from appliance.people.key_rights import KeyRights, Scope
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched
from tests.webui.conftest import SYSTEM

VIEWS = [("light", 1280, 720), ("dark", 1280, 720), ("light", 390, 844), ("dark", 390, 844)]


def menu_of(page: Page, name: str) -> None:
    page.get_by_label(f"Change {name}").click()


def test_disabling_is_confirmed_by_keyboard_and_the_way_back_comes_first(
    page: Page, server: Server, watched: Watched
) -> None:
    server.site.add_user("root", Role.ADMIN)
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "root", server.password)
    page.goto(f"{server.address}/admin")
    menu_of(page, "ada")
    page.get_by_role("button", name="Disable", exact=True).press("Enter")
    expect(page.get_by_role("heading", name="Disable ada?")).to_be_visible()
    expect(page.get_by_role("button", name="Back, change nothing")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="People")).to_be_visible()
    assert not server.site.services.accounts.find("ada").disabled
    menu_of(page, "ada")
    page.get_by_role("button", name="Disable", exact=True).press("Enter")
    expect(page.get_by_role("button", name="Back, change nothing")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Disabled", exact=True)).to_be_visible()
    assert server.site.services.accounts.find("ada").disabled


def test_a_key_is_revoked_without_script(browser: Browser, server: Server) -> None:
    ada = server.site.add_user("ada")
    server.site.add_key(ada)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    pages.sign_in(page, server.address, "ada", server.password)
    page.goto(f"{server.address}/account")
    page.get_by_role("button", name="Revoke the key test").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_text("The key is revoked.")).to_be_visible()
    expect(page.get_by_text("You have no keys.")).to_be_visible()
    context.close()


def test_a_key_for_a_monitor_is_made_without_script(browser: Browser, server: Server) -> None:
    ada = server.site.add_user("ada")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    pages.sign_in(page, server.address, "ada", server.password)
    page.goto(f"{server.address}/account")
    page.get_by_label("What is the new key for?").fill("monitor")
    for name in ("Ask", "Tokens", "Stored responses"):
        page.get_by_role("group", name="It may").get_by_label(name).uncheck()
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_text("Your new key.")).to_be_visible()
    expect(page.get_by_role("row", name="monitor").get_by_role("cell", name="Models")).to_be_visible()
    (key,) = server.site.services.api_keys.list_keys(ada.id)
    assert key.rights == KeyRights(frozenset({Scope.MODELS}))
    context.close()


def test_the_first_person_reads_the_rule_of_names_and_mends_a_refused_one(
    page: Page, server: Server, watched: Watched
) -> None:
    server.site.add_user("eve")
    token = server.site.services.accounts.make_first_admin_link()
    link, name = f"{server.address}/welcome/{token}", page.get_by_label("Name")
    pages.redeem(page, link, server.password, name="Root")
    expect(page.get_by_text("small letters from a to z")).to_be_visible()
    assert name.evaluate("field => field.validity.patternMismatch")  # the browser itself says so, and sends nothing
    expect(page.get_by_label("Password", exact=True)).to_have_value(server.password)
    pages.redeem(page, link, server.password, name="eve")
    expect(page.get_by_role("alert")).to_contain_text("The name eve is taken.")
    expect(name).to_have_value("eve")
    expect(name).to_be_editable()
    expect(name).to_be_focused()
    name.fill("root")
    page.get_by_label("Password", exact=True).fill(server.password)
    page.get_by_label("Password, again").fill(server.password)
    page.get_by_label("Password, again").press("Enter")
    expect(page.get_by_label("Your message")).to_be_focused()
    assert server.site.services.accounts.find("root").name == "root"
    watched.forgive("400 (BAD REQUEST)")


@pytest.mark.parametrize(("scheme", "width", "height"), VIEWS)
def test_no_page_of_accounts_is_wider_than_the_screen(
    browser: Browser, server: Server, scheme: str, width: int, height: int
) -> None:
    site = server.site
    root = site.add_user("root", Role.ADMIN, Role.USER)
    site.add_user("trent", Role.ADMIN)
    ada = site.add_user("ada-with-a-rather-long-name", Role.USER)
    site.add_key(root)
    limited = KeyRights(frozenset({Scope.GENERATE, Scope.TOKENIZE}), requests_per_minute=60, tokens_per_day=500_000)
    for label in ("nightly report", "Donaudampfschifffahrtsgesellschaftskapitän" * 2):
        site.services.api_keys.create(root, label, by=SYSTEM, rights=limited)
    site.services.sessions.create(root, address="2001:db8:1234:5678:9abc:def0:1234:5678")
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    address = server.address
    pages.sign_in(page, address, "root", server.password)

    def look(name: str) -> None:
        if shots := os.environ.get("BROWSER_SHOTS"):
            page.screenshot(path=Path(shots) / f"{name}-{scheme}-{width}.png", full_page=True)
        assert not pages.overflows_sideways(page), name

    page.goto(f"{address}/admin")
    menu_of(page, ada.name)
    page.get_by_role("checkbox", name="Reviewer").first.check()
    look("menu")
    page.get_by_role("button", name="Save the roles").first.click()
    expect(page.get_by_role("heading", name="Change the roles of")).to_be_visible()
    look("confirm")
    page.get_by_role("button", name="Change to").click()
    expect(page.get_by_text("It waits for trent.")).to_be_visible()
    look("admin")
    page.goto(f"{address}/account")
    look("account")
    context.close()
