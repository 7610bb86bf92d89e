"""The licence of a model, as its checkpoint states it."""

from __future__ import annotations

import re
from pathlib import Path

from bundler.licence_text import recognised

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_FIELD = re.compile(r"^license:\s*[\"']?([^\"'#\n]+?)[\"']?\s*$", re.MULTILINE)
_SPELT = {"apache-2.0": "Apache-2.0", "mit": "MIT"}  # Hugging Face writes identifiers in lower case
_READ_CHARACTERS = 64 << 10


def licence_of_model(checkpoint: Path, adapter: Path | None) -> str | None:
    """The licences of a checkpoint and of the adapter that was merged into it."""
    found = [licence_of(directory) for directory in (checkpoint, adapter) if directory is not None]
    return " AND ".join(dict.fromkeys(name for name in found if name is not None)) or None


def licence_of(checkpoint: Path) -> str | None:
    """SPDX identifier or the publisher's words: from the front matter of README.md, else from the licence text.

    Returns:
        None if the checkpoint states none; its licence files travel with the release all the same.
    """
    front = _FRONT_MATTER.match(_text(checkpoint / "README.md"))
    if front and (stated := _FIELD.search(front[1])):
        return _SPELT.get(stated[1].lower(), stated[1])
    for path in sorted(checkpoint.glob("LICEN*")):
        if (found := recognised(_text(path))) is not None:
            return found
    return None


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_READ_CHARACTERS)
    except OSError:
        return ""
