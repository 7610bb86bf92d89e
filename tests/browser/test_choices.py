"""The fold below the composer: sampling and instructions, by keyboard, kept for the conversation."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pages
from tests.browser.accessible import faults
from tests.browser.conftest import Server
from tests.browser.pages import Watched


@pytest.fixture
def chat(page: Page, server: Server, watched: Watched) -> Page:
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    return page


def first_role(server: Server) -> str:
    return server.site.engine.requests[-1].messages[0].role


def test_settings_are_chosen_by_keyboard_sent_and_kept(chat: Page, server: Server) -> None:
    fold = chat.locator("[data-settings] > summary")
    fold.focus()
    chat.keyboard.press("Enter")
    assert faults(chat) == []
    chat.get_by_label("Temperature").fill("0.3")
    chat.get_by_label("Seed").fill("12")
    expect(fold).to_have_text("Settings: temperature 0.3, seed 12")
    pages.ask(chat, "Hello")
    pages.wait_for_answer(chat)
    asked = server.site.engine.requests[-1]
    assert (asked.temperature, asked.seed) == (0.3, 12)
    chat.reload()
    expect(fold).to_have_text("Settings: temperature 0.3, seed 12")
    fold.click()
    chat.get_by_role("button", name="Back to the model's own").click()
    expect(fold).to_have_text("Settings")
    chat.get_by_role("button", name="Answer again").click()
    pages.wait_for_answer(chat)
    assert server.site.engine.requests[-1].temperature == 1.0


def test_a_wrong_value_is_said_and_the_question_stays(chat: Page, server: Server, watched: Watched) -> None:
    chat.locator("[data-settings] > summary").click()
    chat.get_by_label("Temperature").fill("3")
    pages.ask(chat, "Hello")
    expect(chat.get_by_role("alert")).to_contain_text("The temperature is a number from 0 to 2.")
    expect(chat.get_by_role("textbox", name="Your message")).to_have_value("Hello")
    assert server.site.engine.requests == []
    watched.forgive("400 (BAD REQUEST)")


def test_instructions_are_written_used_and_left_out(chat: Page, server: Server) -> None:
    chat.locator("[data-settings] > summary").click()
    chat.get_by_role("link", name="on your account page").click()
    chat.get_by_label("Text, at most 8,000 characters").fill("Answer in one sentence.")
    chat.get_by_role("button", name="Keep the instructions").click()
    expect(chat.get_by_role("status")).to_contain_text("Your instructions are kept")
    assert faults(chat) == []
    chat.goto(f"{server.address}/chat")
    fold = chat.locator("[data-settings] > summary")
    expect(fold).to_have_text("Settings: your instructions")
    pages.ask(chat, "Hello")
    pages.wait_for_answer(chat)
    assert first_role(server) == "developer"
    fold.click()
    chat.get_by_label("The model reads your instructions first").uncheck()
    pages.ask(chat, "And now?")
    pages.wait_for_answer(chat)
    assert first_role(server) == "user"
    chat.reload()
    expect(fold).to_have_text("Settings")


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_the_open_fold_leaves_the_composer_on_the_screen(chat: Page, width: int) -> None:
    chat.set_viewport_size({"width": width, "height": 740})
    chat.locator("[data-settings] > summary").click()
    expect(chat.get_by_role("button", name="Send")).to_be_in_viewport()
    assert chat.evaluate("document.documentElement.scrollWidth") == width
