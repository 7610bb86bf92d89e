"""What somebody has written and not sent: it stays with its conversation, and leaves the machine with its writer."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

SECRET = "half a thought about the merger"


@pytest.fixture
def chat(page: Page, server: Server, watched: Watched) -> Page:
    """Ada's conversation with one answer."""
    for name in ("ada", "eve"):
        server.site.add_user(name)
    pages.sign_in(page, server.address, "ada", server.password)
    pages.ask(page, "ECHO one")
    pages.wait_for_answer(page)
    return page


def write(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)


def expect_written(page: Page, text: str) -> None:
    expect(page.get_by_label("Your message")).to_have_value(text)


def stored(page: Page) -> str:
    return str(page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }])"))


def sign_out(page: Page) -> None:
    page.get_by_label("Menu of ada").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_each_conversation_has_its_draft_in_every_tab(chat: Page) -> None:
    write(chat, SECRET)
    other = chat.context.new_page()
    other.goto(chat.url)
    expect_written(other, SECRET)
    other.get_by_role("link", name="New chat").click()
    expect_written(other, "")
    write(other, "another thought")
    other.reload()
    expect_written(other, "another thought")
    other.goto(chat.url)
    expect_written(other, SECRET)
    other.close()
    chat.goto("about:blank")
    chat.go_back()
    expect_written(chat, SECRET)


def test_what_is_sent_in_one_tab_is_no_draft_in_the_other(chat: Page) -> None:
    write(chat, "ECHO two")
    other = chat.context.new_page()
    other.goto(chat.url)
    other.get_by_label("Your message").press("Enter")
    pages.wait_for_answer(other)
    chat.bring_to_front()
    expect(chat.get_by_label("You asked")).to_have_count(2)  # by itself
    chat.reload()
    expect_written(chat, "")
    assert "ECHO two" not in stored(chat)


def test_signing_out_leaves_nothing_on_the_machine_in_any_tab(chat: Page) -> None:
    write(chat, SECRET)
    other = chat.context.new_page()
    other.goto(chat.url)
    expect_written(other, SECRET)
    sign_out(chat)
    expect(other.get_by_role("button", name="Sign in")).to_be_visible()
    for tab in (chat, other):
        assert SECRET not in stored(tab)
        assert SECRET not in tab.content()


def test_a_session_that_ended_gives_the_text_back_to_its_writer_alone(chat: Page, server: Server) -> None:
    address = chat.url
    write(chat, SECRET)
    chat.context.clear_cookies()
    chat.reload()
    expect(chat.get_by_role("button", name="Sign in")).to_be_visible()
    assert SECRET not in str(chat.evaluate("JSON.stringify({ ...localStorage })"))
    pages.sign_in(chat, server.address, "ada", server.password)
    chat.goto(address)
    expect_written(chat, SECRET)
    chat.context.clear_cookies()
    pages.sign_in(chat, server.address, "eve", server.password)
    expect_written(chat, "")
    assert SECRET not in stored(chat)


def test_escape_stops_an_answer_then_leaves_the_composer_and_keys_work_only_outside_it(
    chat: Page, server: Server
) -> None:
    box, keys = chat.get_by_label("Your message"), chat.get_by_role("dialog", name="Keyboard shortcuts")
    box.press_sequentially("?nyr/")
    expect_written(chat, "?nyr/")
    expect(keys).to_have_count(0)
    box.fill("")
    server.pace.hold()
    pages.ask(chat, "ECHO two\nand more")
    expect(pages.last_answer(chat)).to_contain_text("two")
    box.press("Escape")
    pages.wait_for_answer(chat)
    expect(pages.last_answer(chat).get_by_text("Stopped before the end")).to_be_visible()
    server.pace.release()
    expect(box).to_be_focused()
    box.press("Escape")
    expect(box).not_to_be_focused()
    chat.keyboard.press("?")
    expect(keys).to_be_visible()
    chat.keyboard.press("Escape")
    chat.keyboard.press("/")
    expect(chat.get_by_label("Search your conversations")).to_be_focused()
    box.focus()
    chat.keyboard.press("Escape")
    chat.keyboard.press("r")
    expect(chat.get_by_text("2/2")).to_be_visible()
    chat.keyboard.press("n")
    chat.wait_for_url("**/chat")
    expect(box).to_be_focused()


def test_a_full_storage_stops_nobody_from_writing(chat: Page, server: Server) -> None:
    chat.evaluate(
        """() => {
          for (const size of [1e6, 1e5, 1e4, 1e3, 100, 10, 1])
            try { for (let n = 0; ; n++) localStorage.setItem(`fill${size}-${n}`, "x".repeat(size)); } catch {}
        }"""
    )
    pages.ask(chat, "ECHO all the same, " + "y" * 500)
    expect(pages.wait_for_answer(chat)).to_contain_text("all the same")
    chat.evaluate("localStorage.clear()")
