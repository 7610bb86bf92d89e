"""Files in the composer: picked, pasted, dropped, refused in words, removed, sent, and looked at again."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.appliance.attachments.documents import pdf
from tests.browser import pages
from tests.browser.accessible import faults
from tests.browser.conftest import Server
from tests.browser.pages import Watched

# Gives the page files as a drop or a paste does. Args: event, where, names and texts of the files.
GIVE = """([kind, hook, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) data.items.add(new File([text], name));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste" ? new ClipboardEvent(kind, { ...options, clipboardData: data })
    : new DragEvent(kind, { ...options, dataTransfer: data });
  document.querySelector(hook).dispatchEvent(event);
}"""


@pytest.fixture
def chat(page: Page, server: Server, watched: Watched) -> Page:
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    return page


def pick(page: Page, *files: tuple[str, bytes]) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Attach files").click()
    given: list[FilePayload] = [{"name": name, "mimeType": "", "buffer": data} for name, data in files]
    chooser.value.set_files(given)


def waiting(page: Page) -> Locator:
    return page.get_by_role("list", name="Files for your question").get_by_role("listitem")


def recorded_files(server: Server) -> list[list[str]]:
    found = [event.content for event in server.site.events() if event.header.action == "prompt"]
    return [[file.name for file in one.details.files] for one in found if one]  # type: ignore[attr-defined]


def test_a_file_is_picked_looked_at_sent_and_found_at_its_question(chat: Page, server: Server) -> None:
    pick(chat, ("report.pdf", pdf(["Revenue rose", ""])), ("a.csv", b"a,1\n"))
    expect(waiting(chat)).to_have_count(2)
    first = waiting(chat).first
    expect(first).to_contain_text(re.compile(r"PDF, 2 pages, \d+ B, \d+ tokens"))
    expect(first).to_contain_text("Some pages have no text, as scanned pages have none.")
    expect(chat.get_by_text(re.compile(r"^2 files with \d+ tokens go with your question\.$"))).to_be_visible()
    pages.ask(chat, "What rose?")
    expect(waiting(chat)).to_have_count(0)
    answer = pages.wait_for_answer(chat)
    expect(answer).to_be_visible()
    for _ in range(2):
        expect(chat.get_by_role("article", name="You asked")).to_have_text("What rose?")
        expect(chat.get_by_role("list", name="Attached files").get_by_role("link")).to_have_text(
            ["report.pdf", "a.csv"]
        )
        chat.reload()
    chat.get_by_role("link", name="report.pdf").click()
    expect(chat.get_by_role("heading", name="report.pdf")).to_be_visible()
    expect(chat.get_by_role("group", name="Its text")).to_have_text("[Page 1]\nRevenue rose")
    chat.get_by_role("link", name="The conversation").click()
    expect(chat.get_by_role("article", name="You asked")).to_be_visible()
    assert recorded_files(server) == [["report.pdf", "a.csv"]]


@pytest.mark.parametrize(("kind", "where"), [("paste", "[data-composer-text]"), ("drop", "main")])
def test_files_are_pasted_and_dropped(chat: Page, kind: str, where: str) -> None:
    chat.evaluate(GIVE, [kind, where, [["one.txt", "one"], ["two.md", "# two"]]])
    expect(waiting(chat)).to_have_count(2)
    expect(waiting(chat).nth(1)).to_contain_text("Markdown")


def test_a_refusal_says_why_and_keeps_the_others(chat: Page, watched: Watched) -> None:
    pick(chat, ("photo.png", b"\x89PNG\r\n\x1a\n\0"), ("a.txt", b"text"))
    said = "“photo.png” was not attached. It is a picture, and this model reads text alone."
    expect(chat.get_by_role("alert")).to_contain_text(said)
    expect(waiting(chat)).to_have_count(1)
    watched.forgive("400 (BAD REQUEST)")


def test_a_file_that_is_too_large_is_not_even_sent(chat: Page) -> None:
    pick(chat, ("big.csv", b"x" * (8 * 1024 * 1024 + 1)))
    expect(chat.get_by_role("alert")).to_contain_text("“big.csv” was not attached. It has more than 8 MiB.")
    expect(waiting(chat)).to_have_count(0)


def test_a_file_is_removed_by_keyboard_and_stays_removed(chat: Page, server: Server) -> None:
    pick(chat, ("a.txt", b"text"))
    chat.get_by_role("button", name="Remove a.txt").press("Enter")
    expect(waiting(chat)).to_have_count(0)
    expect(chat.get_by_role("button", name="Attach files")).to_be_focused()
    pages.ask(chat, "Hello")
    pages.wait_for_answer(chat)
    assert recorded_files(server) == [[]]


def test_files_wait_through_a_reload_and_a_refused_question(chat: Page, server: Server, watched: Watched) -> None:
    pick(chat, ("a.txt", b"text"))
    expect(waiting(chat)).to_have_count(1)
    chat.reload()
    expect(waiting(chat)).to_have_count(1)
    chat.route("**/turns", lambda route: route.fulfill(status=503, json={"error": {"message": "Not now."}}))
    pages.ask(chat, "Hello")
    expect(chat.get_by_role("alert")).to_contain_text("Not now.")
    expect(waiting(chat)).to_have_count(1)
    chat.unroute("**/turns")
    watched.forgive("503 (Service Unavailable)")
    chat.get_by_role("button", name="Send").click()
    pages.wait_for_answer(chat)
    assert recorded_files(server) == [["a.txt"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_composer_question_and_file_are_clean_by_axe(chat: Page, scheme: Literal["light", "dark"]) -> None:
    chat.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    pick(chat, ("report.pdf", pdf(["Revenue rose", ""])))
    expect(waiting(chat)).to_have_count(1)
    found = faults(chat)
    pages.ask(chat, "What rose?")
    pages.wait_for_answer(chat)
    found += faults(chat)
    chat.get_by_role("link", name="report.pdf").click()
    expect(chat.get_by_role("heading", name="report.pdf")).to_be_visible()
    assert found + faults(chat) == []
