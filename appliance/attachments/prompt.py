"""How the model reads attached files: each as a block before the person's words, which come last.

    [File 1 of 2: "report.pdf", PDF, 3 pages. It ends at the line END 4be0f2c19d7a61e3.]
    ...the text...
    END 4be0f2c19d7a61e3

The mark is made of the SHA-256 of the text, so no text can hold its own mark, and the same file gives the same block in
every turn, which the prefix cache needs. Special tokens of Harmony in a text are plain text
(appliance/engine/harmony.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from appliance.attachments.words import form_words
from appliance.audit.details.turns import FileFacts

_MARK_CHARS: Final = 16


@dataclass(frozen=True)
class AttachedText:
    """A file as the model reads it."""

    facts: FileFacts
    text: str


def with_files(words: str, files: Sequence[AttachedText]) -> str:
    """The message that the model reads: the files, then what the person wrote."""
    blocks = [_block(file, at, len(files)) for at, file in enumerate(files, 1)]
    return "\n\n".join([*blocks, words])


def _block(file: AttachedText, at: int, count: int) -> str:
    mark = _mark(file.text)
    name, what = json.dumps(file.facts.name, ensure_ascii=False), ", ".join(form_words(file.facts))
    return f"[File {at} of {count}: {name}, {what}. It ends at the line END {mark}.]\n{file.text}\nEND {mark}"


def _mark(text: str) -> str:
    """Digits that the text does not hold."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    while digest[:_MARK_CHARS] in text:
        digest = hashlib.sha256(digest.encode()).hexdigest()
    return digest[:_MARK_CHARS]
