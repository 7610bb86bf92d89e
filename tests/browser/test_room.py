"""A conversation that gets full: what is left is said, and there is always a way on. The fake counts characters."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

LONG = "ECHO " + "a" * 900
TOO_MUCH = "ECHO " + "b" * 600


@pytest.fixture
def full(page: Page, server: Server, watched: Watched) -> Page:
    """A conversation of two turns, into which TOO_MUCH does not fit."""
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    for _ in range(2):
        pages.ask(page, LONG)
        pages.wait_for_answer(page)
    return page


def room(page: Page) -> str:
    return page.locator("[data-room]").text_content() or ""


def test_the_room_is_said_beside_the_composer_while_a_question_is_written(full: Page) -> None:
    line = full.locator("[data-room]")
    expect(line).to_have_text(re.compile(r"^3,\d{3} of 4,096 tokens$|^Only"))
    full.get_by_role("link", name="New chat").click()
    expect(line).to_have_text("")
    full.get_by_label("Your message").fill("x" * 100)
    expect(line).to_have_text("100 of 4,096 tokens")
    full.get_by_label("Your message").fill("x" * 3900)
    expect(line).to_have_text("Only 196 tokens are left for the answer. It may be cut off.")
    full.get_by_label("Your message").fill("x" * 5000)
    expect(full.get_by_text("Your question is too long. It has 5,000 tokens")).to_be_visible()
    expect(full.get_by_role("button", name="Start a new chat with a summary")).to_be_hidden()
    full.get_by_label("Your message").press("Enter")
    expect(full.get_by_label("Your message")).to_have_value("x" * 5000)
    full.get_by_label("Your message").fill("")
    expect(full.get_by_text("Your question is too long.")).to_be_hidden()


def test_a_question_sent_before_it_is_counted_stays_in_the_composer(full: Page, watched: Watched) -> None:
    full.route("**/room", lambda route: route.abort())
    pages.ask(full, TOO_MUCH)
    expect(full.get_by_role("alert")).to_contain_text("This does not fit.")
    expect(full.get_by_label("Your message")).to_have_value(TOO_MUCH)
    expect(full.get_by_role("article", name="You asked")).to_have_count(2)
    watched.forgive("ERR_FAILED")
    watched.forgive("400 (BAD REQUEST)")


def test_the_oldest_messages_are_left_out_and_the_question_goes(full: Page, server: Server) -> None:
    full.get_by_label("Your message").fill(TOO_MUCH)
    expect(full.get_by_text("This does not fit.")).to_be_visible()
    full.get_by_role("button", name="Leave out the 2 oldest messages").click()
    expect(full.get_by_text("This does not fit.")).to_be_hidden()
    full.get_by_label("Your message").press("Enter")
    expect(full.get_by_text("2 earlier messages are no longer read by the model.")).to_be_visible()
    expect(pages.wait_for_answer(full)).to_contain_text("b" * 600)
    assert [len(message.content) for message in server.site.engine.requests[-1].messages] == [905, 901, 605]
    expect(full.get_by_label("Your message")).to_have_value("")


def test_a_new_chat_begins_with_a_summary_and_takes_the_question_along(full: Page, server: Server) -> None:
    earlier = full.url
    full.get_by_label("Your message").fill(TOO_MUCH)
    full.get_by_role("button", name="Start a new chat with a summary").click()
    full.wait_for_url(lambda url: url != earlier)
    pages.wait_for_answer(full)
    expect(full.get_by_text("This chat goes on from")).to_be_visible()
    expect(full.get_by_label("Your message")).to_have_value(TOO_MUCH)
    full.get_by_label("Your message").press("Enter")
    expect(pages.wait_for_answer(full)).to_contain_text("b" * 600)
    full.get_by_text("This chat goes on from").get_by_role("link").click()
    expect(full).to_have_url(earlier)


def test_a_full_conversation_says_so_before_anything_is_written(full: Page) -> None:
    pages.ask(full, "ECHO " + "c" * 150)
    pages.wait_for_answer(full)
    expect(full.get_by_text("This conversation is full.")).to_be_visible()
    full.reload()
    expect(full.get_by_text("This conversation is full.")).to_be_visible()
    full.get_by_role("button", name="Leave out the").click()
    expect(full.get_by_text("This conversation is full.")).to_be_hidden()
    full.get_by_role("button", name="Answer again").click()
    expect(full.get_by_text("earlier messages are no longer read by the model.")).to_be_visible()
    pages.wait_for_answer(full)
