"""Sharing a conversation, and reading a shared one, in a browser."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

from tests.browser import pages
from tests.browser.accessible import faults
from tests.browser.conftest import Server
from tests.browser.pages import Watched


def test_a_conversation_is_shared_read_and_withdrawn(
    page: Page, browser: Browser, server: Server, watched: Watched
) -> None:
    for name in ("ada", "bob"):
        server.site.add_user(name)
    pages.sign_in(page, server.address, "ada", server.password)
    pages.ask(page, "How do I check an archive?")
    pages.wait_for_answer(page)
    page.get_by_label("Actions for How do I check an archive?").press("Enter")
    page.get_by_role("link", name="Share…").press("Enter")
    page.get_by_label("Your colleague's name").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Nobody of this name chats here.")
    assert faults(page) == []
    page.get_by_label("Your colleague's name").fill("bob")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row", name="bob")).to_be_visible()
    assert faults(page) == []

    context = browser.new_context(viewport={"width": 360, "height": 740}, locale="en-GB")
    reader = context.new_page()
    also = Watched(reader, server.address)
    pages.sign_in(reader, server.address, "bob", server.password)
    reader.get_by_role("button", name="Conversations").click()
    reader.get_by_role("link", name="Shared with you").click()
    assert faults(reader) == []
    reader.get_by_role("link", name="How do I check an archive?").click()
    expect(reader.get_by_role("article", name="Answer")).to_contain_text("three steps")
    assert faults(reader) == []
    assert reader.evaluate("document.documentElement.scrollWidth") == 360
    also.assert_clean()

    page.get_by_role("button", name="Withdraw it from bob").click()
    page.get_by_role("button", name="Withdraw", exact=True).click()
    expect(page.get_by_text("Nobody but you, and the reviewers of the record.")).to_be_visible()
    reader.reload()
    expect(reader.get_by_role("article", name="Answer")).to_have_count(0)
    context.close()
    watched.forgive("400 (BAD REQUEST)")
