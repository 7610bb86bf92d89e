"""The one error by which a format says that it has no text for a file, and the limit that all formats share."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.attachments.wire import Code


class UnreadableError(Exception):
    """The file cannot be read as text; the code says why."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code: Code = code


def joined(pieces: Iterable[str], max_chars: int) -> str:
    """The pieces as one text, without control characters. It stops at the first piece that is too much.

    Raises:
        UnreadableError: too_long.
    """
    found: list[str] = []
    left = max_chars
    for piece in pieces:
        kept = cleaned(piece)
        left -= len(kept)
        if left < 0:
            raise UnreadableError("too_long")
        found.append(kept)
    return "".join(found).strip("\n")


def cleaned(text: str) -> str:
    """Lines end in LF. Other control characters and halves of surrogate pairs have no meaning in a text."""
    if text.isascii() and text.isprintable():
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_CLEANED)


_CLEANED = (
    {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF)}
    | {ord("\t"): "\t", ord("\n"): "\n", 0x0B: "\n", 0x0C: "\n", 0x85: "\n"}
)  # fmt: skip
