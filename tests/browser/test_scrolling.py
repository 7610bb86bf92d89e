"""What is wider than its box scrolls by keyboard; what fits stays out of the tab order."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from appliance.people.accounts import Role
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

COLUMNS = 8
WIDE_TABLE = "\n".join(["| a_column_with_a_long_name " * COLUMNS + "|", "|---" * COLUMNS + "|", "| 1 " * COLUMNS + "|"])
NARROW = "```python\nshort = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
ANSWER = f"```python\n{'x = 1; ' * 25}\n```\n\n{WIDE_TABLE}\n\n{NARROW}"
SCROLLED = """box => new Promise((done) => {
  if (box.scrollLeft > 0) done(true);
  else box.addEventListener("scroll", () => done(true), { once: true });
})"""


@pytest.fixture
def answered(page: Page, server: Server, watched: Watched) -> Page:
    server.site.add_user("ada", *Role)
    pages.sign_in(page, server.address, "ada", server.password)
    pages.ask(page, f"ECHO {ANSWER}")
    pages.wait_for_answer(page)
    return page


def test_wide_code_and_tables_are_reached_and_scrolled_by_keyboard(answered: Page) -> None:
    for name in ("Code, python", "Table"):
        box = answered.get_by_role("group", name=name, exact=True)
        expect(box).to_have_count(1)
        reached = []
        answered.locator(".words").last.evaluate("one => { one.tabIndex = -1; one.focus(); }")
        for _ in range(12):
            answered.keyboard.press("Tab")
            reached.append(answered.evaluate("document.activeElement.getAttribute('aria-label') ?? ''"))
            if reached[-1] == name:
                break
        assert reached[-1] == name
        answered.keyboard.press("ArrowRight")
        assert box.evaluate(SCROLLED)
        assert answered.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_what_fits_is_no_stop_of_the_tab_key_until_the_window_is_narrow(answered: Page) -> None:
    stops = answered.locator(".answer .prose [tabindex]")  # the question has the same code
    expect(stops).to_have_count(2)
    answered.set_viewport_size({"width": 3000, "height": 720})
    answered.evaluate("document.documentElement.style.setProperty('--column', '2600px')")
    expect(stops).to_have_count(0)
    answered.evaluate("document.documentElement.style.removeProperty('--column')")
    expect(stops).to_have_count(2)


def test_the_review_scrolls_by_keyboard_too(answered: Page, server: Server) -> None:
    pages.open_review(answered, server.address, action="turns").first.click()
    expect(answered.locator("[data-proof]")).to_be_visible()
    expect(answered.get_by_role("group", name="Code, python", exact=True).first).to_be_visible()
