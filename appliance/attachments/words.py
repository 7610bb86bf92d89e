"""What is said of files to people: what one is, what of it was not read, and why another cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from appliance.attachments.wire import Code
from appliance.audit.details.turns import FileFacts, FileForm, LeftOut

_FORMS: Final[dict[FileForm, str]] = {
    "text": "text", "code": "code or data", "csv": "CSV", "markdown": "Markdown", "pdf": "PDF", "word": "Word document",
    "spreadsheet": "spreadsheet",
}  # fmt: skip
_LEFT_OUT: Final[dict[LeftOut, str]] = {
    "pages_without_text": "Some pages have no text, as scanned pages have none.",
    "hidden_sheets": "Hidden sheets were left out.",
    "empty_sheets": "Empty sheets were left out.",
    "charts": "Charts were left out.",
    "macros": "It has macros, which were neither run nor read.",
    "margins": "Headers and footers were left out.",
    "comments": "Comments were left out.",
}  # fmt: skip
# What happened, and what to do.
_REFUSALS: Final[dict[Code, tuple[str, str]]] = {
    "empty": ("It is empty.", "Choose a file with text in it."),
    "image": ("It is a picture, and this model reads text alone.", "Describe what it shows, or attach its text."),
    "not_text": ("It is no text, and no document that can be read here.", "Attach text, PDF, .docx or .xlsx."),
    "archive": ("It is an archive of other files.", "Unpack it and attach the files that matter."),
    "other_office": ("Documents of this kind cannot be read here.", "Save it as PDF, .docx or .xlsx and attach that."),
    "old_office": ("It has the form of Office before 2007.", "Save it as .docx, .xlsx or PDF and attach that."),
    "encrypted": ("It is locked by a password.", "Save a copy without the password and attach that."),
    "broken": ("It is damaged, or is not what it says it is.", "Open it, save it again and attach the new file."),
    "no_text": ("It has no text, as a scanned page has none.", "Attach a version with text, or paste the text."),
    "too_long": ("It has more text than the model can read at once.", "Attach the part that matters, or paste it."),
    "too_large_inside": ("Unpacked, it is larger than can be read here.", "Attach a smaller part of it."),
    "out_of_memory": (
        "Reading it took more memory than is allowed.",
        "Attach a smaller part of it, or paste the text.",
    ),
    "out_of_time": ("Reading it took longer than is allowed.", "Attach a smaller part of it, or paste the text."),
    "reader_ended": ("Reading it did not come to an end.", "Try once more; if it happens again, paste the text."),
    "reader_busy": ("Too many files are being read just now.", "Attach it again in a minute."),
}


def form_words(facts: FileFacts) -> Iterator[str]:
    """What a file is: "PDF", "3 pages"."""
    yield _FORMS[facts.form]
    if facts.parts is not None:
        what = "page" if facts.form == "pdf" else "sheet"
        yield f"{facts.parts:,} {what}" if facts.parts == 1 else f"{facts.parts:,} {what}s"


def notes_of(facts: FileFacts) -> tuple[str, ...]:
    """What a person should know of the reading, in sentences."""
    notes = [_LEFT_OUT[code] for code in facts.left_out]
    if facts.encoding is not None:
        notes.append(f"It was read as {facts.encoding}.")
    return tuple(notes)


def refusal_words(code: Code) -> tuple[str, str]:
    """Why a file has no text, and what to do."""
    return _REFUSALS[code]


def size_words(size_bytes: int) -> str:
    """A size as people say it."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1000:,.0f} kB"
    return f"{size_bytes / 1_000_000:,.1f} MB"
