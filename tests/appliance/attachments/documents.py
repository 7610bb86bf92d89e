"""Makes the documents that the tests attach: small PDF, Word and Excel files, byte by byte, with or without a fault."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

_TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def packed(parts: dict[str, str | bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in parts.items():
            archive.writestr(name, body)
    return target.getvalue()


def word(body: str, more: dict[str, str | bytes] | None = None, *, head: str = "") -> bytes:
    """A Word document. Args: body: WordprocessingML; more: further parts; head: what precedes the root element."""
    document = f'{head}<w:document xmlns:w="{_WORD}" xmlns:mc="{_MC}"><w:body>{body}</w:body></w:document>'
    styles = (
        f'<w:styles xmlns:w="{_WORD}"><w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style></w:styles>'
    )
    parts: dict[str, str | bytes] = {"[Content_Types].xml": _TYPES, "word/document.xml": document}
    return packed({**parts, "word/styles.xml": styles, **(more or {})})


_MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"


def paragraph(text: str, properties: str = "") -> str:
    return f'<w:p><w:pPr>{properties}</w:pPr><w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>'


def nested_table(depth: int) -> str:
    """A table in a cell of a table, and so on, with a word in each cell."""
    before = "<w:tbl><w:tr><w:tc>" + paragraph("cell")
    return before * depth + "</w:tc></w:tr></w:tbl>" * depth


def notes(text: str) -> str:
    return f'<w:footnotes xmlns:w="{_WORD}"><w:footnote>{paragraph(text)}</w:footnote></w:footnotes>'


def spreadsheet(
    sheets: dict[str, Sequence[Sequence[str | float]]], more: dict[str, str | bytes] | None = None,
    *, hidden: Sequence[str] = (), head: str = "", raw: bool = False,
) -> bytes:  # fmt: skip
    """An Excel file of these sheets, with values as inline strings and numbers. ``raw``: the strings are XML."""
    parts: dict[str, str | bytes] = {"[Content_Types].xml": _TYPES}
    listed, relations = "", ""
    for number, (name, rows) in enumerate(sheets.items(), 1):
        state = ' state="hidden"' if name in hidden else ""
        listed += f'<sheet name={quoteattr(name)} sheetId="{number}"{state} r:id="rId{number}"/>'
        relations += (
            f'<Relationship Id="rId{number}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{number}.xml"/>'
        )
        body = "".join(
            f'<row r="{at}">{"".join(_cell(value, raw=raw) for value in row)}</row>' for at, row in enumerate(rows, 1)
        )
        sheet = f'{head}<worksheet xmlns="{_SHEET}"><sheetData>{body}</sheetData></worksheet>'
        parts[f"xl/worksheets/sheet{number}.xml"] = sheet
    parts["xl/workbook.xml"] = f'<workbook xmlns="{_SHEET}" xmlns:r="{_OFFICE}"><sheets>{listed}</sheets></workbook>'
    parts["xl/_rels/workbook.xml.rels"] = f'<Relationships xmlns="{_RELATIONS}">{relations}</Relationships>'
    parts["_rels/.rels"] = (
        f'<Relationships xmlns="{_RELATIONS}">'
        f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    )
    return packed({**parts, **(more or {})})


def _cell(value: str | float, *, raw: bool) -> str:
    if isinstance(value, str):
        return f'<c t="inlineStr"><is><t>{value if raw else escape(value)}</t></is></c>'
    return f"<c><v>{value}</v></c>"


def encrypted_pdf() -> bytes:
    """A PDF that a password locks."""
    lock = f"<</Filter/Standard/V 1/R 2/O({'a' * 32})/U({'b' * 32})/P -4>>"
    return pdf(["x"], objects=[lock], trailer="/Encrypt 6 0 R/ID[(1)(2)]")


def pdf(pages: Sequence[str], *, objects: Sequence[str] = (), trailer: str = "", catalog: str = "") -> bytes:
    """A PDF with a line of text on each page; "" makes a page without text.

    Args: objects: further objects, numbered after those of the pages; trailer, catalog: further entries of these.
    """
    bodies = [f"<</Type/Catalog/Pages 2 0 R{catalog}>>", ""]
    kids = ""
    bodies.append("<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>")
    for text in pages:
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        bodies.append(f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream")
        kids += f"{len(bodies) + 1} 0 R "
        bodies.append(
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]"
            f"/Resources<</Font<</F1 3 0 R>>>>/Contents {len(bodies)} 0 R>>"
        )
    bodies[1] = f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>"
    bodies += objects
    out, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(bodies) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<</Size {size}/Root 1 0 R{trailer}>>\n"
    return out + end.encode() + f"startxref\n{len(out)}\n%%EOF\n".encode()
