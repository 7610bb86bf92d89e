"""Dialogs as a keyboard reaches them: Enter does what the person came for, and never what is dangerous."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from appliance.people.conversation_list import View
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched


@pytest.fixture
def listed(page: Page, server: Server, watched: Watched) -> Page:
    """The chat of somebody with one conversation."""
    ada = server.site.add_user("ada")
    server.site.services.conversations.create(ada.id, title="Archives")
    pages.sign_in(page, server.address, "ada", server.password)
    return page


def choose(page: Page, action: str) -> None:
    page.get_by_label("Actions for Archives").click()
    page.get_by_role("button", name=action).click()


def titles(server: Server) -> list[str]:
    ada = server.site.services.accounts.find("ada")
    return [one.conversation.title for one in server.site.services.conversations.lists.page(ada.id, View()).items]


def test_enter_renames_and_the_other_ways_out_change_nothing(listed: Page, server: Server) -> None:
    field = listed.get_by_label("Title")
    choose(listed, "Rename")
    field.fill("Changed, then cancelled")
    listed.get_by_role("button", name="Cancel").click()
    expect(field).to_be_hidden()
    choose(listed, "Rename")
    field.fill("Changed, then left")
    field.press("Escape")
    expect(field).to_be_hidden()
    assert titles(server) == ["Archives"]
    choose(listed, "Rename")
    field.fill("About archives")
    field.press("Enter")
    expect(listed.get_by_role("link", name="About archives")).to_be_visible()
    assert titles(server) == ["About archives"]


def test_enter_deletes_only_after_the_choice_of_the_button(listed: Page, server: Server) -> None:
    dialog = listed.get_by_role("dialog")
    choose(listed, "Delete")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    listed.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    assert titles(server) == ["Archives"]
    choose(listed, "Delete")
    dialog.get_by_role("button", name="Delete").press("Enter")
    expect(listed.get_by_text("Your conversations will be listed here.")).to_be_visible()
    assert titles(server) == []


def test_no_dialog_is_left_by_the_first_button_that_enter_would_press(listed: Page) -> None:
    """Enter in a field presses the form's first submit button: it must not be the one that changes nothing."""
    faults = listed.evaluate(
        """() => [...document.querySelectorAll("dialog form")]
          .filter((form) => form.querySelector("input"))
          .filter((form) => form.querySelector("button:not([type=button])")?.value !== "yes")
          .map((form) => form.outerHTML.slice(0, 200))"""
    )
    assert faults == []
