"""Pages at 400 % zoom (a window of 1280 x 1024 shows 320 x 256 CSS pixels then) and with wider spacing of the text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from appliance.people.accounts import Role
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.test_accessible import sections_of_the_administration
from tests.waiting import HELD_S

WIDTH, HEIGHT = 320, 256  # WCAG 2.2, success criterion 1.4.10
LONG = "A word.\n\n" * 60
SPACING = """* { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important; }
p { margin-bottom: 2em !important; }"""  # WCAG 2.2, success criterion 1.4.12
CLIPPED = """() => [...document.querySelectorAll("body *")].filter((one) => {
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  const has = [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.nodeValue.trim());
  if (!has || box.width < 2 || style.clipPath !== "none" || style.textOverflow === "ellipsis") return false;
  const cuts = (overflow, whole, seen) => ["hidden", "clip"].includes(overflow) && whole > seen + 1;
  return cuts(style.overflowX, one.scrollWidth, one.clientWidth)
    || cuts(style.overflowY, one.scrollHeight, one.clientHeight);
}).map((one) => one.textContent.trim())"""
READING_PX = """() => {
  const column = document.querySelector("[data-scroll]"), composer = document.querySelector("[data-composer]");
  const area = getComputedStyle(column).overflowY === "visible" ? column.parentElement : column;
  area.scrollTop = 0;
  const { top, bottom } = area.getBoundingClientRect();
  return Math.min(bottom, composer.getBoundingClientRect().top, innerHeight) - top;
}"""


@pytest.fixture
def near(browser: Browser, server: Server) -> Iterator[Page]:
    """A zoomed page of somebody who may do everything and has a long answer."""
    server.site.add_user("root", *Role)
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, bypass_csp=True)  # for the spacing
    page = context.new_page()
    page.set_default_timeout(HELD_S * 1000)
    pages.sign_in(page, server.address, "root", server.password)
    pages.ask(page, f"ECHO {LONG}")
    pages.wait_for_answer(page)
    yield page
    context.close()


def every_page(near: Page, server: Server) -> list[str]:
    return [
        near.url,
        "/chat",
        "/review",
        "/review/integrity",
        "/account",
        "/admin",
        *sections_of_the_administration(server),
    ]


def test_reading_has_at_least_half_the_height(near: Page) -> None:
    assert near.evaluate(READING_PX) > HEIGHT / 2


def test_the_composer_is_reached_and_the_answer_is_followed(near: Page, server: Server) -> None:
    near.locator("[data-scroll]").evaluate("one => { one.parentElement.scrollTop = 0; }")
    near.keyboard.press("c")
    expect(near.get_by_role("textbox", name="Your message")).to_be_in_viewport()
    server.pace.hold()
    near.keyboard.type("How do I check an archive?")
    near.keyboard.press("Enter")
    expect(pages.last_answer(near).get_by_text("three steps")).to_be_in_viewport()
    server.pace.release()
    pages.wait_for_answer(near)
    expect(pages.last_answer(near).get_by_role("button", name="Copy", exact=True)).to_be_in_viewport()


def test_new_text_below_is_told_to_who_reads_above(near: Page, server: Server) -> None:
    server.pace.hold()
    pages.ask(near, "How do I check an archive?")
    expect(pages.last_answer(near).get_by_text("three steps")).to_be_visible()
    near.locator("[data-scroll]").evaluate("one => { one.parentElement.scrollTop = 0; }")
    below = near.get_by_role("button", name="New text below")
    server.pace.release()
    expect(below).to_be_in_viewport()
    below.click()
    expect(below).to_be_hidden()
    expect(pages.last_answer(near).get_by_role("button", name="Copy", exact=True)).to_be_in_viewport()


def test_no_page_scrolls_sideways(near: Page, server: Server) -> None:
    for path in every_page(near, server):
        near.goto(path if path.startswith("http") else server.address + path)
        assert near.evaluate("document.documentElement.scrollWidth") == WIDTH, path


def test_wider_spacing_cuts_no_words_off(near: Page, server: Server) -> None:
    for path in every_page(near, server):
        near.goto(path if path.startswith("http") else server.address + path)
        before = near.evaluate(CLIPPED)
        near.add_style_tag(content=SPACING)
        assert near.evaluate(CLIPPED) == before == [], path
        assert near.evaluate("document.documentElement.scrollWidth") == WIDTH, path
