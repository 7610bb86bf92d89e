"""The menu of prompts in the composer, by keyboard alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pages
from tests.browser.accessible import faults
from tests.browser.conftest import Server
from tests.browser.pages import Watched
from tests.webui.conftest import SYSTEM


@pytest.fixture
def chat(page: Page, server: Server, watched: Watched) -> Page:
    ada, library = server.site.add_user("ada"), server.site.services.prompts
    library.add(ada.id, "Letter", "Write a letter to {{whom}} about {{what}}.", by=SYSTEM)
    library.add(ada.id, "Poem", "Write a poem.", by=SYSTEM)
    library.add(None, "Summary", "Sum up the text.", by=SYSTEM)
    pages.sign_in(page, server.address, "ada", server.password)
    return page


SELECTED = """() => {
  const { value, selectionStart, selectionEnd } = document.activeElement;
  return value.slice(selectionStart, selectionEnd);
}"""


def test_a_slash_opens_it_and_the_first_blank_is_typed_over(chat: Page) -> None:
    text = chat.get_by_role("textbox", name="Your message")
    text.press("/")
    search = chat.get_by_role("combobox", name="Search")
    expect(search).to_be_focused()
    expect(chat.get_by_role("listbox").get_by_role("option")).to_have_count(3)
    assert faults(chat) == []
    chat.keyboard.type("letter")
    expect(chat.get_by_role("listbox").get_by_role("option")).to_have_count(1)
    chat.keyboard.press("Enter")
    expect(text).to_be_focused()
    expect(text).to_have_value("Write a letter to {{whom}} about {{what}}.")
    assert chat.evaluate(SELECTED) == "{{whom}}"
    chat.keyboard.type("Grace")
    expect(text).to_have_value("Write a letter to Grace about {{what}}.")


def test_arrows_choose_and_what_was_written_stays(chat: Page) -> None:
    text = chat.get_by_role("textbox", name="Your message")
    text.fill("Dear model.")
    text.press("Escape")
    chat.keyboard.press("p")
    search = chat.get_by_role("combobox", name="Search")
    chosen = chat.get_by_role("listbox").locator("[aria-selected=true]")
    expect(search).to_be_focused()
    expect(chosen).to_contain_text("Letter")
    chat.keyboard.press("ArrowUp")
    expect(chosen).to_contain_text("Shared. Sum up the text.")
    assert search.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    chat.keyboard.press("Enter")
    expect(text).to_have_value("Dear model.\n\nSum up the text.")


def test_a_slash_inside_a_text_is_a_slash_and_escape_changes_nothing(chat: Page) -> None:
    text = chat.get_by_role("textbox", name="Your message")
    text.press_sequentially("and/or")
    expect(text).to_have_value("and/or")
    chat.get_by_role("button", name="Prompts", exact=True).click()
    chat.keyboard.type("nothing like it")
    expect(chat.get_by_text("No prompt has these words.")).to_be_visible()
    chat.keyboard.press("Escape")
    expect(chat.get_by_role("dialog")).to_have_count(0)
    expect(text).to_have_value("and/or")


def test_the_page_of_prompts_is_used_by_keyboard(chat: Page, server: Server) -> None:
    chat.get_by_role("button", name="Prompts", exact=True).click()
    chat.get_by_role("link", name="Your prompts").click()
    chat.get_by_label("Title").fill("Check")
    chat.get_by_label("Text").fill("Check {{this}}.")
    chat.get_by_role("button", name="Keep the prompt").press("Enter")
    expect(chat.get_by_role("status")).to_contain_text("The prompt is kept.")
    for width in (360, 1280):
        chat.set_viewport_size({"width": width, "height": 740})
        assert faults(chat) == []
        assert chat.evaluate("document.documentElement.scrollWidth") == width
    chat.get_by_role("link", name="Change Check").press("Enter")
    expect(chat.get_by_label("Text")).to_have_value("Check {{this}}.")
