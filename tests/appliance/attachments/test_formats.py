"""What is read of each format, and what is refused: in this process, because nothing here tries to break out."""

from __future__ import annotations

import codecs
import hashlib
import struct
import zipfile
from collections.abc import Sequence

import pytest

from appliance.attachments.formats.any_file import read_file
from appliance.attachments.formats.packed import MOST_BYTES, MOST_ENTRIES
from appliance.attachments.formats.refused import UnreadableError
from appliance.attachments.wire import Code, ReadFile
from tests.appliance.attachments.documents import (
    encrypted_pdf,
    nested_table,
    notes,
    packed,
    paragraph,
    pdf,
    spreadsheet,
    word,
)

MAX_CHARS = 20_000
ENTITIES = '<!DOCTYPE w [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


def read(data: bytes, name: str = "file", max_chars: int = MAX_CHARS) -> ReadFile:
    return read_file(name, data, max_chars)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("Grüße, 世界".encode(), None),
        (codecs.BOM_UTF8 + "Grüße, 世界".encode(), None),
        (codecs.BOM_UTF16_LE + "Grüße, 世界".encode("utf-16-le"), "UTF-16"),
        (codecs.BOM_UTF16_BE + "Grüße, 世界".encode("utf-16-be"), "UTF-16"),
        (codecs.BOM_UTF32_LE + "Grüße, 世界".encode("utf-32-le"), "UTF-32"),
    ],
)
def test_reads_text_in_the_encoding_that_it_has(data: bytes, encoding: str | None) -> None:
    found = read(data, "note.txt")
    assert (found.text, found.encoding, found.form) == ("Grüße, 世界", encoding, "text")


def test_text_that_is_not_utf_8_is_read_as_windows_1252() -> None:
    found = read("naïve “quotes” - €5".encode("cp1252"), "a.csv")
    assert (found.text, found.encoding, found.form) == ("naïve “quotes” - €5", "Windows-1252", "csv")


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.md", "markdown"), ("A.CSV", "csv"), ("a.tsv", "csv"), ("a.py", "code"), ("README", "text"), ("x.log", "text")],
)
def test_the_ending_describes_a_text(name: str, form: str) -> None:
    assert read(b"text", name).form == form


def test_control_characters_are_left_out_and_lines_end_in_lf() -> None:
    data = "a\r\nb\rc\x0cd\x1b[31m\u0085e\ufffe".encode()
    assert read(data).text == "a\nb\nc\nd[31m\ne"


def test_a_pdf_gives_its_pages() -> None:
    found = read(pdf(["Hello world", "", "Third"]), "wrong.txt")
    assert found == ReadFile(
        "pdf", "[Page 1]\nHello world\n\n[Page 3]\nThird", parts=3, left_out=("pages_without_text",)
    )


def test_a_pdf_with_scripts_gives_only_its_text() -> None:
    data = pdf(["Shown"], objects=["<</S/JavaScript/JS(app.alert\\(1\\))>>"], catalog="/OpenAction 6 0 R")
    assert read(data).text == "[Page 1]\nShown"


def test_word_gives_what_people_see() -> None:
    body = (
        paragraph("Title", '<w:pStyle w:val="berschrift2"/>') + paragraph("item", "<w:numPr/>")
        + "<w:tbl><w:tr><w:tc>" + paragraph("a") + paragraph("b") + "</w:tc><w:tc>" + paragraph("c")
        + "</w:tc></w:tr></w:tbl>"
        + "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
        + "<w:sdt><w:sdtContent>" + paragraph("in a control") + "</w:sdtContent></w:sdt>"
        + "<w:p><mc:AlternateContent><mc:Choice><w:r><w:t>box</w:t></w:r></mc:Choice>"
        + "<mc:Fallback><w:r><w:t>box</w:t></w:r></mc:Fallback></mc:AlternateContent></w:p>"
    )  # fmt: skip
    more: dict[str, str | bytes] = {"word/footnotes.xml": notes("a note"), "word/header1.xml": "<x/>"}
    found = read(word(body, {**more, "word/vbaProject.bin": b"macro", "word/comments.xml": "<x/>"}))
    blocks = ["## Title", "- item", "a b | c", "new", "in a control", "box", "Footnotes", "a note"]
    assert found == ReadFile("word", "\n\n".join(blocks), left_out=("margins", "comments", "macros"))


def test_a_spreadsheet_gives_the_values_of_its_sheets() -> None:
    sheets: dict[str, Sequence[Sequence[str | float]]] = {
        "One": [["a", 1.0], [], ["b, c", 2.5, ""]],
        "Empty": [],
        "Secret": [["x"]],
    }
    found = read(spreadsheet(sheets, {"xl/vbaProject.bin": b"macro"}, hidden=["Secret"]))
    text = '[Sheet One]\na,1\n"b, c",2.5'
    assert found == ReadFile("spreadsheet", text, parts=1, left_out=("empty_sheets", "hidden_sheets", "macros"))


def test_the_contents_decide_and_not_the_ending() -> None:
    assert read(word(paragraph("words")), "numbers.xlsx").form == "word"
    assert read(spreadsheet({"S": [["v"]]}), "words.docx").form == "spreadsheet"
    assert read(b"plain words", "words.pdf").form == "code"


REFUSED: list[tuple[str, bytes, Code]] = [
    ("nothing", b"", "empty"),
    ("blanks", b" \n\t\r\n", "empty"),
    ("zeros", bytes(5000), "empty"),
    ("a.png", b"\x89PNG\r\n\x1a\n\0\0", "image"),
    ("a.txt", b"\xff\xd8\xff\xe0 JPEG", "image"),
    ("a.heic", b"\0\0\0\x18ftypheic\0\0", "image"),
    ("a.webp", b"RIFF\0\0\0\0WEBPVP8 ", "image"),
    ("a.csv", b"a,b\0c", "not_text"),
    ("program", b"\x7fELF\x02\x01\x01", "not_text"),
    ("half.txt", codecs.BOM_UTF16_LE + b"a", "broken"),
    ("surrogate.txt", codecs.BOM_UTF16_LE + b"\x00\xd8a\0", "broken"),
    ("long.csv", b"x" * (4 * MAX_CHARS + 5), "too_long"),
    ("long.txt", b"x" * (MAX_CHARS + 1), "too_long"),
    ("long.pdf", pdf(["word " * 15] * 300), "too_long"),
    ("long.docx", word(paragraph("x" * (MAX_CHARS + 1))), "too_long"),
    ("long.xlsx", spreadsheet({"S": [["x" * 100] * 10] * 30}), "too_long"),
    ("scan.pdf", pdf(["", ""]), "no_text"),
    ("cut.pdf", pdf(["x"])[:200], "broken"),
    ("no xref.pdf", b"%PDF-1.7\ngarbage", "broken"),
    ("locked.pdf", encrypted_pdf(), "encrypted"),
    ("empty.docx", word(""), "no_text"),
    ("entities.docx", word(paragraph("x"), head=ENTITIES), "broken"),
    ("entities in styles.docx", word(paragraph("x"), {"word/styles.xml": ENTITIES + "<w/>"}), "broken"),
    ("no end.docx", word("<w:p>"), "broken"),
    ("cut.docx", word(paragraph("x"))[:-40], "broken"),
    ("empty.xlsx", spreadsheet({"S": []}), "no_text"),
    ("broken.xlsx", packed({"xl/workbook.xml": "<"}), "broken"),
    ("entities.xlsx", spreadsheet({"S": [["before", "&c;&b;"]]}, head=ENTITIES, raw=True), "broken"),
    ("slides.pptx", packed({"[Content_Types].xml": "", "ppt/presentation.xml": ""}), "other_office"),
    ("text.odt", packed({"mimetype": "application/vnd.oasis.opendocument.text"}), "other_office"),
    ("text.rtf", b"{\\rtf1 text}", "other_office"),
    ("files.zip", packed({"a.txt": "x"}), "archive"),
    ("old.doc", OLE + "WordDocument".encode("utf-16-le"), "old_office"),
    ("locked.docx", OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
    ("many.docx", packed({f"{n}": "" for n in range(MOST_ENTRIES + 1)}), "too_large_inside"),
]


@pytest.mark.parametrize(("name", "data", "code"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_refuses_with_a_reason(name: str, data: bytes, code: Code) -> None:
    with pytest.raises(UnreadableError) as error:
        read(data, name)
    assert error.value.code == code


def test_a_bomb_is_refused_before_anything_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = word(paragraph("x"))
    size = struct.pack("<I", MOST_BYTES + 1)
    at = data.index(b"PK\x01\x02")  # the directory's first entry; its unpacked size stands 24 bytes on
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(UnreadableError, match="too_large_inside"):
        read(data[: at + 24] + size + data[at + 28 :])


def test_tables_within_tables_and_deep_nesting_end() -> None:
    assert read(word(nested_table(200))).text.count("cell") == 200


def test_reading_changes_nothing_of_the_bytes() -> None:
    data = pdf(["x"])
    digest = hashlib.sha256(data).digest()
    read(data)
    assert hashlib.sha256(data).digest() == digest
