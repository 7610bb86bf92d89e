"""The text of a PDF, page by page, by PDFium. Scripts, forms and attachments of the PDF are not looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pypdfium2

from appliance.attachments.formats.refused import UnreadableError, joined
from appliance.attachments.wire import ReadFile

_PASSWORD = pypdfium2.raw.FPDF_ERR_PASSWORD


def read_pdf(data: bytes, max_chars: int) -> ReadFile:
    """Raises: UnreadableError."""
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as exc:
        raise UnreadableError("encrypted" if exc.err_code == _PASSWORD else "broken") from exc
    pages, empty = len(document), 0
    if pages < 1:
        raise UnreadableError("broken")

    def texts() -> Iterator[str]:
        nonlocal empty
        for number in range(pages):
            text = _text_of(document, number).strip()
            if text:
                yield f"[Page {number + 1}]\n{text}\n\n"
            else:
                empty += 1

    text = joined(texts(), max_chars)
    if not text:
        raise UnreadableError("no_text")
    return ReadFile("pdf", text, parts=pages, left_out=("pages_without_text",) if empty else ())


def _text_of(document: pypdfium2.PdfDocument, number: int) -> str:
    """The text of one page. A page that cannot be read counts as one without text."""
    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        return ""
    try:
        text = page.get_textpage()
        try:
            # PDFium writes a hyphen at the end of a line as U+FFFE or U+0002.
            return str(text.get_text_bounded()).replace("\ufffe", "-").replace("\x02", "-")
        finally:
            text.close()
    except pypdfium2.PdfiumError:
        return ""
    finally:
        page.close()
