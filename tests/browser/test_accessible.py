"""Every page, open menu and dialog is clean by axe-core (WCAG 2.2 AA), light and dark, narrow and wide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from appliance.people.accounts import Role
from tests.browser import pages
from tests.browser.accessible import faults
from tests.browser.conftest import Server
from tests.browser.pages import Watched
from tests.webui.conftest import SYSTEM

QUESTION = "How do I check an archive?"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.mark.parametrize("width", [360, 1280])
def test_every_page_menu_and_dialog_is_clean(page: Page, server: Server, watched: Watched, width: int) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 720})
    found, seen = list[str](), 0
    for state in states(page, server, narrow=width < 720):
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            if shots := os.environ.get("BROWSER_SHOTS"):
                page.screenshot(path=Path(shots) / f"{state}-{scheme}-{width}.png")
            rules = [] if scheme == SCHEMES[0] else ["color-contrast"]  # no other rule depends on the colours
            found += [f"{state}, {scheme}: {fault}" for fault in faults(page, rules)]
        seen += 1
    assert found == []
    assert seen > 18
    watched.forgive("40")  # the refused sign-in and the page that is not there
    watched.forgive("does not conform")  # the date that is none


def states(page: Page, server: Server, *, narrow: bool) -> Iterator[str]:
    """Every state of every page, one after the other."""
    yield from _of_strangers(page, server)
    yield from _of_the_chat(page, server, narrow=narrow)
    yield from _of_the_review(page, server)
    yield from _of_accounts(page, server)


def _of_strangers(page: Page, server: Server) -> Iterator[str]:
    root = server.site.add_user("root", *Role)
    page.goto(f"{server.address}/welcome/{server.site.services.accounts.make_reset_link(root.id, by=SYSTEM)}")
    yield "welcome"
    page.goto(f"{server.address}/sign-in")
    yield "sign-in"
    page.get_by_label("Name").fill("root")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    yield "sign-in-refused"
    pages.sign_in(page, server.address, "root", server.password)


def _of_the_chat(page: Page, server: Server, *, narrow: bool) -> Iterator[str]:
    yield "chat-new"
    server.pace.hold()
    pages.ask(page, QUESTION)
    expect(pages.last_answer(page).get_by_text("three steps")).to_be_visible()
    yield "chat-answering"
    server.pace.release()
    answer = pages.wait_for_answer(page)
    answer.get_by_text("Details").click()
    answer.get_by_text("Thought for").click()
    yield "chat"
    page.get_by_label("Menu of root").click()
    yield "menu"
    page.get_by_role("button", name="Keyboard shortcuts").click()
    yield "keys"
    page.keyboard.press("Escape")
    if narrow:
        page.get_by_role("button", name="Conversations").click()
        yield "drawer"
    for action in ("Rename", "Delete"):
        item = page.get_by_label(f"Actions for {QUESTION}")
        item.focus()
        item.press("Enter")
        if action == "Rename":
            yield "list-menu"
        page.get_by_role("navigation", name="Conversations").get_by_role("button", name=action).click()
        yield action.lower()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.goto(f"{page.url}/print")
    yield "print"


def _of_the_review(page: Page, server: Server) -> Iterator[str]:
    pages.open_review(page, server.address, action="turns").first.click()
    expect(page.locator("[data-proof]")).to_be_visible()
    yield "event"
    page.goto(f"{server.address}/review?since=x")
    yield "review-refused"
    page.goto(f"{server.address}/review")
    yield "review"
    page.goto(f"{server.address}/review/integrity")
    page.get_by_role("button", name="Verify everything now").click()
    expect(page.get_by_role("heading", name="Everything was checked just now")).to_be_visible()
    yield "integrity"


def _of_accounts(page: Page, server: Server) -> Iterator[str]:
    server.site.add_user("ada")
    page.goto(f"{server.address}/admin")
    page.get_by_label("Change ada").click()
    yield "admin-menu"
    page.get_by_role("button", name="Disable", exact=True).click()
    yield "confirm"
    page.goto(f"{server.address}/admin")
    page.get_by_role("textbox", name="Name").fill("grace")
    page.get_by_role("button", name="Add", exact=True).click()
    yield "admin"
    for path in sections_of_the_administration(server):
        page.goto(server.address + path)
        yield path.strip("/").replace("/", "-")
    page.goto(f"{server.address}/account")
    page.get_by_label("What is the new key for?").fill("nightly")
    page.get_by_role("button", name="Make a key").click()
    yield "account"
    page.goto(f"{server.address}/nowhere")
    yield "error"


def sections_of_the_administration(server: Server) -> list[str]:
    """Every page of the administration that needs nothing else in its address, those of later releases included."""
    rules = [rule for rule in server.site.app.url_map.iter_rules() if rule.endpoint.startswith("admin.")]
    pages_of = [rule.rule for rule in rules if "GET" in (rule.methods or ()) and not rule.arguments]
    answers = {path: server.site.browser(server.site.services.accounts.find("root")).get(path) for path in pages_of}
    found = [path for path, answer in answers.items() if answer.mimetype == "text/html" and path != "/admin"]
    assert len(found) > 3
    return found
