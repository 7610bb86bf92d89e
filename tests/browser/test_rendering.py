"""Answers and questions as a reader sees them: formulae in rows, tables, the source of an answer, the person's code."""

# ruff: noqa: RUF001 - punctuation of Chinese
from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched

RICH = """
It costs $5 and **注意：**内容 with H<sub>2</sub>O.

- [x] done
- [ ] open

| command | use |
|---|---|
| `du -k | sort -n` | sizes<br>of folders |

$$
\\begin{aligned} u &= v + 1 \\\\ w &= \\frac{2u}{\\sqrt{3}} \\end{aligned}
$$

Burning: $\\ce{2H2 + O2 ->[\\Delta] 2H2O}$, boxed: $\\boxed{x = 5}$, struck: $\\cancel{x}$.

[the RFC]: https://a.example/rfc9162
"""
ATTACKS = """
```mermaid
graph TD; A-->B; click A "javascript:alert(1)"
```

```svg
<svg onload="document.title='attacked'"><script>document.title='attacked'</script></svg>
```

<img src=x onerror="document.title='attacked'"> $\\href{javascript:alert(1)}{\\text{<img src=x onerror=alert(1)>}}$
"""


@pytest.fixture
def signed_in(page: Page, server: Server, watched: Watched) -> Page:
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    return page


def answer_to(page: Page, text: str) -> Locator:
    pages.ask(page, f"ECHO {text}")
    return pages.wait_for_answer(page)


def top(found: Locator) -> float:
    box = found.bounding_box()
    assert box is not None
    return box["y"]


def test_formulae_tables_and_tasks_are_drawn(signed_in: Page, watched: Watched) -> None:
    prose = answer_to(signed_in, RICH).locator("[data-prose]")
    rows = prose.locator("mtr")
    expect(rows).to_have_count(2)
    assert top(rows.nth(1)) > top(rows.nth(0))  # one row below the other
    expect(prose).to_contain_text("It costs $5 and 注意：内容")
    expect(prose.get_by_role("checkbox", name="Not done")).to_have_count(1)
    expect(prose.get_by_role("cell", name="du -k | sort -n")).to_be_visible()
    expect(prose).to_contain_text("[the RFC]: https://a.example/rfc9162")
    border = prose.locator(".math-box").evaluate("box => getComputedStyle(box).borderTopWidth")
    assert border == "1px"
    watched.assert_clean()  # no style attribute, which the policy would report


def test_the_source_of_an_answer_is_shown_by_keyboard_and_hidden_again(signed_in: Page, watched: Watched) -> None:
    answer = answer_to(signed_in, RICH)
    button = answer.get_by_role("button", name="Show source")
    expect(button).to_have_attribute("aria-expanded", "false")
    button.focus()
    signed_in.keyboard.press("Enter")
    source = answer.get_by_role("region", name="Source of the answer")
    expect(source).to_contain_text("$$\n\\begin{aligned} u &= v + 1 \\\\ w")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(answer.locator("[data-prose]")).to_be_hidden()
    signed_in.keyboard.press("Tab")
    signed_in.get_by_role("link", name="Northgate").focus()
    signed_in.keyboard.press("s")
    expect(source).to_have_count(0)
    expect(answer.locator("[data-prose]")).to_be_visible()
    watched.assert_clean()


def test_a_question_shows_its_code_and_everything_else_as_typed(signed_in: Page, watched: Watched) -> None:
    pages.ask(signed_in, "Why **this**?\n\n```python\nprint('<b>')\n```\n\n* and  this")
    pages.wait_for_answer(signed_in)
    question = signed_in.get_by_role("article", name="You asked")
    expect(question.locator(".code-block .nb")).to_have_text("print")
    expect(question).to_contain_text("Why **this**?")
    expect(question).to_contain_text("* and  this")
    expect(question.get_by_role("button", name="Copy the code")).to_be_attached()
    watched.assert_clean()


def test_diagrams_and_drawings_are_code_and_nothing_runs(signed_in: Page, watched: Watched) -> None:
    prose = answer_to(signed_in, ATTACKS).locator("[data-prose]")
    expect(prose.locator(".code-block")).to_have_count(2)
    expect(prose).to_contain_text("graph TD; A-->B")
    expect(prose.locator("svg:not(.icon), img, script, iframe")).to_have_count(0)
    assert signed_in.title() != "attacked"
    watched.assert_clean()


FONT = """async () => {
  await document.fonts.ready;
  return [...document.fonts].find((font) => font.family.includes("Formulae")).status;
}"""


def test_the_first_formula_brings_a_font_whose_signs_grow(signed_in: Page) -> None:
    answer_to(signed_in, "It costs $5 and $6.")
    assert signed_in.evaluate(FONT) == "unloaded"
    answer = answer_to(signed_in, r"$$\left( \frac{\frac{a}{b}}{\frac{c}{d}} \right)$$")
    fraction = answer.locator("mfrac").first
    expect(fraction).to_be_visible()
    assert signed_in.evaluate(FONT) == "loaded"
    heights = [
        found.evaluate("one => one.getBoundingClientRect().height") for found in (answer.locator("mo").first, fraction)
    ]
    assert heights[0] > 0.9 * heights[1]
