"""Which format a file has, by what it holds; the ending of its name is only believed where there is nothing else."""

from __future__ import annotations

from typing import Final

from appliance.attachments.formats.packed import open_packed
from appliance.attachments.formats.pdf import read_pdf
from appliance.attachments.formats.plain import read_plain
from appliance.attachments.formats.refused import UnreadableError
from appliance.attachments.formats.spreadsheet import read_spreadsheet
from appliance.attachments.formats.word import read_word
from appliance.attachments.wire import ReadFile

_PDF_WITHIN_BYTES: Final = 1024  # other readers accept so much before the mark, too
_IMAGES: Final = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0", b"8BPS"),
    *(b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  "),
)
_BOXED_IMAGES: Final = (b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # the container of Office files before 2007, and of encrypted ones
_ENCRYPTED: Final = "EncryptedPackage".encode("utf-16-le")
_WORKBOOK: Final = "Workbook".encode("utf-16-le")


def read_file(name: str, data: bytes, max_chars: int) -> ReadFile:
    """The text of a file.

    Raises:
        UnreadableError: it has none, or more than ``max_chars``.
    """
    read = _read(name, data, max_chars)
    if not read.text.strip():
        raise UnreadableError("no_text")
    return read


def _read(name: str, data: bytes, max_chars: int) -> ReadFile:
    if not data.strip(b"\0\t\n\r "):
        raise UnreadableError("empty")
    if _is_image(name, data):
        raise UnreadableError("image")
    if b"%PDF-" in data[:_PDF_WITHIN_BYTES]:
        return read_pdf(data, max_chars)
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        packed = open_packed(data)
        if packed.sort == "word":
            return read_word(packed, max_chars)
        return read_spreadsheet(data, max_chars, has_macros=packed.has_macros)
    if data.startswith(_OLE):
        if _ENCRYPTED in data:
            raise UnreadableError("encrypted")
        if _WORKBOOK not in data:
            raise UnreadableError("old_office")
        return read_spreadsheet(data, max_chars, has_macros=b"_\0V\0B\0A\0" in data)
    if data.startswith(b"{\\rtf"):
        raise UnreadableError("other_office")
    return read_plain(data, name, max_chars)


def _is_image(name: str, data: bytes) -> bool:
    if data.startswith(_IMAGES) and not (data.startswith(b"BM") and b"\0" not in data[:64]):
        return True
    if data[4:12] in _BOXED_IMAGES or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return True
    return name.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".webp", ".heic", ".bmp", ".tiff")) and b"\0" in data
