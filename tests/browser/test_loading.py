"""What a browser loads: little, and nothing twice."""

from __future__ import annotations

from playwright.sync_api import Browser, Page

from appliance.people.conversations import NewMessage
from appliance.turns.answer import Facts
from bench.pages import COLD_KB, WARM_KB, signed_in, transferred_kb
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

LOADED = """() => performance.getEntriesByType("resource")
  .filter((one) => one.transferSize > 0).map((one) => new URL(one.name).pathname)"""


def test_a_warm_page_is_one_request(page: Page, server: Server, watched: Watched) -> None:
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    pages.ask(page, "ECHO one")
    pages.wait_for_answer(page)
    conversation = page.url
    # A conversation's composer asks afterwards how much room is left, which only the engine knows.
    for address, asked in ((f"{server.address}/chat", []), (conversation, ["room"])):
        page.goto(address, wait_until="networkidle")
        assert [path.rpartition("/")[2] for path in page.evaluate(LOADED)] == asked
        assert page.evaluate("performance.getEntriesByType('resource').length") > 10
        kinds = page.evaluate("performance.getEntriesByType('navigation').map((one) => one.transferSize > 0)")
        assert kinds == [True]


def test_the_chat_is_light_however_long_the_conversation(browser: Browser, server: Server) -> None:
    ada, kept = server.site.add_user("ada"), server.site.services.conversations
    long = kept.create(ada.id, title="Long")
    for number in range(100):
        kept.append(ada.id, long.id, NewMessage("user", f"Question {number}?"))
        kept.append(
            ada.id, long.id, NewMessage("assistant", f"Answer {number}. " + "More *words*. " * 60, facts=Facts())
        )
    for address in (f"{server.address}/chat", f"{server.address}/chat/{long.id}"):
        context = signed_in(browser, server.address)
        page = context.new_page()
        cold, warm = transferred_kb(page, address), transferred_kb(page, address)
        assert 30 < cold < COLD_KB  # the first also shows that something was counted
        assert 3 < warm < WARM_KB
        context.close()
