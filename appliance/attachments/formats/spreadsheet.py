"""The values of a spreadsheet as CSV, sheet by sheet, by calamine. Values are those that were saved, not formulas."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterator

import python_calamine

from appliance.attachments.formats.refused import UnreadableError, joined
from appliance.attachments.wire import ReadFile
from appliance.audit.details.turns import LeftOut

_VISIBLE = python_calamine.SheetVisibleEnum.Visible
_TABLE = python_calamine.SheetTypeEnum.WorkSheet
_Cell = int | float | str | bool | datetime.time | datetime.date | datetime.datetime | datetime.timedelta


def read_spreadsheet(data: bytes, max_chars: int, *, has_macros: bool) -> ReadFile:
    """Raises: UnreadableError."""
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
    except python_calamine.PasswordError as exc:
        raise UnreadableError("encrypted") from exc
    except python_calamine.CalamineError as exc:
        raise UnreadableError("broken") from exc
    sheets = book.sheets_metadata
    visible = [sheet for sheet in sheets if sheet.visible == _VISIBLE]
    shown = [sheet.name for sheet in visible if sheet.typ == _TABLE]
    empty = 0

    def texts() -> Iterator[str]:
        nonlocal empty
        for name in shown:
            lines = _lines(book, name)
            first = next(lines, None)
            if first is None:
                empty += 1
                continue
            yield f"[Sheet {name}]\n{first}"
            yield from lines
            yield "\n"

    text = joined(texts(), max_chars)
    if not text:
        raise UnreadableError("no_text")
    left_out: list[LeftOut] = []
    left_out += ["empty_sheets"] if empty else []
    left_out += ["charts"] if len(shown) < len(visible) else []
    left_out += ["hidden_sheets"] if len(visible) < len(sheets) else []
    left_out += ["macros"] if has_macros else []
    return ReadFile("spreadsheet", text, parts=len(shown) - empty, left_out=tuple(left_out))


def _lines(book: python_calamine.CalamineWorkbook, name: str) -> Iterator[str]:
    """The rows of a sheet that are not empty, without the empty cells at their ends."""
    try:
        rows = book.get_sheet_by_name(name).iter_rows()
    except python_calamine.CalamineError as exc:
        raise UnreadableError("broken") from exc
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for row in rows:
        values = [_written(cell) for cell in row]
        while values and not values[-1]:
            values.pop()
        if values:
            writer.writerow(values)
            yield line.getvalue()
            line.seek(0)
            line.truncate()


def _written(cell: _Cell) -> str:
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat(" ") if isinstance(cell, datetime.datetime) else cell.isoformat()
    return str(cell)
