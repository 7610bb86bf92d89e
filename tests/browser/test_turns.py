"""An answer outlives the page that asked for it: reloads, other tabs, other conversations, a lost connection."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from appliance.people.conversations import NewMessage
from appliance.turns.events import Queued, TurnEvent, Waiting
from appliance.turns.request import TurnRequest
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched
from tests.browser.scripts import REASONING, RICH_ANSWER
from tests.waiting import HELD_S

QUESTION = "How do I check an archive?"
FIRST_WORDS = "three steps"
LAST_WORDS = "What is not signed is not used."


@pytest.fixture
def asked(page: Page, server: Server, watched: Watched) -> Page:
    """A page whose answer is being written, held after its first words."""
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    server.pace.hold()
    pages.ask(page, QUESTION)
    expect(pages.last_answer(page).get_by_text(FIRST_WORDS)).to_be_visible()
    return page


def expect_whole(page: Page) -> None:
    answer = pages.wait_for_answer(page)
    expect(answer.get_by_text(LAST_WORDS)).to_be_visible()
    expect(page.get_by_role("article", name="Answer")).to_have_count(1)
    expect(page.get_by_role("article", name="You asked")).to_have_count(1)


def expect_running(page: Page) -> None:
    expect(pages.last_answer(page).get_by_text(FIRST_WORDS)).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()


def assert_answered_once(server: Server) -> None:
    turns = [event for event in server.site.events() if event.header.action in ("prompt", "answer")]
    assert [event.header.outcome for event in turns] == ["ok", "ok"]
    assert turns[1].content is not None
    assert turns[1].content.text == RICH_ANSWER


def test_two_reloads_in_mid_answer_lose_nothing(asked: Page, server: Server) -> None:
    for _ in range(2):
        asked.reload()
        expect_running(asked)
    expect(pages.last_answer(asked).get_by_text(re.compile(r"Thought for \d+ s"))).to_be_visible()
    server.pace.release()
    expect_whole(asked)
    assert_answered_once(server)
    asked.reload()
    expect_whole(asked)


def test_a_second_tab_shows_the_same_and_stops_it(asked: Page, server: Server) -> None:
    second = asked.context.new_page()
    watched = Watched(second, server.address)
    second.goto(asked.url)
    expect_running(second)
    second.get_by_role("button", name="Stop").click()
    for page in (second, asked):
        answer = pages.wait_for_answer(page)
        expect(answer.get_by_text("Stopped before the end")).to_be_visible()
        expect(answer.get_by_text(FIRST_WORDS)).to_be_visible()
    assert server.site.events()[-1].header.outcome == "cancelled"
    watched.assert_clean()


def test_a_tab_that_was_open_before_sees_what_is_asked_in_another(asked: Page, server: Server) -> None:
    server.pace.release()
    expect_whole(asked)
    second = asked.context.new_page()
    second.goto(asked.url)
    expect_whole(second)
    server.pace.hold()
    pages.ask(asked, "ECHO again\nand on")
    expect(pages.last_answer(second).get_by_text("again")).to_be_visible()
    expect(second.get_by_role("button", name="Stop")).to_be_visible()
    server.pace.release()
    for page in (asked, second):
        expect(pages.wait_for_answer(page)).to_contain_text("and on")


def test_another_conversation_and_back(asked: Page, server: Server) -> None:
    address = asked.url
    asked.get_by_role("link", name="New chat").click()
    expect(asked.get_by_role("button", name="Send")).to_be_visible()
    server.pace.release()
    pages.ask(asked, "ECHO elsewhere")
    expect(pages.wait_for_answer(asked)).to_contain_text("elsewhere")
    asked.goto(address)
    expect_whole(asked)


def test_leaving_the_page_does_not_end_the_turn(asked: Page, server: Server) -> None:
    address = asked.url
    asked.goto(f"{server.address}/account")
    server.pace.release()
    asked.goto(address)
    expect_whole(asked)
    assert_answered_once(server)


def test_a_lost_connection_is_taken_up_again(asked: Page, server: Server, watched: Watched) -> None:
    """The network drops every stream, and refuses new ones for a while."""
    asked.route("**/turns/*", lambda route: route.abort())
    server.drop_streams()
    expect(pages.last_answer(asked).get_by_text("The connection is lost. Reconnecting")).to_be_visible()
    expect(pages.last_answer(asked).get_by_text(FIRST_WORDS)).to_be_visible()
    asked.unroute("**/turns/*")
    server.pace.release()
    expect_whole(asked)
    assert_answered_once(server)
    watched.forgive("Failed to load resource")
    watched.forgive("ERR_")


def test_a_stream_that_falls_silent_is_taken_up_again(page: Page, server: Server, watched: Watched) -> None:
    """The cable is pulled somewhere: no end of the connection is ever told."""
    server.site.add_user("ada")
    page.clock.install()
    pages.sign_in(page, server.address, "ada", server.password)
    server.pace.hold()
    pages.ask(page, QUESTION)
    expect(pages.last_answer(page).get_by_text(FIRST_WORDS)).to_be_visible()
    page.route("**/turns/*", lambda route: route.abort())
    server.stall()
    page.clock.run_for(20_000)
    expect(pages.last_answer(page).get_by_text("The connection is lost. Reconnecting")).to_be_visible()
    page.unroute("**/turns/*")
    server.drop_streams()
    server.flow()
    server.pace.release()
    page.clock.run_for(20_000)
    expect_whole(page)
    assert_answered_once(server)
    watched.forgive("Failed to load resource")
    watched.forgive("ERR_")


def test_a_restart_of_the_server_costs_nothing_but_time(asked: Page, server: Server, watched: Watched) -> None:
    server.stop()
    expect(pages.last_answer(asked).get_by_text("The connection is lost. Reconnecting")).to_be_visible()
    server.start()
    server.pace.release()
    expect_whole(asked)
    assert_answered_once(server)
    pages.ask(asked, "ECHO and on")
    expect(pages.wait_for_answer(asked)).to_contain_text("and on")
    watched.forgive("ERR_")


def test_a_question_whose_answer_was_lost_on_the_way_is_not_asked_twice(
    asked: Page, server: Server, watched: Watched
) -> None:
    """The server has the question, and the page never hears of it."""
    server.pace.release()
    expect_whole(asked)

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    asked.route("**/turns", lambda route: lose(route) if route.request.method == "POST" else route.continue_())
    pages.ask(asked, "ECHO only once")
    expect(pages.last_answer(asked)).to_contain_text("only once")
    pages.wait_for_answer(asked)
    expect(asked.get_by_role("article", name="You asked")).to_have_count(2)
    expect(asked.get_by_label("Your message")).to_have_value("")
    prompts = [event for event in server.site.events() if event.header.action == "prompt"]
    assert len(prompts) == 2
    watched.forgive("ERR_")


def test_a_question_that_never_came_stays_in_the_box_and_the_page_says_when_the_server_is_back(
    asked: Page, server: Server, watched: Watched
) -> None:
    server.pace.release()
    expect_whole(asked)
    server.stop()
    pages.ask(asked, "ECHO later")
    expect(asked.get_by_role("alert")).to_contain_text("The server cannot be reached. Your text is back in the box.")
    expect(asked.get_by_label("Your message")).to_have_value("ECHO later")
    server.start()
    expect(asked.get_by_role("alert")).to_contain_text("The server answers again. It did not get your question")
    asked.get_by_label("Your message").press("Enter")
    expect(pages.wait_for_answer(asked)).to_contain_text("later")
    watched.forgive("ERR_")


def test_a_tab_that_did_not_hear_of_new_turns_is_told_before_it_asks(
    asked: Page, server: Server, watched: Watched
) -> None:
    """As on a second machine: no message between tabs, and no change of focus."""
    server.pace.release()
    expect_whole(asked)
    ada = server.site.services.accounts.find("ada")
    conversation = asked.url.rpartition("/")[2]
    server.site.services.conversations.append(ada.id, conversation, NewMessage("user", "Written elsewhere"))
    pages.ask(asked, "ECHO here")
    expect(asked.get_by_role("alert")).to_contain_text("This conversation has gone on since this page showed it")
    expect(asked.get_by_text("Written elsewhere")).to_be_visible()
    expect(asked.get_by_label("Your message")).to_have_value("ECHO here")
    asked.get_by_label("Your message").press("Enter")
    expect(pages.wait_for_answer(asked)).to_contain_text("here")
    watched.forgive("409 (CONFLICT)")


def test_icons_stay_without_a_connection(asked: Page, server: Server, watched: Watched) -> None:
    server.pace.release()
    expect_whole(asked)
    asked.context.set_offline(True)
    pages.ask(asked, "ECHO lost")
    alert = asked.get_by_role("alert")
    expect(alert).to_contain_text("The server cannot be reached")
    drawn = "all => all.map((icon) => icon.getBBox().width > 0)"
    icons = asked.locator("[role=alert] svg use, .composer-buttons button:visible svg use, .answer-actions svg use")
    assert all(icons.evaluate_all(drawn))
    assert icons.count() > 3
    asked.context.set_offline(False)
    watched.forgive("ERR_")


def test_a_turn_that_waits_says_how_many_come_before_it(page: Page, server: Server, watched: Watched) -> None:
    gates = [threading.Event(), threading.Event()]

    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        for gate, queued in zip(gates, (Queued(2, 600.0), Queued(0, None)), strict=True):
            yield Waiting(queued)
            gate.wait(HELD_S)
        yield from server.pace.script(request)

    server.site.engine.script = script
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    pages.ask(page, QUESTION)
    waiting = page.get_by_text("Waiting for the model")
    expect(waiting).to_contain_text("2 questions come before yours. It takes about 10 min.")
    page.reload()
    expect(waiting).to_contain_text("2 questions come before yours. It takes about")
    gates[0].set()
    expect(waiting).to_have_text(re.compile(r"Waiting for the model, \d+ s\. Your question is next\.$"))
    gates[1].set()
    expect_whole(page)
    assert_answered_once(server)


def test_seven_tabs_of_one_conversation_all_load_and_show_the_answer(asked: Page, server: Server) -> None:
    """A browser opens six connections to one site: tabs that nobody sees must not hold them."""
    tabs = [asked]
    for _ in range(6):
        pages.set_hidden(tabs[-1], True)
        tabs.append(asked.context.new_page())
        tabs[-1].goto(asked.url)
        expect_running(tabs[-1])
    server.pace.release()
    expect_whole(tabs[-1])
    for tab in tabs[:-1]:
        pages.set_hidden(tab, False)
        expect_whole(tab)
    assert_answered_once(server)


def test_a_tab_that_nobody_sees_reads_nothing_and_goes_on_where_it_stopped(asked: Page, server: Server) -> None:
    pages.set_hidden(asked, True)
    read = list[str]()
    asked.on("request", lambda request: read.append(urlsplit(request.url).query))
    seen = asked.context.new_page()
    seen.goto(asked.url)
    server.pace.release()
    expect_whole(seen)
    expect(pages.last_answer(asked).get_by_text(FIRST_WORDS)).to_be_visible()
    expect(asked.get_by_text(LAST_WORDS)).to_have_count(0)
    assert read == []
    pages.set_hidden(asked, False)
    expect_whole(asked)
    (after,) = [query.removeprefix("after=") for query in read if query.startswith("after=")]
    assert int(after) > 0
    reasoning = asked.get_by_label("Reasoning").text_content() or ""
    assert reasoning.split() == REASONING.split()
    assert_answered_once(server)


def test_answering_again_outlives_a_reload_too(asked: Page, server: Server) -> None:
    server.pace.release()
    expect_whole(asked)
    server.pace.hold()
    asked.get_by_role("button", name="Answer again").click()
    expect_running(asked)
    asked.reload()
    expect_running(asked)
    server.pace.release()
    expect_whole(asked)
    expect(asked.get_by_text("2/2")).to_be_visible()


def test_a_first_question_that_never_came_stays_in_the_box_too(page: Page, server: Server, watched: Watched) -> None:
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    server.stop()
    pages.ask(page, "ECHO first")
    expect(page.get_by_role("alert")).to_contain_text("Your text is back in the box.")
    server.start()
    expect(page.get_by_role("alert")).to_contain_text("The server answers again. It did not get your question")
    page.get_by_label("Your message").press("Enter")
    expect(pages.wait_for_answer(page)).to_contain_text("first")
    watched.forgive("ERR_")
