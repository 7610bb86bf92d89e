"""Text files: which encoding they have, and whether they are text at all."""

from __future__ import annotations

import codecs
from typing import Final

from appliance.attachments.formats.refused import UnreadableError, joined
from appliance.attachments.wire import ReadFile
from appliance.audit.details.turns import FileForm

# The longer mark first: that of UTF-32 begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8", None),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"), (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"), (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)  # fmt: skip
_MARKDOWN: Final = frozenset({"md", "markdown", "mdown", "mkd"})
_TABLES: Final = frozenset({"csv", "tsv"})
_PROSE: Final = frozenset({"", "txt", "text", "log", "rst", "adoc", "org", "tex", "srt", "eml"})
# Bytes that text in a one-byte encoding does not have: controls but tab, line ends and escape (coloured logs).
_NO_TEXT: Final = frozenset(range(0x20)) - {0x09, 0x0A, 0x0C, 0x0D, 0x1B}


def read_plain(data: bytes, name: str, max_chars: int) -> ReadFile:
    """Raises: UnreadableError."""
    text, encoding = _decoded(data, max_chars)
    return ReadFile(form_of(name), joined([text], max_chars), encoding=encoding)


def form_of(name: str) -> FileForm:
    """What a text file is, by the ending of its name. It only decides how people see it described."""
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    if ending in _MARKDOWN:
        return "markdown"
    if ending in _TABLES:
        return "csv"
    return "text" if ending in _PROSE else "code"


def _decoded(data: bytes, max_chars: int) -> tuple[str, str | None]:
    if len(data) > 4 * (max_chars + 1):  # no encoding here has more bytes for a character
        raise UnreadableError("too_long")
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(codec), name
            except UnicodeDecodeError as exc:
                raise UnreadableError("broken") from exc
    if _NO_TEXT.intersection(data):
        raise UnreadableError("not_text")
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "Windows-1252"
