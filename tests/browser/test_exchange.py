"""Exporting and importing conversations in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

SAMPLES = Path(__file__).parents[1] / "webui" / "conversations_of_others"


@pytest.fixture
def signed_in(page: Page, server: Server, watched: Watched) -> Page:
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    return page


@pytest.mark.parametrize(("form", "ending"), [("Markdown", "md"), ("HTML", "html"), ("JSON", "json")])
def test_a_conversation_is_exported_by_its_menu(signed_in: Page, tmp_path: Path, form: str, ending: str) -> None:
    pages.ask(signed_in, "How do I check an archive?")
    pages.wait_for_answer(signed_in)
    signed_in.get_by_label("Actions for How do I check an archive?").click()
    signed_in.get_by_role("button", name="Export…").click()
    dialog = signed_in.get_by_role("dialog", name="Export the conversation")
    with signed_in.expect_download() as started:
        dialog.get_by_role("link", name=form).click()
    assert started.value.suggested_filename.startswith("how-do-i-check-an-archive-")
    assert started.value.suggested_filename.endswith(f".{ending}")
    path = tmp_path / f"export.{ending}"
    started.value.save_as(path)
    assert "What is not signed is not used." in path.read_text()
    if form != "HTML":
        return
    alone = signed_in.context.new_page()
    watched = Watched(alone, "")
    alone.goto(path.as_uri())
    expect(alone.get_by_text("What is not signed is not used.")).to_be_visible()
    expect(alone.get_by_text("RESTRICTED")).to_have_count(2)
    expect(alone.locator("math").first).to_be_visible()
    watched.problems = [problem for problem in watched.problems if str(path.as_uri()) not in problem]
    watched.assert_clean()


def test_a_file_is_imported_and_its_answers_are_marked(signed_in: Page) -> None:
    signed_in.get_by_role("button", name="Import conversations").click()
    dialog = signed_in.get_by_role("dialog", name="Import conversations")
    dialog.get_by_label("File").set_input_files(SAMPLES / "chatgpt.json")
    dialog.get_by_role("button", name="Import", exact=True).click()
    expect(dialog.get_by_text("One conversation was imported.")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    signed_in.get_by_role("link", name="Soup ☕ recipes").click()
    expect(pages.last_answer(signed_in)).to_contain_text(
        "Imported from ChatGPT. This appliance did not write this answer."
    )
    expect(pages.last_answer(signed_in).get_by_text("1/2")).to_be_visible()


def test_a_file_that_cannot_be_used_says_why(signed_in: Page, tmp_path: Path, watched: Watched) -> None:
    mixed = tmp_path / "mixed.json"
    mixed.write_text(json.dumps([*json.loads((SAMPLES / "open_webui.json").read_text()), {"title": "x"}]))
    wrong = tmp_path / "wrong.json"
    wrong.write_text("no JSON")
    signed_in.get_by_role("button", name="Import conversations").click()
    dialog = signed_in.get_by_role("dialog", name="Import conversations")
    dialog.get_by_label("File").set_input_files(wrong)
    dialog.get_by_role("button", name="Import", exact=True).click()
    expect(dialog.get_by_text("The file is not JSON")).to_be_visible()
    dialog.get_by_label("File").set_input_files(mixed)
    dialog.get_by_role("button", name="Import", exact=True).click()
    expect(dialog.get_by_text("One conversation was imported. One was not:")).to_be_visible()
    expect(dialog.get_by_text("This is no conversation that can be imported")).to_be_visible()
    watched.forgive("400 (BAD REQUEST)")


def test_a_file_larger_than_one_request_is_sent_in_parts(signed_in: Page, tmp_path: Path, server: Server) -> None:
    (one,) = json.loads((SAMPLES / "open_webui.json").read_text())
    one["chat"]["messages"] = ["x" * 2_500_000]  # what the import does not read
    large = tmp_path / "large.json"
    large.write_text(json.dumps([{**one, "title": f"Taxes {n}"} for n in range(4)]))
    signed_in.get_by_role("button", name="Import conversations").click()
    dialog = signed_in.get_by_role("dialog", name="Import conversations")
    dialog.get_by_label("File").set_input_files(large)
    dialog.get_by_role("button", name="Import", exact=True).click()
    expect(dialog.get_by_text("4 conversations were imported.")).to_be_visible()
    assert [event.header.action for event in server.site.events()].count("conversation_imported") == 4
