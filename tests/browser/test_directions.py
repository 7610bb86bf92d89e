"""Text that runs from the right to the left, alone and beside text that does not."""

# ruff: noqa: RUF001 - letters of Hebrew
from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

ARABIC = "كيف أتحقق من الأرشيف؟"
HEBREW = """הארכיון נבדק בשלושה שלבים.

1. להשוות את `root.json` עם הנייר.
2. להריץ את הבדיקה.

> מה שאינו חתום אינו בשימוש.

| בדיקה | זמן |
|---|---|
| חתימה | 0.1 |

English stands in a paragraph of its own.

```bash
installer verify archive.airgap
```

$$x = y + 1$$
"""
# The line boxes of an element's text: where they begin and end, relative to the element.
SIDES = """one => {
  const range = document.createRange();
  range.selectNodeContents(one);
  const text = range.getBoundingClientRect(), box = one.getBoundingClientRect();
  return [text.left - box.left, box.right - text.right];
}"""


@pytest.fixture
def signed_in(page: Page, server: Server, watched: Watched) -> Page:
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    return page


def runs_from_the_right(found: Locator) -> bool:
    left, right = found.evaluate(SIDES)
    return bool(left > right + 5)


def test_a_question_and_its_title_run_from_the_right(signed_in: Page) -> None:
    text = signed_in.get_by_role("textbox", name="Your message")
    text.fill(ARABIC)
    assert text.evaluate("one => getComputedStyle(one).direction") == "rtl"
    pages.ask(signed_in, ARABIC)
    pages.wait_for_answer(signed_in)
    title = signed_in.locator(".chat-list-title").first
    expect(title).to_have_text(ARABIC)
    assert title.evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert signed_in.locator("[data-words]").evaluate("one => getComputedStyle(one).direction") == "rtl"


def test_each_paragraph_of_an_answer_has_its_own_direction(signed_in: Page) -> None:
    pages.ask(signed_in, f"ECHO {HEBREW}")
    answer = pages.wait_for_answer(signed_in)
    paragraphs = answer.locator(".prose > p")
    assert runs_from_the_right(paragraphs.first)
    assert not runs_from_the_right(answer.get_by_text("English stands"))
    item = answer.locator("li").first
    assert runs_from_the_right(item)
    items = answer.locator("ol").evaluate("one => parseFloat(getComputedStyle(one).paddingRight)")
    assert items > 10  # the numbers stand at the right
    assert answer.locator("blockquote").evaluate("one => parseFloat(getComputedStyle(one).borderRightWidth)") == 3
    first, second = (cell.bounding_box() for cell in answer.locator("th").all())
    assert first is not None
    assert second is not None
    assert first["x"] > second["x"]  # the first column is the right one


def test_code_and_formulae_run_from_the_left_all_the_same(signed_in: Page) -> None:
    pages.ask(signed_in, f"ECHO {HEBREW}")
    answer = pages.wait_for_answer(signed_in)
    assert not runs_from_the_right(answer.locator("pre code"))
    inline = answer.locator("li code")
    assert inline.evaluate("one => getComputedStyle(one).direction") == "ltr"
    x, y = (answer.locator("mi").nth(number).bounding_box() for number in (0, 1))
    assert x is not None
    assert y is not None
    assert x["x"] < y["x"]


def test_an_answer_from_the_left_stays_there(signed_in: Page) -> None:
    pages.ask(signed_in, "ECHO One.\n\nשתיים.")
    answer = pages.wait_for_answer(signed_in)
    assert not runs_from_the_right(answer.get_by_text("One."))
    assert runs_from_the_right(answer.get_by_text("שתיים"))
