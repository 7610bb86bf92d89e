"""A question shows its blocks of code as such, and everything else as it was typed."""

from __future__ import annotations

import pytest

from webui.rendering import render_question


@pytest.mark.parametrize("text", ["**a** <b>", "```", "a ``` b", "```sh\nnever closed", "    indented", "", "~~~\n"])
def test_a_question_without_a_whole_block_of_code_is_shown_as_typed(text: str) -> None:
    assert render_question(text) is None


def test_code_is_coloured_and_words_are_left_as_typed() -> None:
    html = render_question("Why **this**?\n\n```python\nreturn 1\n```\n\n- and <b>\n  that")
    assert html is not None
    assert '<div class="words-typed">Why **this**?</div>' in html
    assert '<div class="words-typed">- and &lt;b&gt;\n  that</div>' in html
    assert '<span class="k">return</span>' in html


def test_several_blocks_and_one_without_an_end() -> None:
    html = render_question("```\na\n```\nb\n~~~\nc\n~~~\n```\nd <script>")
    assert html is not None
    assert html.count('class="code-block"') == 2
    assert '<div class="words-typed">b</div>' in html
    assert '<div class="words-typed">```\nd &lt;script&gt;</div>' in html


@pytest.mark.parametrize(
    "text", ["```<img src=x onerror=alert(1)>\n<script>alert(1)</script>\n```\n<svg/onload=alert(1)>"]
)
def test_nothing_in_a_question_runs(text: str) -> None:
    html = render_question(text)
    assert html is not None
    assert "<img" not in html
    assert "<script" not in html
    assert "<svg" not in html


def test_a_question_beyond_the_limit_is_shown_as_typed() -> None:
    assert render_question("```\n" + "a\n" * 60_000 + "```") is None
