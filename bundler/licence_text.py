"""Recognises a licence by the beginning of its text, where nothing else states it."""

from __future__ import annotations

import re

_BEGINNINGS = {
    "Apache-2.0": re.compile(r"\s*Apache License\s+Version 2\.0, January 2004\s"),
    "MIT": re.compile(r"\s*(?:The )?MIT License\b.{0,2000}?Permission is hereby granted, free of charge,", re.DOTALL),
}


def recognised(text: str) -> str | None:
    """The SPDX identifier of a licence text; None for a text that is not one of those known here."""
    stripped = text.strip()
    return next((name for name, words in _BEGINNINGS.items() if stripped == name or words.match(text)), None)
