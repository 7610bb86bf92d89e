"""docs/glossary.md: every word is in use, and no word is explained twice."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


WORDS = rows("## Words")


@cache
def everything() -> str:
    """All code and pages but the glossary, with words split at underscores and line breaks."""
    sources = [path for room in ("appliance", "bundler", "installer", "webui") for path in (ROOT / room).rglob("*.py")]
    sources += [*(ROOT / "appliance" / "kernels").rglob("*.h"), ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.name != "glossary.md")
    return re.sub(r"[\s_#/*-]+", " ", text).lower()


def file_of(cell: str) -> Path:
    (name,) = re.findall(r"`([^`]+)`", cell)
    return ROOT / str(name)


def stem(word: str) -> str:
    """The beginning that all forms of a word share."""
    return re.escape(word.lower().removesuffix("s"))


def test_the_page_has_words() -> None:
    assert len(WORDS) > 30


def test_no_word_is_explained_twice() -> None:
    words = [row[0] for row in WORDS]
    assert sorted(words) == sorted(set(words))


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row[0])
def test_every_word_is_in_use(row: list[str]) -> None:
    assert re.search(rf"\b{stem(row[0])}", everything()), row[0]
    assert stem(row[0].split()[-1]) in file_of(row[2]).read_text(encoding="utf-8").lower(), row[2]
