"""What comes out of the printer, read back from the PDF that Chromium makes: everything, on every page, in black."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pypdfium2
import pytest
from playwright.sync_api import Page, expect

from appliance.people.accounts import Role
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

LONG_LINE = "word_" * 60 + "END_OF_LINE"
WIDE = " | ".join(f"column {n} of the table" for n in range(12))
ANSWER = "\n".join(
    [
        "FIRST_WORDS of the answer", "", "```text", LONG_LINE, *(f"code line {n}" for n in range(90)), "```", "",
        f"| {WIDE} |", "|" + "---|" * 12, f"| {WIDE.replace('column', 'cell')} LAST_CELL |", "",
        *(f"{n}. a point of the list" for n in range(60)), "", "LAST_WORDS of the answer",
    ]
)  # fmt: skip
Printed = Callable[[Page], list[str]]


@pytest.fixture
def signed_in(page: Page, server: Server, watched: Watched) -> Page:
    server.site.add_user("ada", *Role)
    pages.sign_in(page, server.address, "ada", server.password)
    return page


@pytest.fixture
def printed(tmp_path: Path) -> Printed:
    """The words of each page on paper."""

    def read(page: Page) -> list[str]:
        page.wait_for_load_state("networkidle")
        page.pdf(path=tmp_path / "paper.pdf", format="A4")
        document = pypdfium2.PdfDocument(tmp_path / "paper.pdf")
        texts = [str(leaf.get_textpage().get_text_bounded()) for leaf in document]
        document.close()
        return texts

    return read


def squeezed(text: str) -> str:
    """Without spaces and marks of broken lines, which depend on the width of the paper."""
    return re.sub(r"[\s\ufffe\xad]+", "", text)


def assert_whole(leaves: list[str]) -> None:
    text = squeezed("".join(leaves))
    lines = [f"codeline{number}" for number in range(90)]
    for words in ("FIRST_WORDS", "LAST_WORDS", "LAST_CELL", "Thepersonaskshowtocheck", LONG_LINE, *lines):
        assert words in text, words
    for leaf in leaves:
        assert squeezed(leaf).count("RESTRICTED") == 2, leaf  # at the top and at the bottom
    for pressed in ("Send", "Answer again", "Details", "New chat", "Skip to", "Copy"):
        assert pressed not in "".join(leaves), pressed


def test_a_conversation_is_whole_on_paper(signed_in: Page, printed: Printed) -> None:
    pages.ask(signed_in, f"ECHO {ANSWER}")
    pages.wait_for_answer(signed_in)
    leaves = printed(signed_in)
    assert len(leaves) > 3
    assert_whole(leaves)
    signed_in.get_by_label("Menu of ada").click()
    signed_in.get_by_role("link", name="Print or save this conversation").click()
    expect(signed_in.get_by_role("button", name="Print")).to_be_visible()
    leaves = printed(signed_in)
    assert_whole(leaves)
    assert "Conversation of ada with Fake model at Northgate" in leaves[0]
    assert "Back to the conversation" not in "".join(leaves)


def test_one_event_is_whole_on_paper_without_the_list(signed_in: Page, server: Server, printed: Printed) -> None:
    pages.ask(signed_in, f"ECHO {ANSWER}")
    pages.wait_for_answer(signed_in)
    pages.open_review(signed_in, server.address, action="turns").first.click()
    expect(signed_in.locator("[data-proof]")).to_be_visible()
    signed_in.reload()
    leaves = printed(signed_in)
    assert_whole(leaves)
    text = "".join(leaves)
    for fact in ("Path to the root", "Leaf hash", "The exact details as they were recorded"):
        assert fact in text
    for pressed in ("Apply", "All events", "Everyone", "What you look at is recorded"):
        assert pressed not in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white_and_words_are_black(signed_in: Page, server: Server, scheme: Literal["light", "dark"]) -> None:
    pages.ask(signed_in, "ECHO ```python\nprint(1) # a comment\n```\n\n> a quotation\n\n**bold**")
    pages.wait_for_answer(signed_in)
    signed_in.emulate_media(media="print", color_scheme=scheme)
    signed_in.evaluate("scheme => { document.documentElement.dataset.theme = scheme; }", scheme)
    seen = signed_in.evaluate(
        """() => {
          const shown = [...document.querySelectorAll("main *")].filter((one) => one.checkVisibility());
          const grounds = [document.documentElement, document.body, ...shown];
          return [[...new Set(shown.map((one) => getComputedStyle(one).color))],
                  [...new Set(grounds.map((one) => getComputedStyle(one).backgroundColor))]];
        }"""
    )
    assert seen[0] == ["rgb(0, 0, 0)"]
    assert set(seen[1]) <= {"rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"}
