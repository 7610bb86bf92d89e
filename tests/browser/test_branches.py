"""Editing a question and going from branch to branch, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched


@pytest.fixture
def asked(page: Page, server: Server, watched: Watched) -> Page:
    """Two questions with their answers."""
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    for text in ("ECHO one", "ECHO two"):
        pages.ask(page, text)
        pages.wait_for_answer(page)
    return page


def questions(page: Page) -> list[str]:
    return page.get_by_role("article", name="You asked").all_inner_texts()


def test_a_question_is_edited_by_keyboard_and_both_branches_stay(asked: Page, server: Server) -> None:
    first = asked.get_by_role("region", name="Question").first
    first.get_by_role("button", name="Edit").focus()
    asked.keyboard.press("Enter")
    text = asked.get_by_label("The question", exact=True)
    expect(text).to_be_focused()
    expect(text).to_have_value("ECHO one")
    text.fill("ECHO uno")
    asked.keyboard.press("Enter")
    expect(pages.wait_for_answer(asked)).to_contain_text("uno")
    expect(asked.get_by_role("article", name="You asked")).to_have_count(1)
    assert questions(asked) == ["ECHO uno"]
    expect(asked.get_by_text("2/2")).to_be_visible()
    asked.get_by_role("button", name="Earlier version").click()
    expect(asked.get_by_text("1/2")).to_be_visible()
    assert questions(asked) == ["ECHO one", "ECHO two"]
    expect(asked).to_have_url(re.compile(r"#message-[0-9a-f]{16}$"))
    asked.get_by_role("button", name="Later version").click()
    expect(asked.get_by_text("2/2")).to_be_visible()
    assert questions(asked) == ["ECHO uno"]
    prompts = [event for event in server.site.events() if event.header.action == "prompt"]
    assert [event.content.text for event in prompts if event.content] == ["ECHO one", "ECHO two", "ECHO uno"]


def test_e_edits_the_last_question_and_escape_gives_it_back(asked: Page, server: Server) -> None:
    asked.get_by_role("link", name="Northgate").focus()
    asked.keyboard.press("e")
    text = asked.get_by_label("The question", exact=True)
    expect(text).to_have_value("ECHO two")
    text.fill("something else")
    asked.keyboard.press("Escape")
    expect(asked.get_by_label("The question", exact=True)).to_have_count(0)
    expect(asked.get_by_role("button", name="Edit").last).to_be_focused()
    assert questions(asked) == ["ECHO one", "ECHO two"]
    assert len(server.site.engine.requests) == 2


def test_an_edited_question_that_is_refused_keeps_what_was_typed(asked: Page, server: Server, watched: Watched) -> None:
    asked.get_by_role("button", name="Edit").last.click()
    text = asked.get_by_label("The question", exact=True)
    text.fill("ECHO three")
    asked.route("**/turns", lambda route: route.abort())
    asked.get_by_role("button", name="Ask", exact=True).click()
    expect(asked.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(text).to_have_value("ECHO three")
    asked.unroute("**/turns")
    asked.get_by_role("button", name="Ask", exact=True).click()
    expect(pages.wait_for_answer(asked)).to_contain_text("three")
    watched.forgive("ERR_FAILED")


def test_an_edited_question_outlives_a_reload(asked: Page, server: Server) -> None:
    server.pace.hold()
    asked.get_by_role("button", name="Edit").last.click()
    asked.get_by_label("The question", exact=True).fill("ECHO three\nand on")
    asked.get_by_role("button", name="Ask", exact=True).click()
    expect(pages.last_answer(asked).get_by_text("three")).to_be_visible()
    asked.reload()
    expect(pages.last_answer(asked).get_by_text("three")).to_be_visible()
    server.pace.release()
    expect(pages.wait_for_answer(asked)).to_contain_text("and on")
    assert questions(asked)[0] == "ECHO one"
    expect(asked.get_by_text("2/2")).to_be_visible()


def test_a_question_is_copied_as_it_was_written(asked: Page) -> None:
    asked.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pages.ask(asked, "ECHO **three**\n\n- a")
    pages.wait_for_answer(asked)
    asked.get_by_role("region", name="Question").last.get_by_role("button", name="Copy").click()
    expect(asked.get_by_role("region", name="Question").last.get_by_text("Copied")).to_be_visible()
    assert asked.evaluate("navigator.clipboard.readText()") == "ECHO **three**\n\n- a"


def test_a_stopped_answer_is_continued_in_its_place(asked: Page, server: Server) -> None:
    server.pace.hold()
    pages.ask(asked, "ECHO three\nand on")
    expect(pages.last_answer(asked).get_by_text("three")).to_be_visible()
    asked.get_by_role("button", name="Stop").click()
    answer = pages.wait_for_answer(asked)
    expect(answer.get_by_text("Stopped before the end")).to_be_visible()
    asked.get_by_role("button", name="Continue").focus()
    asked.keyboard.press("Enter")
    expect(pages.last_answer(asked)).to_contain_text("three")
    asked.reload()  # in the middle of it
    expect(pages.last_answer(asked)).to_contain_text("three")
    server.pace.release()
    answer = pages.wait_for_answer(asked)
    expect(answer).to_contain_text("three")
    expect(answer).to_contain_text("What is not signed is not used.")
    expect(answer.get_by_text("Stopped before the end")).to_have_count(0)
    expect(asked.get_by_role("button", name="Continue")).to_have_count(0)
    expect(asked.get_by_role("article", name="Answer")).to_have_count(3)
    answer.get_by_text("Details").click()
    expect(answer.get_by_text("Continued", exact=True)).to_be_visible()
