"""docs/threat-model.md names only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 60


def test_every_row_says_what_is_left_and_names_a_test_or_none() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| tries to")]
    assert len(rows) > 60
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert cells[2] == "-" or "::" in cells[2], row
        assert cells[3], row


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_named_test_exists(path: str, name: str) -> None:
    module = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
    assert name in functions
