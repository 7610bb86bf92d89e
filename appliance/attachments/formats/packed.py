"""What is in a ZIP file, read before anything is unpacked: the sort of document, and whether it is too large."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Final, Literal

from appliance.attachments.formats.refused import UnreadableError

MOST_ENTRIES: Final = 10_000
MOST_BYTES: Final = 256 * 1024 * 1024  # unpacked, of all entries; the memory of the process is limited as well


@dataclass(frozen=True)
class Packed:
    """A document made of packed parts. ``names`` are those of its parts."""

    sort: Literal["word", "spreadsheet"]
    archive: zipfile.ZipFile
    names: frozenset[str]

    @property
    def has_macros(self) -> bool:
        return any(name.endswith("vbaProject.bin") or name.startswith("Basic/") for name in self.names)


def open_packed(data: bytes) -> Packed:
    """Raises: UnreadableError: it is damaged, too large inside, or no document that can be read."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as exc:
        raise UnreadableError("broken") from exc
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES or sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise UnreadableError("too_large_inside")
    names = frozenset(entry.filename for entry in entries)
    return Packed(_sort_of(archive, names), archive, names)


def _sort_of(archive: zipfile.ZipFile, names: frozenset[str]) -> Literal["word", "spreadsheet"]:
    if "word/document.xml" in names:
        return "word"
    if names & {"xl/workbook.xml", "xl/workbook.bin"} or _is_open_document(archive, names, b"spreadsheet"):
        return "spreadsheet"
    if "[Content_Types].xml" in names or _is_open_document(archive, names, b""):
        raise UnreadableError("other_office")
    raise UnreadableError("archive")


def _is_open_document(archive: zipfile.ZipFile, names: frozenset[str], sort: bytes) -> bool:
    if "mimetype" not in names:
        return False
    try:
        with archive.open("mimetype") as part:
            return part.read(128).startswith(b"application/vnd.oasis.opendocument." + sort)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False
