"""docs/comparison.md: nothing of ours stands there without a page or test that holds it, or a note that explains it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "comparison.md"


def faults_of(page: str) -> list[str]:
    """What is wrong with the table and its notes."""
    rows = [line for line in page.splitlines() if line.startswith("|")][2:]
    notes = {int(number) for number in re.findall(r"^(\d+)\. \S", page, re.M)}
    found: list[str] = [] if len(rows) > 30 else ["the table has few rows"]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) != 5 or not all(cells):
            found.append(f"{cells[0]}: not five cells with words")
            continue
        feature, ours = cells[0], cells[4]
        noted = [int(number) for number in re.findall(r"\(note (\d+)\)", ours)]
        if not set(noted) <= notes:
            found.append(f"{feature}: a note that is not there")
        held = [ROOT / path for path in re.findall(r"`(tests/[\w/]+\.py)`", ours)]
        held += [PAGE.parent / path for path in re.findall(r"\]\(([\w/.-]+\.md)(?:#[\w-]+)?\)", ours)]
        found += [f"{feature}: {path.name} is not there" for path in held if not path.exists()]
        if ours.startswith("yes") and not held:
            found.append(f"{feature}: nothing holds the yes")
        if not ours.startswith("yes") and not noted:
            found.append(f"{feature}: no explanation")
    return found


def test_each_field_of_ours_is_held_or_explained() -> None:
    assert faults_of(PAGE.read_text()) == []


@pytest.mark.parametrize(("row", "fault"), [
    ("| x | a | b | c | |", "not five cells"), ("| x | a | b | c |", "not five cells"),
    ("| x | a | b | c | yes |", "nothing holds"), ("| x | a | b | c | no |", "no explanation"),
    ("| x | a | b | c | partly (note 99) |", "a note that is not there"),
    ("| x | a | b | c | yes: `tests/test_none.py` |", "test_none.py is not there"),
    ("| x | a | b | c | yes: [page](none.md) |", "none.md is not there"),
])  # fmt: skip
def test_a_field_without_either_is_found(row: str, fault: str) -> None:
    page = PAGE.read_text()
    table, _, rest = page.partition("\n## Notes")
    assert any(fault in found for found in faults_of(f"{table.rstrip()}\n{row}\n\n## Notes{rest}"))
