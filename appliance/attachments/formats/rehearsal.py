"""Reads a small file of each format, of our own making, before the first one that somebody sends.

The libraries and Python itself load code when they first need it. A process that reads a person's file can open no
file, so everything must be loaded by then. It shows at the start, too, that each format can be read here.
"""

from __future__ import annotations

import io
import zipfile
from typing import Final

from appliance.attachments.formats.any_file import read_file
from appliance.attachments.formats.refused import UnreadableError

_WORD: Final = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_SHEET: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006/relationships"
_DATE: Final = '<c s="1"><v>45000.5</v></c>'


def rehearse() -> None:
    """Raises: UnreadableError: a format cannot be read here."""
    for data in (_word(), _spreadsheet(), _pdf(), "ä".encode("cp1252")):
        read_file("", data, 1000)
    for mark, codec in (
        ("\ufeff", "utf-16-le"),
        ("\ufeff", "utf-16-be"),
        ("\ufeff", "utf-32-le"),
        ("\ufeff", "utf-32-be"),
    ):
        read_file("", (mark + "x").encode(codec), 1000)
    for refused in (b"%PDF-", b"PK\x05\x06", b"\0x"):
        try:
            read_file("", refused, 1000)
        except UnreadableError:
            continue
        raise RuntimeError("internal error: the reader reads what is no file")


def _word() -> bytes:
    body = f'<w:document xmlns:w="{_WORD}"><w:p><w:r><w:t>x</w:t></w:r></w:p></w:document>'
    return _packed({"word/document.xml": body, "name \u00e4": ""})


def _spreadsheet() -> bytes:
    relation = '<Relationships xmlns="{}"><Relationship Id="r1" Type="{}/{}" Target="{}"/></Relationships>'
    return _packed({
        "_rels/.rels": relation.format(_PACKAGE, _OFFICE, "officeDocument", "xl/workbook.xml"),
        "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_OFFICE}"><sheets>'
        '<sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relation.format(_PACKAGE, _OFFICE, "worksheet", "worksheets/sheet1.xml"),
        "xl/styles.xml": f'<styleSheet xmlns="{_SHEET}"><cellXfs><xf numFmtId="0"/><xf numFmtId="22"/></cellXfs>'
        "</styleSheet>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_SHEET}"><sheetData><row r="1">{_DATE}<c><v>1.5</v></c></row>'
        "</sheetData></worksheet>",
    })  # fmt: skip


def _packed(parts: dict[str, str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in parts.items():
            archive.writestr(name, body)
    return target.getvalue()


def _pdf() -> bytes:
    """Without a table of references, which PDFium finds for itself."""
    stream = "BT /F 9 Tf 9 9 Td (x) Tj ET"
    objects = (
        "<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F<</Type/Font/Subtype/Type1"
        "/BaseFont/Helvetica>>>>>>>>", f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream",
    )  # fmt: skip
    body = "".join(f"{number} 0 obj\n{one}\nendobj\n" for number, one in enumerate(objects, 1))
    return f"%PDF-1.4\n{body}trailer\n<</Root 1 0 R>>\n".encode()
