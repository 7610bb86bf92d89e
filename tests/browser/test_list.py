"""The list of conversations in a real browser: older pages, filing, the archive, and hits of a search."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from appliance.people.conversations import NewMessage
from appliance.turns.answer import Facts
from tests.browser import pages
from tests.browser.accessible import faults
from tests.browser.conftest import Server
from tests.browser.pages import Watched


@pytest.fixture
def signed_in(page: Page, server: Server, watched: Watched) -> Page:
    """Somebody with 120 conversations, of which the oldest is called talk 0."""
    user, store = server.site.add_user("ada"), server.site.services.conversations
    for number in range(120):
        store.create(user.id, title=f"talk {number}")
    pages.sign_in(page, server.address, "ada", server.password)
    return page


def items(page: Page) -> int:
    return page.locator("[data-item]").count()


def test_scrolling_brings_the_older_ones_under_one_heading(signed_in: Page) -> None:
    listed = signed_in.locator("[data-item]")
    expect(listed).to_have_count(50)
    for count in (100, 120):
        signed_in.locator("[data-list-body]").evaluate("(body) => body.scrollTo(0, body.scrollHeight)")
        expect(listed).to_have_count(count)
    expect(signed_in.get_by_role("link", name="talk 0", exact=True)).to_be_visible()
    expect(signed_in.get_by_role("button", name="Older conversations")).to_have_count(0)
    expect(signed_in.get_by_role("heading", name="Today")).to_have_count(1)
    # An answer draws the list again; what was reached stays.
    pages.ask(signed_in, "ECHO one")
    pages.wait_for_answer(signed_in)
    expect(signed_in.get_by_role("link", name="ECHO one")).to_be_attached()
    assert items(signed_in) == 120


def test_a_conversation_is_filed_by_keyboard_and_found_by_its_view(signed_in: Page) -> None:
    signed_in.get_by_role("link", name="talk 119", exact=True).click()
    signed_in.wait_for_url("**/chat/*")  # the page before has the same link, and no conversation to file
    signed_in.get_by_role("link", name="Northgate").focus()
    signed_in.keyboard.press("m")
    dialog = signed_in.get_by_role("dialog", name="Folder and tags")
    expect(dialog.get_by_label("Folder")).to_be_focused()
    signed_in.keyboard.type("Work")
    signed_in.keyboard.press("Tab")
    signed_in.keyboard.type("tax, 2026")
    signed_in.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    view = signed_in.get_by_label("Show")
    expect(view.locator("option")).to_have_text(["All conversations", "Work", "#2026", "#tax"])
    view.select_option("tag:tax")
    expect(signed_in.locator("[data-item]")).to_have_count(1)
    expect(signed_in.locator("[data-item]")).to_contain_text("Work")
    signed_in.get_by_label("Actions for talk 119").click()
    signed_in.get_by_role("button", name="Folder and tags…").click()
    dialog.get_by_role("button", name="#tax").click()
    expect(dialog.get_by_label("Tags", exact=True)).to_have_value("2026")
    dialog.get_by_role("button", name="Save").click()
    expect(signed_in.locator("[data-item]")).to_have_count(50)  # nothing has the tag any more
    expect(view).to_have_value("")


def test_a_menu_at_the_bottom_of_the_list_opens_upwards(signed_in: Page) -> None:
    last = signed_in.get_by_label("Actions for talk 112", exact=True)
    last.scroll_into_view_if_needed()
    signed_in.locator("[data-list-body]").evaluate("(body) => body.scrollTo(0, 0)")
    for number in range(119, 100, -1):
        summary = signed_in.get_by_label(f"Actions for talk {number}", exact=True)
        box, body = summary.bounding_box(), signed_in.locator("[data-list-body]").bounding_box()
        assert box is not None
        assert body is not None
        if box["y"] + 2 * box["height"] > body["y"] + body["height"]:
            break
        last = summary
    last.click()
    expect(last.locator("..").get_by_role("button", name="Delete")).to_be_in_viewport()
    expect(last.locator("..").get_by_role("button", name="Rename")).to_be_in_viewport()


def test_a_conversation_goes_to_the_archive_and_comes_back(signed_in: Page) -> None:
    signed_in.get_by_label("Actions for talk 119").click()
    signed_in.get_by_role("button", name="Archive", exact=True).click()
    expect(signed_in.get_by_role("link", name="talk 119", exact=True)).to_have_count(0)
    signed_in.get_by_label("Show").select_option("Archive")
    expect(signed_in.locator("[data-item]")).to_have_count(1)
    signed_in.get_by_label("Actions for talk 119").click()
    signed_in.get_by_role("button", name="Take out of the archive").click()
    expect(signed_in.locator("[data-item]")).to_have_count(50)  # the archive is empty, so the list is shown again
    expect(signed_in.get_by_label("Show")).to_have_value("")
    expect(signed_in.get_by_role("link", name="talk 119", exact=True)).to_be_visible()


def test_a_hit_leads_to_its_message_on_its_branch(signed_in: Page, server: Server) -> None:
    store = server.site.services.conversations
    (user,) = [user for user in server.site.services.accounts.list_users() if user.name == "ada"]
    made = store.create(user.id, title="Kitchen").id
    question = store.append(user.id, made, NewMessage("user", "What soup is there?"))
    store.append(user.id, made, NewMessage("assistant", "Borscht, with beetroots." + "\n\nmore" * 60))
    store.append(user.id, made, NewMessage("assistant", "No idea."), parent_id=question.id)
    signed_in.keyboard.press("Escape")
    signed_in.get_by_role("searchbox", name="Search your conversations").fill("BEETR")
    hit = signed_in.get_by_role("link", name="Answer: Borscht, with beetroots.")
    expect(hit.locator("mark")).to_have_text("beetr")
    hit.focus()
    signed_in.keyboard.press("Enter")
    expect(signed_in).to_have_url(re.compile(rf"/chat/{made}#message-[0-9a-f]{{16}}$"))
    expect(pages.last_answer(signed_in).get_by_text("Borscht, with beetroots.")).to_be_in_viewport()
    expect(signed_in.get_by_text("1/2")).to_be_visible()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_hits_dialogs_and_the_form_of_a_question_are_accessible(
    signed_in: Page, server: Server, scheme: Literal["light", "dark"], width: int
) -> None:
    store, user = server.site.services.conversations, server.site.services.accounts.find("ada")
    made = store.create(user.id, title="Kitchen").id
    store.append(user.id, made, NewMessage("user", "What soup is there?"))
    store.append(user.id, made, NewMessage("assistant", "Borscht.", facts=Facts(imported="ChatGPT")))
    store.lists.file(user.id, made, folder="Recipes", tags=["food"])
    store.pin(user.id, made, pinned=True)
    signed_in.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    signed_in.set_viewport_size({"width": width, "height": 720})
    signed_in.goto(f"{server.address}/chat/{made}")
    signed_in.get_by_role("button", name="Edit").press("Enter")
    found = {"edit": faults(signed_in)}
    signed_in.keyboard.press("Escape")
    if width < 720:
        signed_in.get_by_role("button", name="Conversations").click()
    for dialog in ("Folder and tags…", "Export…"):
        signed_in.get_by_label("Actions for Kitchen").press("Enter")
        found[f"menu, then {dialog}"] = faults(signed_in)
        signed_in.get_by_role("button", name=dialog).click()
        found[dialog] = faults(signed_in)
        signed_in.keyboard.press("Escape")
    signed_in.get_by_role("button", name="Import conversations").click()
    found["import"] = faults(signed_in)
    signed_in.keyboard.press("Escape")
    signed_in.get_by_role("searchbox", name="Search your conversations").fill("soup")
    expect(signed_in.locator("mark")).to_have_count(1)
    found["hits"] = faults(signed_in)
    assert {state: list(fault) for state, fault in found.items() if fault} == {}
