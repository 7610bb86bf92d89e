"""Tables of GitHub's Markdown that keep every cell. Pipes inside code and formulae do not end a cell.

GitHub splits ``| `du | sort` | sizes |`` into three cells and drops the third. Here GitHub's way is taken only where it
gives as many cells as the head has and the other gives more. A row with more cells than the head widens the table.
"""

from __future__ import annotations

import re
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import MAX_AUTOCOMPLETED_CELLS

from webui.rendering.tex.reasons import is_formula, is_inline_formula

_RULE: Final = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_UNIT: Final = re.compile(r"\\.|`+|\$\$?|\||[^\\`$|]+|\\$", re.DOTALL)
_MAX_MORE_COLUMNS: Final = 20  # beyond the head; further cells share the last column

Row = list[str]


def add_tables(markdown: MarkdownIt) -> None:
    """Have `markdown` read tables so."""
    markdown.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})


def _table(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    sides = _sides(state, first, last)
    if sides is None:
        return False
    head = _cells(_text(state, first), len(sides))
    if "|" not in _text(state, first) or len(head) != len(sides):
        return False
    if silent:
        return True
    end, rows = _rows(state, first + 2, last, len(sides))
    columns = min(max([len(sides), *map(len, rows)]), len(sides) + _MAX_MORE_COLUMNS)
    sides = [*sides, *[""] * (columns - len(sides))]
    table = state.push("table_open", "table", 1)
    table.map = [first, end]
    _push_rows(state, "thead", "th", [head], first, sides)
    if rows:
        _push_rows(state, "tbody", "td", rows, first + 2, sides)
    state.push("table_close", "table", -1)
    state.line = end
    return True


def _text(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip()


def _sides(state: StateBlock, first: int, last: int) -> list[str] | None:
    """The alignment of each column, if the second line is the rule below a head."""
    rule = first + 1
    if rule >= last or state.sCount[rule] < state.blkIndent or state.is_code_block(rule) or state.is_code_block(first):
        return None
    text = _text(state, rule)
    if not _RULE.fullmatch(text) or ("|" not in text and ":" not in text and "|" not in _text(state, first)):
        return None
    cells = [one.strip() for one in text.strip("|").split("|")]
    side = {(True, True): "center", (True, False): "left", (False, True): "right", (False, False): ""}
    return [side[one.startswith(":"), one.endswith(":")] for one in cells]


def _rows(state: StateBlock, begin: int, last: int, columns: int) -> tuple[int, list[Row]]:
    """(the line after the table, its rows)."""
    rows, absent = list[Row](), 0
    terminators = state.md.block.ruler.getRules("blockquote")
    parent, state.parentType = state.parentType, "table"
    for line in range(begin, last):
        text = _text(state, line)
        if not text or state.sCount[line] < state.blkIndent or state.is_code_block(line):
            break
        if any(rule(state, line, last, True) for rule in terminators):
            break
        row = _cells(text, columns)
        absent += max(0, columns - len(row))
        if absent > MAX_AUTOCOMPLETED_CELLS:
            break
        rows.append(row)
    state.parentType = parent
    return begin + len(rows), rows


def _push_rows(state: StateBlock, part: str, tag: str, rows: list[Row], first: int, sides: list[str]) -> None:
    state.push(f"{part}_open", part, 1).map = [first, first + len(rows)]
    for at, row in enumerate(rows):
        line = [first + at, first + at + 1]
        state.push("tr_open", "tr", 1).map = line
        row = [*row[: len(sides) - 1], " | ".join(row[len(sides) - 1 :])] if len(row) > len(sides) else row
        for column, side in enumerate(sides):
            cell = state.push(f"{tag}_open", tag, 1)
            cell.attrs = {"style": f"text-align:{side}"} if side else {}
            inline = state.push("inline", "", 0)
            inline.map, inline.children = line, []
            inline.content = row[column].strip() if column < len(row) else ""
            state.push(f"{tag}_close", tag, -1)
        state.push("tr_close", "tr", -1)
    state.push(f"{part}_close", part, -1)


def _cells(text: str, columns: int) -> Row:
    """The cells of a row. Code and formulae keep their pipes, unless only GitHub's way gives as many as the head."""
    careful = _without_ends(_split(text, keeps=True))
    if len(careful) <= columns:
        return careful
    plain = _without_ends(_split(text, keeps=False))
    return plain if len(plain) == columns else careful


def _without_ends(cells: Row) -> Row:
    cells = cells[1:] if cells and not cells[0].strip() and len(cells) > 1 else cells
    return cells[:-1] if cells and not cells[-1].strip() and len(cells) > 1 else cells


def _split(text: str, *, keeps: bool) -> Row:
    """The parts between pipes. ``\\|`` is a pipe. `keeps`: pipes in code and formulae do not split."""
    cells, cell, at = list[str](), "", 0
    closings = _backticks(text) if keeps else {}
    while found := _UNIT.match(text, at):
        unit, begin = found.group(), at
        at = found.end()
        if unit == "|":
            cells.append(cell)
            cell = ""
            continue
        if keeps:
            at = _end_of_unit(text, unit, begin, at, closings)
        cell += text[begin:at].replace("\\|", "|")
    return [*cells, cell]


def _backticks(text: str) -> dict[int, list[int]]:
    """Where runs of so many backticks begin, the last first."""
    runs: dict[int, list[int]] = {}
    for found in re.finditer(r"`+", text):
        runs.setdefault(len(found.group()), []).insert(0, found.start())
    return runs


def _end_of_unit(text: str, unit: str, begin: int, end: int, closings: dict[int, list[int]]) -> int:
    """Where code or a formula that begins with `unit` ends; `end` if it is neither."""
    if unit.startswith("`"):
        runs = closings[len(unit)]
        while runs and runs[-1] <= begin:
            runs.pop()
        is_code = runs and not (text[end].isspace() and text[runs[-1] - 1].isspace())  # else two cells of one sign
        return runs[-1] + len(unit) if is_code else end
    if unit.startswith("$"):
        closing = text.find(unit, end)
        if closing < 0:
            return end
        content, after = text[end:closing], text[closing + len(unit) : closing + len(unit) + 6]
        before = text[begin - 1 : begin] if begin else ""
        good = is_inline_formula(content, before, after) if unit == "$" else is_formula(content)
        return closing + len(unit) if good else end
    if unit in ("\\(", "\\["):
        closing = text.find("\\)" if unit == "\\(" else "\\]", end)
        return closing + 2 if closing >= 0 and is_formula(text[end:closing]) else end
    return end
