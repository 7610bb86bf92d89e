"""Every page, open menu and dialog is clean by axe-core (WCAG 2.2 AA), light and dark, narrow and wide."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from appliance.people.accounts import Role
from appliance.people.conversation_list import View
from tests.browser import pages
from tests.browser.accessible import faults
from tests.browser.conftest import Server
from tests.browser.pages import Watched
from tests.webui.conftest import SYSTEM

QUESTION = "How do I check an archive?"
PICTURES = Path(__file__).parents[2] / "docs" / "images"
GALLERY_HEAD = """# Every page, menu and dialog

Light, 1280 x 720 px. `pytest tests/browser/test_accessible.py --write-docs` takes these pictures, with an engine that
plays a script. The same states are judged by axe-core, in light and dark, at 360 and 1280 px."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.mark.parametrize("width", [360, 1280])
def test_every_page_menu_and_dialog_is_clean(
    page: Page, server: Server, watched: Watched, pytestconfig: pytest.Config, width: int
) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 720})
    found, seen, is_wide = list[str](), list[str](), width == 1280
    for state in states(page, server, narrow=not is_wide):
        if is_wide and pytestconfig.getoption("--write-docs"):
            page.emulate_media(color_scheme="light")
            page.screenshot(path=PICTURES / f"{state}.png")
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            if shots := os.environ.get("BROWSER_SHOTS"):
                page.screenshot(path=Path(shots) / f"{state}-{scheme}-{width}.png")
            rules = [] if scheme == SCHEMES[0] else ["color-contrast"]  # no other rule depends on the colours
            found += [f"{state}, {scheme}: {fault}" for fault in faults(page, rules)]
        seen.append(state)
    assert found == []
    assert len(seen) > 18
    if is_wide:
        if pytestconfig.getoption("--write-docs"):
            write_gallery(seen)
        assert {path.stem for path in PICTURES.glob("*.png")} == set(seen), "run this test with --write-docs"
    watched.forgive("40")  # the refused sign-in and the page that is not there
    watched.forgive("does not conform")  # the date that is none


def write_gallery(names: Sequence[str]) -> None:
    """The page of docs/ that shows every picture, in the order in which they were taken; others are removed."""
    for path in PICTURES.glob("*.png"):
        if path.stem not in names:
            path.unlink()
    shown = "\n\n".join(f"## {name}\n\n![{name}]({name}.png)" for name in names)
    (PICTURES / "README.md").write_text(f"{GALLERY_HEAD}\n\n{shown}\n")


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
    conversation = page.url
    for part in ("print", "sharing"):
        page.goto(f"{conversation}/{part}")
        yield part
    for part in ("prompts", "shared"):
        page.goto(f"{server.address}/chat/{part}")
        yield part


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
    for name, style in (("OFFICIAL", "grey"), ("SECRET", "amber"), ("TOP SECRET", "red")):
        server.site.services.markings.add(name, style, by=SYSTEM)
    root = server.site.services.accounts.find("root")
    marked = server.site.services.conversations.lists.page(root.id, View()).items[0].conversation
    page.goto(f"{server.address}/chat/{marked.id}/marking")
    yield "marking"
    page.get_by_role("radio", name="SECRET", exact=True).check()
    page.get_by_role("button", name="Mark the conversation").click()
    yield "chat-marked"
    page.goto(f"{server.address}/admin/markings")
    yield "admin-markings-made"


def sections_of_the_administration(server: Server) -> list[str]:
    """Every page of the administration that needs nothing else in its address, those of later releases included."""
    rules = [rule for rule in server.site.app.url_map.iter_rules() if rule.endpoint.startswith("admin.")]
    pages_of = [rule.rule for rule in rules if "GET" in (rule.methods or ()) and not rule.arguments]
    answers = {path: server.site.browser(server.site.services.accounts.find("root")).get(path) for path in pages_of}
    found = [path for path, answer in answers.items() if answer.mimetype == "text/html" and path != "/admin"]
    assert len(found) > 3
    return found
