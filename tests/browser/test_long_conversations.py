"""A long conversation opens at its end; earlier turns come when the reader scrolls up, and nothing jumps."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from appliance.people.conversations import NewMessage
from appliance.turns.answer import Facts
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

TURNS = 45
TEXT = "\n\n".join(f"Paragraph {number} of a longer answer, with `code` and words." for number in range(6))


@pytest.fixture
def opened(page: Page, server: Server, watched: Watched) -> Page:
    """The end of a conversation of many turns."""
    kept, ada = server.site.services.conversations, server.site.add_user("ada")
    made = kept.create(ada.id, title="Long")
    for number in range(TURNS):
        kept.append(ada.id, made.id, NewMessage("user", f"Question {number}?"))
        kept.append(ada.id, made.id, NewMessage("assistant", f"Answer {number}.\n\n{TEXT}", facts=Facts()))
    pages.sign_in(page, server.address, "ada", server.password)
    page.goto(f"{server.address}/chat/{made.id}")
    return page


def test_it_opens_at_its_end_with_the_last_turns_alone(opened: Page) -> None:
    expect(opened.get_by_text(f"Answer {TURNS - 1}.", exact=True)).to_be_in_viewport()
    opened.wait_for_load_state("networkidle")
    assert opened.get_by_role("article", name="Answer").count() < 25


def test_scrolling_up_brings_the_beginning_and_keeps_the_place(opened: Page) -> None:
    area = opened.locator("[data-scroll]")
    reading = opened.get_by_text("Question 36?", exact=True)
    reading.evaluate("one => one.scrollIntoView({ block: 'center' })")
    before = reading.bounding_box()
    for _ in range(2):  # the page may be bringing a part already, and then a click brings no other
        opened.wait_for_load_state("networkidle")
        opened.get_by_role("button", name="Earlier questions and answers").evaluate("one => one.click()")
    expect(opened.get_by_text("Question 20?", exact=True)).to_have_count(1)
    after = reading.bounding_box()
    assert before is not None
    assert after is not None
    assert abs(before["y"] - after["y"]) < 3
    for _ in range(TURNS):
        area.evaluate("one => { one.scrollTop = 0; }")
        if opened.get_by_text("Question 0?", exact=True).count():
            break
        opened.wait_for_load_state("networkidle")
    expect(opened.get_by_text("Question 0?", exact=True)).to_be_attached()
    expect(opened.locator("[data-earlier]")).to_be_hidden()
    asked = opened.locator("[data-turns] [data-words]").all_inner_texts()
    assert asked == [f"Question {number}?" for number in range(TURNS)]


def test_a_message_that_the_address_names_is_found_far_above(opened: Page, server: Server) -> None:
    ada = server.site.services.accounts.find("ada")
    conversation = opened.url.rpartition("/")[2]
    message = server.site.services.conversations.messages(ada.id, conversation)[6].id
    opened.goto("about:blank")
    opened.goto(f"{server.address}/chat/{conversation}#message-{message}")
    expect(opened.get_by_text("Question 3?", exact=True)).to_be_in_viewport()


def test_a_lost_connection_is_said_and_the_button_tries_again(opened: Page, watched: Watched) -> None:
    opened.wait_for_load_state("networkidle")
    opened.context.set_offline(True)
    opened.locator("[data-scroll]").evaluate("one => { one.scrollTop = 0; }")
    expect(opened.locator("[data-earlier-words]")).to_contain_text("The server cannot be reached")
    opened.context.set_offline(False)
    opened.get_by_role("button", name="Earlier questions and answers").evaluate("one => one.click()")
    expect(opened.locator("[data-earlier-words]")).to_have_text("")
    watched.forgive("ERR_INTERNET_DISCONNECTED")


def test_without_script_the_whole_conversation_is_one_click_away(opened: Page) -> None:
    expect(opened.get_by_role("link", name="this page has the whole conversation")).to_have_attribute(
        "href", f"/chat/{opened.url.rpartition('/')[2]}/print"
    )
