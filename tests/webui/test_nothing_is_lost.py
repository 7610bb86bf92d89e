"""Every word of an answer is in the text of its page, however it is nested, cut off or malformed.

Exceptions, because the page says the same in another way: addresses and titles of links (attributes of the link), the
numbers of lists (the browser counts), the x of a task (a ticked box), entities (the sign they name), names of TeX
commands and environments that were understood (what they draw), labels of equations (nothing refers to them by name),
the element names of ``<br>``, ``<sub>``, ``<sup>`` and ``<kbd>``.
"""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webui.rendering import GrowingMarkdown, render_blocks

WORD = re.compile(r"\bq\d+z\b")  # words that no element, class or command holds
TAG = re.compile(r'<(?:[^>"]|"[^"]*")*>')
ADDRESS = re.compile(r'(?:href|title)="([^"]*)"')

# `@` becomes a word of its own in each place.
PIECES = [
    "@", " @", "@ ", "\n", "\n\n", "# @\n", "##@\n", "- @\n", "  - @\n", "      - @\n", "1. @\n", "- [x] @\n",
    "> @\n", "> > @\n",
    ">" * 30 + " @\n", "- " * 20 + "@\n", "    @\n", "```@\n", "```py @\n", "```md\n", "```\n", "~~~@ @\n", "~~~\n",
    "`@`", "`` @",
    "`@", "**@**", "*@", "_@_", "~~@~~", "**@。**@", "| @ | @ |\n", "|---|---|\n", "| @ | @ | @ |\n", "|@\n",
    "| `@ | @` | @ |\n",
    "$@$", "$@", "$5 @", "$x_{@}$", "$\\text{@}$", "$$@$$", "$$\n@\n", "$$\n", "\\(@\\)", "\\(@", "\\[\n@\n",
    "\\]\n", "\\[@\\]",
    "\\begin{align}\n@ &= @\n", "\\end{align}\n", "$\\ce{@ -> @}$", "$\\SI{1}{@}$", "$\\href{@}{@}$", "$\\foo{@}$",
    "$% @$",
    "[@](https://a.example/@)", "[@](@)", "[@](@ '@')", "[@]", "[@][@]", "[@]: https://a.example/@ '@'\n",
    "[@]: @\n", "[@]: <@> (@)\n",
    "![@](@)", "![@](https://a.example/@ '@')", "![@][@]", "[^@]", "[^@]: @\n", "[^1]: @\n",
    "<https://a.example/@>", "https://a.example/@",
    "<b>@</b>", "<@>", "</@>", "<!-- @ -->", "<br>@", "<sub>@</sub>", "<sup>@", "<kbd @>", "<details>@\n", "&amp;@",
    "\\@", "@\\\n",
    "@  \n", "---\n", "@\n===\n", "@\n---\n", "Term\n: @\n", "\t@\n", "\u2028@", "\x0b@", "@\r\n", "\\\\@", "<?@?>",
    "[@](<@", "![@](@ '@",
]  # fmt: skip


def written(pieces: list[str]) -> str:
    """The pieces as one text in which every word is another."""
    parts = "".join(pieces).split("@")
    return parts[0] + "".join(f"q{number}z{part}" for number, part in enumerate(parts[1:]))


def shown(blocks: list[str]) -> str:
    """What a reader of the page sees, or finds by pointing at a link."""
    page = "".join(blocks)
    return html.unescape(TAG.sub("", page) + " " + " ".join(ADDRESS.findall(page)))


def lost(text: str, blocks: list[str]) -> set[str]:
    return set(WORD.findall(text)) - set(re.findall(r"q\d+z", shown(blocks)))


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=25))
@example(["[@]: https://a.example/@ '@'\n", "[@]"])
@example(["![@][@]", "\n\n", "[@]: @\n"])
@settings(max_examples=400, deadline=None)
def test_every_word_is_shown(pieces: list[str]) -> None:
    text = written(pieces)
    assert lost(text, render_blocks(text)) == set(), text


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_every_word_is_shown_while_the_answer_grows(pieces: list[str]) -> None:
    growing, blocks, text = GrowingMarkdown(), list[str](), written(pieces)
    for at in range(0, len(text), 7):
        growing.append(text[at : at + 7])
        keep, changed = growing.update()
        blocks[keep:] = changed
        begun = text[: at + 7]
        cut = re.search(r"q\d*$", begun)
        assert lost(begun[: cut.start()] if cut else begun, blocks) == set(), begun


@pytest.mark.parametrize("piece", PIECES)
def test_every_piece_is_shown_alone_in_a_list_and_in_a_quotation(piece: str) -> None:
    for before in ("", "- ", "> ", "1. ", "Words\n\n"):
        text = written([before, piece])
        assert lost(text, render_blocks(text)) == set(), text
