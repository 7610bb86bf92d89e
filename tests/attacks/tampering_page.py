"""docs/tampering.md as the tests that hold it read it."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tampering.md"
COUNTS = "Kills and full disks"


def documented(heading: str) -> list[str]:
    """The rows of the table under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n### {heading}\n")[2]
    section = re.split(r"\n##", section)[0]
    return [row for row in section.splitlines() if row.startswith("| ")][1:]


def without_digests(words: str) -> str:
    """The words of a refusal as the page has them: ".." in place of digests, keys and dates."""
    return re.sub(r"[0-9a-f]{64}|(?<=key )[0-9a-f]{8}|\d{4}-\d\d-\d\d([T ][0-9:+]+)?", "..", words)


def counted(what: str) -> int:
    """How often the page says that something was tried; a test tries it at least as often."""
    counts = dict(re.findall(r"^\| (.*) \| (\d+) \|$", "\n".join(documented(COUNTS)), re.MULTILINE))
    return int(counts[what])
