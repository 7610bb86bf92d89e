"""How long the worst messages take to render: attacks on Markdown itself and on every language that is coloured.

    python -m bench.rendering                  every message, some minutes
    python -m bench.rendering --language java  one language
    python -m bench.rendering --chars 20000    as long as a block may be
    python -m bench.rendering --answer         an ordinary answer of 4,000 words, and no other

A message is one short text repeated, alone or in a block of code. Some texts are written here. The others are the
literals with which the rules of each language's lexer begin: a rule is slow when what it looks for begins again and
again and is never complete. Exit status 1 if a message takes more processor time than ``LIMIT_S``.
"""

from __future__ import annotations

import re._constants as sre  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import sys
import time
from collections.abc import Iterator
from typing import Any

import click
from pygments.lexer import RegexLexer, words
from pygments.lexers import get_lexer_by_name

from webui.rendering import render_blocks
from webui.rendering.code_colours import LANGUAGES

CHARS = 12_000
LIMIT_S = 2.5  # processor time: the budget of a message, one step beyond it, and escaping and cleaning
CODE = [
    "a", "a ", "A", "é", "_", "0", "0.", "0x", "1e", "1_", "(", "[", "{", "<", "<a", "<a ", "</", "/*", "//", '"', "'",
    "`", "\\", "#", "$", "$(", "${", "@", "@a ", "a.", "a::", "a,", "a<", "a(", "a[", "a=", "a:", "a -> ", "a b ",
    "a;\n", "-", "--", "+", "=", "==", "=>", "|", "||", "&", "&&", "!", "%", "%{", "^", "~", "~~~", "*", "**", ";", ":",
    ":a ", "\n", "\n ", " \n", "a\n", "a\t", "\t", "# a\n", "<<A", "<<-A\n", "s/", "q{", "m{", "def a", "class a ",
    "a a a(", "public a ", "@a(", "\\begin{", "\\a", '"\\', "'''", '"""', 'r"', 'f"{', "#{", "<?php ", "<!--", "<!",
    "]]", "?", "?(", "a?", "a'", "- ", "1. ", "> ", "  - a\n", "a: b\n", "| ", "a|", "if ", "end ", "a-", "a/",
    "var a = /", "<% ", "{{", "{%", "func a<", "a.b.", "List<", "@@", "+a\n", "-a\n", "$ a\n", "[a\n", "[a]\n",
    "a = \\\n", "a ? b : ",
]  # fmt: skip
MARKDOWN = [
    "![[]", "[", "![", "[[]", "[a](", "[a]", "[a][", "[a]: ", "[a]: /x\n", "[a]: <", "<a", "<a ", "<http:", "</a",
    "<!--", "`", "``a`", "*a", "**a", "_a", "a*_", "*a **a ", "a**b", "~~a", "~a~~", "\\", "\\[", "\\(", "\\(a\\)", "$",
    "$a", "$$", "$a$", "$$a$$ ", "&", "&#", "&amp;", "> ", "> > ", ">", "- ", "- a\n", "1. ", "1. a\n", "* a\n  ",
    "  - a\n", "# ", "# a\n", "a\n", "a\n\n", "a  \n", "|", "|a", "|a|\n", "|a|\n|-|\n", "|-", "a|b\n-|-\n", "---\n",
    "===\n", "a\n===\n", "    a\n", "```\n", "~~~", "```a\n```\n", "!", "](", "[]()", "[a](<b", '[a](b "',
    "[![a](b)](c)", "[a](b)", "http://a.b ", "\t", " ", "\n", " \n", "\u2028", "\ufeff", "é", "\\begin{",
    "$\\frac{a}{b}$ ", "$\\left( \\right)$ ", "$" + "{" * 30 + "}" * 30 + "$ ", "> - ", "> ```\n", "- > ", "1) ",
    "*_~`",
]  # fmt: skip


SECTION = """## Section {n}

The installer **checks** every file while it copies; the `digest` of a file is a number below $2^{{256}}$, and two files
share one with *small* probability. [A link](https://a.example/{n}) and more words follow, so that the paragraph has the
length that paragraphs of answers have in practice, which is about sixty words in most of those that people have read.

- one item with `code`
- another with **bold** words and $x_{n}$

| command | use |
|---|---|
| `x{n}` | some words in a cell |

$$p \\approx \\frac{{n^2}}{{2^{{257}}}}$$

```python
def f{n}(x): return x + {n}  # a comment
```

"""
SECTIONS = 41  # 4,000 words


def answer_s() -> tuple[int, float]:
    """(words of an ordinary answer, processor time of rendering it); the best of eight, nothing reused between them."""
    text = "".join(SECTION.format(n=number) for number in range(SECTIONS))
    best_s = min(rendering_s(text.replace("def f", f"def f{turn}_")) for turn in range(8))
    return len(text.split()), best_s


def hostile_messages(chars: int = CHARS, only: str | None = None) -> Iterator[tuple[str, str]]:
    """Every message: its name and its text, which has so many characters."""
    for language in sorted(LANGUAGES) if only is None else [only]:
        for unit in dict.fromkeys([*CODE, *_pieces(language)]):
            yield f"{language} {unit!r}", f"```{language}\n{_repeated(unit, chars)}\n```"
    if only is None:
        for unit in [*MARKDOWN, *(one + other for one in MARKDOWN[:40] for other in ("[", "*", "`", "\n"))]:
            yield f"markdown {unit!r}", _repeated(unit, chars)


def rendering_s(text: str) -> float:
    """The processor time of rendering in this thread; nothing is reused from an earlier rendering."""
    begin_s = time.thread_time()
    render_blocks(text)
    return time.thread_time() - begin_s


def _repeated(unit: str, chars: int) -> str:
    return (unit * (chars // len(unit) + 1))[:chars]


def _pieces(language: str) -> Iterator[str]:
    """Literal beginnings of the language's rules, alone, with a letter and on lines of their own."""
    lexer = get_lexer_by_name(language)
    if not isinstance(lexer, RegexLexer):
        return
    literals = dict.fromkeys(
        literal for rules in lexer.tokens.values() for rule in rules if isinstance(rule, tuple)
        for literal in _literals(rule[0])
    )  # fmt: skip
    for literal in literals:
        yield from (literal, f"{literal}a ", f"{literal}\n")


def _literals(pattern: Any) -> Iterator[str]:
    """The longest run of literal characters at the beginning of a regular expression, and of each of its branches."""
    if isinstance(pattern, words):
        pattern = pattern.get()  # type: ignore[no-untyped-call]
    if not isinstance(pattern, str):
        return
    for branch in _branches(parser.parse(pattern)):
        run = ""
        for code, value in branch:
            if code is not sre.LITERAL:
                break
            run += chr(value)
        if run:
            yield run


def _branches(parsed: Any, depth: int = 4) -> Iterator[list[tuple[Any, Any]]]:
    """The paths through the beginning of a parsed expression, with its first groups and repeats expanded."""
    items = list(parsed)
    yield items
    if not items or depth == 0:
        return
    code, value = items[0]
    if code is sre.SUBPATTERN:
        yield from _branches([*value[3], *items[1:]], depth - 1)
    elif code in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        yield from _branches([*value[2], *items[1:]], depth - 1)
    elif code is sre.BRANCH:
        for way in value[1][:6]:
            yield from _branches([*way, *items[1:]], depth - 1)


@click.command()
@click.option("--language", type=click.Choice(sorted(LANGUAGES)), help="Only this one.")
@click.option("--chars", default=CHARS, show_default=True, help="Length of each message.")
@click.option("--worst", default=15, show_default=True, help="How many of the slowest to print.")
@click.option("--answer", is_flag=True, help="Render an ordinary answer instead.")
def main(language: str | None, chars: int, worst: int, answer: bool) -> None:
    """Render every hostile message and print the slowest."""
    if answer:
        words, seconds = answer_s()
        click.echo(f"an answer of {words:,} words took {seconds * 1000:.1f} ms of the processor, the best of 8")
        return
    taken = sorted(((rendering_s(text), name) for name, text in hostile_messages(chars, language)), reverse=True)
    for seconds, name in taken[:worst]:
        click.echo(f"{seconds:6.2f} s  {name}")
    click.echo(f"{len(taken)} messages of {chars:,} characters, the slowest took {taken[0][0]:.2f} s of the processor")
    sys.exit(taken[0][0] > LIMIT_S)


if __name__ == "__main__":
    main()
