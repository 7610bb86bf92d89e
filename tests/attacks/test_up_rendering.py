"""No message stops a web worker: hostile text is rendered within a budget, once, and streamed at a bounded cost.

`python -m bench.rendering` renders every hostile message; here are those that took longest and a sample of the rest.
"""

from __future__ import annotations

import random
import time

import pytest
from pygments.lexer import Lexer

from appliance.turns.events import AnswerDelta
from bench.rendering import LIMIT_S, hostile_messages, rendering_s
from webui.chat.stream import Drawing
from webui.rendering import GrowingMarkdown, blocks, code_colours, growing, render_blocks, render_markdown
from webui.rendering.budget import Budget, TooSlowError
from webui.rendering.cache import RenderCache, digest
from webui.rendering.code_colours import MAX_HIGHLIGHT_CHARS

SLOWEST = {  # seconds of the processor before there was a budget
    "C#, 8 s": "```csharp\n" + "a\n" * 6_000 + "```",
    "Java, 40 s": "```java\n" + "a " * 6_000 + "\n```",
    "Java, lines": "```java\n" + "\n" * 12_000 + "```",
    "an image that never closes, a minute": "![[]" * 5_000,
    "makefile": "```makefile\n" + "é" * 12_000 + "\n```",
    "console, in one step": "```console\n" + "a::" * 4_000 + "\n```",
    "matlab, in one step": "```matlab\n" + "\n" * 12_000 + "```",
    "ini, in one step": "```ini\n" + "==" * 6_000 + "\n```",
    "as long as code may be": "```java\n" + "a b " * (MAX_HIGHLIGHT_CHARS // 4) + "\n```",
    "many such blocks": ("```csharp\n" + "a\n" * 1_500 + "```\n\n") * 20,
    "many such paragraphs": ("![[]" * 1_000 + "\n\n") * 20,
    "such paragraphs in a list": ("- " + "![[]" * 1_000 + "\n") * 20,
    "such cells": "|a|\n|-|\n" + ("|" + "![[]" * 1_000 + "|\n") * 20,
    "formulae": ("$" + "||" * 900 + "$\n\n") * 50,
}


@pytest.mark.parametrize("name", SLOWEST)
def test_a_message_that_took_longest_is_rendered_in_time(name: str) -> None:
    assert rendering_s(SLOWEST[name]) < 2 * LIMIT_S  # doubled, for a machine that is half as fast


SAMPLE = random.Random(11).sample(list(hostile_messages()), 80)


@pytest.mark.parametrize(("name", "text"), SAMPLE, ids=[name for name, _ in SAMPLE])
def test_a_hostile_message_is_rendered_in_time(name: str, text: str) -> None:
    assert rendering_s(text) < 2 * LIMIT_S


def test_every_word_of_what_is_too_slow_is_still_shown_and_the_page_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MESSAGE_S", 0.0)
    html = "".join(render_blocks("# *Title* $x^2$\n\n```python\nprint('hello')\n```\n"))
    assert "*Title*" in html
    assert "print(&#x27;hello&#x27;)" in html or "print('hello')" in html
    assert "x^2" in html
    assert "<em>" not in html
    assert "<span" not in html
    assert "Shown without colours" in html
    assert "shown as it was written, because formatting it would take too long" in html


def test_one_slow_paragraph_leaves_the_others_their_form() -> None:
    html = render_markdown("*before*\n\n" + "![[]" * 5_000 + "\n\n*after*")
    assert "<em>before</em>" in html
    assert "<em>after</em>" in html
    assert "![[]![[]" in html


def test_blocks_that_cannot_be_told_apart_in_time_are_shown_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "STRUCTURE_S", 0.0)
    html = render_markdown("- *a <b>*\n")
    assert "- *a &lt;b&gt;*" in html
    assert "too long" in html


def test_ordinary_code_keeps_its_colours() -> None:
    for language in sorted(code_colours.LANGUAGES):
        html = render_markdown(f"```{language}\nx = 1  # {language}\n```")
        assert "Shown without colours" not in html


@pytest.fixture
def lexed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of characters of each block that was coloured."""
    lengths, spans = list[int](), code_colours._spans

    def record(lexer: Lexer, code: str, budget: Budget) -> str:
        lengths.append(len(code))
        return spans(lexer, code, budget)

    monkeypatch.setattr(code_colours, "_spans", record)
    return lengths


def test_what_was_rendered_is_not_rendered_again(lexed: list[int]) -> None:
    text = "Once\n\n```python\nonce = 1\n```\n"
    assert render_markdown(text) == render_markdown(text)
    assert render_markdown(text + "\nand more\n")
    assert len(lexed) == 1


def test_a_block_that_took_too_long_is_not_tried_again(lexed: list[int]) -> None:
    block = "```java\n" + "c d " * 4_900 + "\n```\n"
    for number in range(3):
        assert "Shown without colours" in render_markdown(f"{number}\n\n{block}")
    assert len(lexed) == 1


def test_a_growing_block_of_code_is_coloured_when_it_is_complete(lexed: list[int]) -> None:
    growing = GrowingMarkdown()
    growing.append("```python\n")
    for number in range(200):
        growing.append(f"grown_{number} = {number}\n")
        growing.update()
    assert max(lexed) <= 2_000
    growing.append("```\n\nThat is all.")
    html = "".join(growing.finish()[1])
    assert '<span class="n">grown_199</span>' in html


def test_a_streamed_answer_costs_no_more_than_its_length_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the characters that are parsed for a block that never ends, on a clock that gives rendering no time."""
    parsed = list[int]()

    def record(text: str, budget: Budget, *, growing: bool = False) -> list[tuple[str, int]]:
        parsed.append(len(text))
        return [("x", 0)]

    monkeypatch.setattr(growing, "blocks_with_lines", record)
    clock = iter(range(1_000_000))
    drawing = Drawing(lambda: float(next(clock)))
    for _ in range(10_000):
        list(drawing.lines(AnswerDelta("word\n")))
    assert len(parsed) > 100  # it was shown as it grew
    assert sum(parsed) <= 65 * 50_000 + 2_000**2


def test_a_budget_counts_the_thread_and_not_the_clock_on_the_wall() -> None:
    now = [0.0]
    budget = Budget(2.0, lambda: now[0])
    with budget.part(1.0):
        now[0] = 0.9
        budget.check()
        now[0] = 1.1
        with pytest.raises(TooSlowError):
            budget.check()
    budget.check()
    with budget.part(5.0):
        now[0] = 2.0
        with pytest.raises(TooSlowError):
            budget.check()
    begin_s, spent = time.thread_time(), Budget(60.0)
    assert not spent.is_spent
    assert time.thread_time() - begin_s < 1.0


def test_the_cache_keeps_what_was_used_last_and_no_more_than_it_may() -> None:
    cache = RenderCache(100)
    for number in range(10):
        cache.put(digest(str(number)), "x" * 20)
        assert cache.get(digest("0")) is not None or number > 8
    kept = [number for number in range(10) if cache.get(digest(str(number))) is not None]
    assert kept == [0, 6, 7, 8, 9]
    cache.put(digest("large"), "x" * 26)
    assert cache.get(digest("large")) is None
    cache.put(digest("9"), "y" * 25)
    assert cache.get(digest("9")) == "y" * 25
    assert digest("ab", "c") != digest("a", "bc")
