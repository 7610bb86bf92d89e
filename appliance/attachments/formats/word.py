"""The text of a Word document, by a parser of our own over expat (docs/decisions/0023 says why).

It keeps what people see: paragraphs with the marks of headings and lists, tables row by row, inserted text but no
deleted text, text boxes, content controls, footnotes and endnotes. A document that declares entities is refused, so
none is ever expanded; no document that a word processor writes has any.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from appliance.attachments.formats.packed import Packed
from appliance.attachments.formats.refused import UnreadableError, joined
from appliance.attachments.wire import ReadFile
from appliance.audit.details.turns import LeftOut

_NAMESPACES: Final = frozenset({
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "http://purl.oclc.org/ooxml/wordprocessingml/main",
})  # fmt: skip
_ALTERNATIVE: Final = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
_MOST_HEADINGS: Final = 9
_PIECE_BYTES: Final = 64 * 1024
_Start = Callable[[str, dict[str, str]], None]
_One = Callable[[str], None]
_MARKS: Final = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def read_word(packed: Packed, max_chars: int) -> ReadFile:
    """Raises: UnreadableError."""
    headings = _headings(packed)
    pieces = ["\n\n".join(_blocks(packed, "word/document.xml", headings))]
    for part, title in (("word/footnotes.xml", "Footnotes"), ("word/endnotes.xml", "Endnotes")):
        notes = [block for block in _blocks(packed, part, {}) if block.strip()]
        pieces += ["\n\n" + title + "\n\n" + "\n\n".join(notes)] if notes else []
    text = joined(pieces, max_chars)
    if not text.strip():
        raise UnreadableError("no_text")
    left_out: list[LeftOut] = []
    left_out += ["margins"] if any(name.startswith(("word/header", "word/footer")) for name in packed.names) else []
    left_out += ["comments"] if "word/comments.xml" in packed.names else []
    left_out += ["macros"] if packed.has_macros else []
    return ReadFile("word", text, left_out=tuple(left_out))


def _headings(packed: Packed) -> dict[str, int]:
    """The level of each style that is a heading. Its id depends on the language of the program; its name does not."""
    found: dict[str, int] = {}
    style = ""

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal style
        if name == "style":
            style = attributes.get("styleId", "")
        elif name == "name":
            words = attributes.get("val", "").lower().split()
            if len(words) == 2 and words[0] == "heading" and words[1] in "123456789":
                found[style] = int(words[1])
            elif words == ["title"]:
                found[style] = 1

    _parse(packed, "word/styles.xml", start, lambda name: None, lambda text: None)
    return found


def _blocks(packed: Packed, part: str, headings: dict[str, int]) -> list[str]:
    body = _Body(headings)
    _parse(packed, part, body.start, body.end, body.characters)
    return body.lines[0]


@dataclass
class _Paragraph:
    mark: str = ""
    pieces: list[str] = field(default_factory=list)


class _Body:
    """Collects paragraphs. A table's cell holds paragraphs, and a paragraph a text box with paragraphs of its own."""

    def __init__(self, headings: dict[str, int]) -> None:
        self._headings = headings
        self.lines: list[list[str]] = [[]]  # of the body, and of each cell that is open
        self._rows: list[list[str]] = []  # cells of each row that is open
        self._tables: list[list[str]] = []  # rows of each table that is open
        self._paragraphs: list[_Paragraph] = []
        self._is_text = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        match name:
            case "p":
                self._paragraphs.append(_Paragraph())
            case "tbl":
                self._tables.append([])
            case "tr":
                self._rows.append([])
            case "tc":
                self.lines.append([])
            case "t":
                self._is_text = True
        if not self._paragraphs:
            return
        paragraph = self._paragraphs[-1]
        if name == "pStyle" and (level := self._headings.get(attributes.get("val", ""))):
            paragraph.mark = "#" * min(level, _MOST_HEADINGS) + " "
        elif name == "numPr" and not paragraph.mark:
            paragraph.mark = "- "
        elif name in _MARKS:
            paragraph.pieces.append(_MARKS[name])

    def end(self, name: str) -> None:
        match name:
            case "p" if self._paragraphs:
                paragraph = self._paragraphs.pop()
                text = "".join(paragraph.pieces).strip()
                if text:
                    self.lines[-1].append(paragraph.mark + text)
            case "tc" if len(self.lines) > 1 and self._rows:
                self._rows[-1].append(" ".join(self.lines.pop()).replace("\n", " "))
            case "tr" if self._rows and self._tables:
                self._tables[-1].append(" | ".join(self._rows.pop()))
            case "tbl" if self._tables:
                self.lines[-1].append("\n".join(self._tables.pop()))
            case "t":
                self._is_text = False

    def characters(self, text: str) -> None:
        if self._is_text and self._paragraphs:
            self._paragraphs[-1].pieces.append(text)


def _parse(packed: Packed, part: str, start: _Start, end: _One, characters: _One) -> None:
    """Give each element of the document's own vocabulary to the handlers, without its namespace; a missing part has
    none."""
    if part not in packed.names:
        return
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    skipped = 0  # depth inside what only older programs show, which repeats what stands beside it

    def on_start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal skipped
        if skipped or tag == _ALTERNATIVE:
            skipped += 1
            return
        namespace, _, name = tag.rpartition(" ")
        if namespace in _NAMESPACES:
            start(name, {key.rpartition(" ")[2]: value for key, value in attributes.items()})

    def on_end(tag: str) -> None:
        nonlocal skipped
        if skipped:
            skipped -= 1
            return
        namespace, _, name = tag.rpartition(" ")
        if namespace in _NAMESPACES:
            end(name)

    def on_text(text: str) -> None:
        if not skipped:
            characters(text)

    def refuse(*_: object) -> None:
        raise UnreadableError("broken")

    parser.StartElementHandler, parser.EndElementHandler = on_start, on_end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = on_text, refuse
    try:
        with packed.archive.open(part) as stream:
            while piece := stream.read(_PIECE_BYTES):
                parser.Parse(piece, False)
            parser.Parse(b"", True)
    except (expat.ExpatError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as exc:
        raise UnreadableError("encrypted" if "encrypted" in str(exc) else "broken") from exc
