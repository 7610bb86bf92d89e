"""Marking a conversation in a browser: by keyboard, with files, on paper, and the administrator's list."""

from __future__ import annotations

import io
from pathlib import Path

import pypdfium2
import pytest
from playwright.sync_api import FilePayload, Page, expect

from appliance.people.accounts import Role
from appliance.people.conversations import NewMessage
from appliance.turns.answer import Facts
from tests.browser import pages
from tests.browser.accessible import faults
from tests.browser.conftest import Server
from tests.browser.pages import Watched
from tests.webui.conftest import SYSTEM


@pytest.fixture
def chat(page: Page, server: Server, watched: Watched) -> Page:
    for name, style in (("OFFICIAL", "grey"), ("SECRET", "amber"), ("TOP SECRET", "red")):
        server.site.services.markings.add(name, style, by=SYSTEM)
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    return page


def expect_banners(page: Page, words: str) -> None:
    for banner in page.get_by_role("note", name="Classification").all():
        expect(banner).to_have_text(words)
    expect(page.get_by_role("note", name="Classification")).to_have_count(2)


def test_a_new_chat_is_not_set_and_marked_by_keyboard(chat: Page) -> None:
    expect_banners(chat, "NOT SET: HANDLE AS TOP SECRET")
    expect(chat.get_by_role("link", name="Marking")).to_be_hidden()
    pages.ask(chat, "Hello")
    pages.wait_for_answer(chat)
    address = chat.url
    chat.get_by_role("link", name="Marking").focus()
    chat.keyboard.press("Enter")
    expect(chat.get_by_role("heading", name="Marking of “Hello”")).to_be_visible()
    assert faults(chat) == []
    chat.get_by_role("radio", name="SECRET", exact=True).focus()
    chat.keyboard.press("Space")
    chat.keyboard.press("Enter")
    expect(chat).to_have_url(address)
    expect_banners(chat, "SECRET")
    expect(chat.locator(".chat-list-item").get_by_text("SECRET")).to_be_visible()
    assert faults(chat) == []


def test_lowering_asks_for_a_reason_and_keeps_the_choice(chat: Page, watched: Watched) -> None:
    pages.ask(chat, "Hello")
    pages.wait_for_answer(chat)
    for choice, reason in (("TOP SECRET the highest", ""), ("OFFICIAL the lowest", "")):
        chat.get_by_role("link", name="Marking").click()
        chat.get_by_role("radio", name=choice).check()
        chat.get_by_label("Reason").fill(reason)
        chat.get_by_role("button", name="Mark the conversation").click()
    expect(chat.get_by_role("alert")).to_have_text("Say why it is lowered from TOP SECRET to OFFICIAL.")
    expect(chat.get_by_role("radio", name="OFFICIAL the lowest")).to_be_checked()
    assert faults(chat) == []
    chat.get_by_label("Reason").fill("declassified")
    chat.get_by_role("button", name="Mark the conversation").click()
    expect_banners(chat, "OFFICIAL")
    watched.forgive("400 (BAD REQUEST)")


def test_a_marked_file_raises_the_banner_of_the_open_page(chat: Page) -> None:
    pages.ask(chat, "Hello")
    pages.wait_for_answer(chat)
    chat.get_by_role("link", name="Marking").click()
    chat.get_by_role("radio", name="OFFICIAL the lowest").check()
    chat.get_by_role("button", name="Mark the conversation").click()
    expect_banners(chat, "OFFICIAL")
    chat.get_by_label("Files are marked").select_option("Files: TOP SECRET")
    file = FilePayload(name="plan.txt", mimeType="text/plain", buffer=b"the plan")
    chat.locator("[data-attach-input]").set_input_files(files=[file])
    expect(chat.get_by_text("marked TOP SECRET")).to_be_visible()
    assert faults(chat) == []
    pages.ask(chat, "What is in it?")
    pages.wait_for_answer(chat)
    expect_banners(chat, "TOP SECRET")
    for width in (360, 720, 1280):  # the figures beside the composer stand in one or two lines
        chat.set_viewport_size({"width": width, "height": 740})
        room = chat.locator("[data-room]").bounding_box()
        assert room is not None
        assert room["height"] < 45


def test_every_sheet_of_paper_has_the_marking_at_top_and_bottom(chat: Page, server: Server, tmp_path: Path) -> None:
    service = server.site.services
    ada = service.accounts.find("ada")
    made = service.conversations.create(ada.id, title="Long")
    for number in range(8):
        service.conversations.append(ada.id, made.id, NewMessage("user", f"Question {number}?"))
        service.conversations.append(ada.id, made.id, NewMessage("assistant", "More words. " * 300, facts=Facts()))
    secret = service.markings.all()[1]
    service.conversation_markings.choose(ada.id, made.id, secret.id, "", by=SYSTEM)
    chat.goto(f"{server.address}/chat/{made.id}/print")
    printed = pypdfium2.PdfDocument(io.BytesIO(chat.pdf(format="A4")))
    sheets = [sheet.get_textpage().get_text_range() for sheet in printed]
    assert len(sheets) > 2
    for text in sheets:
        assert text.count("SECRET") == 2
        assert text.strip().startswith("SECRET")
        assert text.strip().endswith("SECRET")


def test_an_administrator_makes_the_list(page: Page, server: Server, watched: Watched) -> None:
    server.site.add_user("root", Role.ADMIN)
    pages.sign_in(page, server.address, "root", server.password)
    page.goto(f"{server.address}/admin/markings")
    for name, colour in (("OFFICIAL", "Grey"), ("SECRET", "Amber")):
        page.get_by_label("Name", exact=True).fill(name)
        page.get_by_label("Colour", exact=True).select_option(colour)
        page.get_by_role("button", name="Make the marking").click()
        expect(page.get_by_role("status")).to_contain_text("The marking is made")
    page.get_by_role("button", name="Raise OFFICIAL by one place").click()
    expect(page.get_by_role("row").nth(1)).to_contain_text("OFFICIAL")
    expect_banners(page, "OFFICIAL")
    assert faults(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert faults(page) == []
    page.get_by_role("button", name="Remove the marking SECRET").click()
    page.get_by_role("button", name="Remove the marking").click()
    expect(page.get_by_role("row")).to_have_count(2)
