"""Answers as models write them are shown as they were meant: our own cases, and those that users of others reported.

The reported cases lie in a folder beside the repository, which a clone elsewhere does not have. Ours hold each of their
kinds, so that every rule is tested everywhere.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from webui.rendering import GrowingMarkdown, render_markdown

REPOSITORY = Path(__file__).parents[2]
OURS = REPOSITORY / "tests" / "vectors" / "markdown" / "cases.json"
REPORTED = REPOSITORY.parent / "shared" / "cases"
KINDS = {"dollars", "formula", "env", "tex", "ce", "quantity", "strong", "fence", "table"}


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    must_match: tuple[str, ...]
    must_not_match: tuple[str, ...]

    def faults(self, page: str) -> list[str]:
        """What the page lacks, and what it should not have."""
        lacks = [f"lacks {one}" for one in self.must_match if not re.search(one, page, re.DOTALL)]
        return lacks + [f"has {one}" for one in self.must_not_match if re.search(one, page, re.DOTALL)]


def our_cases() -> list[Case]:
    cases = json.loads(OURS.read_text("utf-8"))
    return [Case(one["name"], one["input"], tuple(one["must_match"]), tuple(one["must_not_match"])) for one in cases]


def reported_cases() -> list[Case]:
    """The reported cases of Markdown; none where the folder is not."""
    cases = []
    for readme in sorted(REPORTED.glob("*/README")):
        if re.search(r"^kind: markdown$", readme.read_text("utf-8"), re.MULTILINE):
            expected = json.loads((readme.parent / "expected.json").read_text("utf-8"))
            text = (readme.parent / "input.md").read_text("utf-8")
            cases.append(
                Case(readme.parent.name, text, tuple(expected["must_match"]), tuple(expected["must_not_match"]))
            )
    return cases


CASES = [*our_cases(), *reported_cases()]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_shown_as_it_was_meant(case: Case) -> None:
    page = render_markdown(case.text)
    assert case.faults(page) == [], page


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_shown_so_when_it_has_grown_letter_by_letter(case: Case) -> None:
    growing, shown = GrowingMarkdown(), list[str]()
    for letter in case.text:
        growing.append(letter)
        if growing.has_grown:
            keep, blocks = growing.update()
            shown[keep:] = blocks
    keep, blocks = growing.finish()
    shown[keep:] = blocks
    assert "".join(shown) == render_markdown(case.text)


def test_our_cases_hold_every_kind() -> None:
    assert {case.name.split("-")[0] for case in our_cases()} >= KINDS
