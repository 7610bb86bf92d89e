"""A file's name as it is shown, recorded and read by the model: one short line that pretends nothing."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

LONGEST_CHARS: Final = 120
_NAMELESS: Final = "file"
_LONGEST_ENDING_CHARS: Final = 12


def clean_name(given: str) -> str:
    """The last part of a path, without control characters and marks of direction ("fdp.exe" must not look like a PDF).

    A long name keeps its ending.
    """
    last = re.split(r"[/\\]", given)[-1]
    shown = "".join(one if unicodedata.category(one)[0] != "C" else "" for one in re.sub(r"\s", " ", last))
    name = " ".join(shown.split())
    if not name.strip("."):
        return _NAMELESS
    if len(name) <= LONGEST_CHARS:
        return name
    ending = name[-_LONGEST_ENDING_CHARS:].rpartition(".")
    kept = "".join(ending[1:]) if ending[1] else ""
    return name[: LONGEST_CHARS - len(kept) - 1] + "…" + kept
