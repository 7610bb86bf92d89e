"""What a browser loads: nothing twice."""

from __future__ import annotations

from playwright.sync_api import Page

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
