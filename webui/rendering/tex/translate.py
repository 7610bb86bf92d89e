"""TeX as models write it, in the commands that math-core takes.

What is translated: environments with other names, tags outside a numbered equation, formulae inside ``\\text``, rows
without an environment, plain TeX's matrices, and the commands of mhchem and siunitx. Equations get no numbers that
nobody wrote. A per cent sign is itself, because a comment would hide words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from webui.rendering.tex.chemistry import chemical
from webui.rendering.tex.quantities import QUANTITIES
from webui.rendering.tex.reader import TexReader

_ENVIRONMENTS: Final = {
    "align": "align*", "alignat": "align*", "alignat*": "align*", "flalign": "align*", "flalign*": "align*",
    "alignedat": "aligned", "split": "aligned", "gather": "gather*", "equation": "equation*", "multline": "multline*",
    "multlined": "gathered", "displaymath": "equation*", "math": "equation*", "eqnarray": "array", "eqnarray*": "array",
    "smallmatrix": "matrix", "psmallmatrix": "pmatrix", "bsmallmatrix": "bmatrix", "tabular": "array",
    "drcases": "rcases", "numcases": "cases", "IEEEeqnarray": "array", "IEEEeqnarray*": "array",
    **{f"{one}matrix*": f"{one}matrix" for one in ("", "p", "b", "B", "v", "V")},
}  # fmt: skip
_COUNTED: Final = {"alignat", "alignat*", "alignedat", "IEEEeqnarray", "IEEEeqnarray*"}  # they take an argument
_NUMBERED: Final = re.compile(r"\\begin\s*\{(?:align|gather|equation|multline|alignat|flalign)\*?\}")
_TAG: Final = re.compile(r"\\tag\*?\s*\{[^{}]*\}|\\(?:nonumber|notag)(?![a-zA-Z])")
_TEXT: Final = {"\\text", "\\mbox", "\\hbox", "\\textrm", "\\textnormal", "\\textup", "\\textmd", "\\textsl", "\\emph",
                "\\textbf", "\\textit", "\\texttt", "\\textsf", "\\textsc"}  # fmt: skip
_PLAIN_TEXT: Final = {"\\mbox", "\\hbox", "\\textrm", "\\textnormal", "\\textup", "\\textmd"}
_UPRIGHT: Final = re.compile(r"\\(?:mathrm|rm|text|operatorname|mathbf|bf|textrm)(?![a-zA-Z])\s*")
_IN_TEXT: Final = set("_&#^%$~")
_WORDS: Final = {"$": r"\$", "~": r"\ ", "^": r"\^{}"}  # any other gets a backslash
_STANDS_IN_TEXT: Final = {"\\%", "\\$", "\\&", "\\#", "\\_", "\\{", "\\}", "\\ ", "\\,", "\\quad", "\\ldots", "\\dots"}
_INSTEAD: Final = {
    "%": r"\%", "\\cr": r"\\", "\\newline": r"\\", "\\par": " ", "√": r"\surd ", "\\lbrack": "[", "\\rbrack": "]",
    "\\displaylines": "", "\\AA": r"\text{Å}", "\\nonumber": "", "\\notag": "",
}  # fmt: skip


def translated(source: str) -> str:
    """`source` in the commands of math-core."""
    body = _pieces(source.strip(), keeps_tags=bool(_NUMBERED.search(source)))
    return _tagged(_arranged(body), source)


def _pieces(source: str, *, keeps_tags: bool) -> str:
    reader, out = TexReader(source), list[str]()
    while piece := reader.token():
        if piece in _COMMANDS:
            out.append(_COMMANDS[piece](reader))
        elif piece in _TEXT:
            command = (
                "\\text" if piece in _PLAIN_TEXT else {"\\emph": "\\textit", "\\textsl": "\\textit"}.get(piece, piece)
            )
            out.append(_text(command, reader.argument()))
        elif keeps_tags and piece in ("\\nonumber", "\\notag", "\\tag", "\\tag*"):
            out.append(piece)
        elif piece in ("\\tag", "\\tag*"):
            reader.argument()  # `_tagged` puts it at the end
        elif piece == "\\limits" and out and out[-1] == "}":
            _name_with_limits(out)
        elif piece.isspace():
            out.append(" ")  # a blank line would end the formula
        else:
            out.append(_INSTEAD.get(piece, piece))
        if len(out) > 1 and out[-2].startswith("\\") and out[-2][-1:].isalpha() and out[-1][:1].isalpha():
            out.insert(-1, " ")
    return "".join(out)


def _name_with_limits(out: list[str]) -> None:
    """The group that ends `out`, as the name of an operator that takes limits below it."""
    depth = 0
    for at in range(len(out) - 1, -1, -1):
        depth += (out[at] == "}") - (out[at] == "{")
        if depth == 0:
            name = _UPRIGHT.sub("", "".join(out[at:])).replace("{", "").replace("}", "")
            begin = at - 1 if at and out[at - 1] in ("\\mathop", "\\operatorname") else at
            out[begin:] = ["\\operatorname*{", name, "}"]
            return


def _arranged(body: str) -> str:
    """Rows and columns outside every environment get one."""
    depth, has_cells, has_rows = 0, False, False
    reader = TexReader(body)
    while piece := reader.token():
        depth += (piece in ("{", "\\begin")) - (piece in ("}", "\\end"))
        if piece in ("\\begin", "\\end"):
            reader.argument()
        if depth == 0:
            has_cells, has_rows = has_cells or piece == "&", has_rows or piece == "\\\\"
    if not (has_cells or has_rows):
        return body
    name = "aligned" if has_cells else "gathered"
    return f"\\begin{{{name}}}{body}\\end{{{name}}}"


def _tagged(body: str, source: str) -> str:
    """A tag outside a numbered equation makes the whole formula one."""
    tags = [tag for tag in _TAG.findall(source) if tag.startswith("\\tag")]
    if not tags or _NUMBERED.search(source):
        return body
    more = "".join("\\quad" + _text("\\text", tag[tag.index("{") + 1 : -1]) for tag in tags[1:])
    return f"\\begin{{equation*}}{body}{more}{tags[0]}\\end{{equation*}}"


def _text(command: str, content: str) -> str:
    """``\\text`` with what math-core does not take in it set beside it: formulae and other commands."""
    reader, out, words = TexReader(content), list[str](), ""
    while piece := reader.token():
        if piece == "$" or piece == "\\(":
            closing = "$" if piece == "$" else "\\)"
            inner, reader.at = _until(content, reader.at, closing)
            out += [_words(command, words), "{", _pieces(inner, keeps_tags=False), "}"]
            words = ""
        elif piece.startswith("\\") and piece not in _STANDS_IN_TEXT:
            taken = _taken(piece, reader)
            out += [_words(command, words), taken]
            words = ""
        elif piece in "{}":
            continue
        else:
            words += _WORDS.get(piece, "\\" + piece) if piece in _IN_TEXT else piece
    return "{" + "".join([*out, _words(command, words)]) + "}"


def _words(command: str, words: str) -> str:
    return f"{command}{{{words}}}" if words else ""


def _until(content: str, begin: int, closing: str) -> tuple[str, int]:
    end = content.find(closing, begin)
    return (content[begin:], len(content)) if end < 0 else (content[begin:end], end + len(closing))


def _taken(piece: str, reader: TexReader) -> str:
    """A command inside ``\\text`` with the groups that follow it, as a formula."""
    begin = reader.at
    while not reader.is_done and reader.source[reader.at] == "{":
        reader.argument()
    return _pieces(piece + reader.source[begin : reader.at], keeps_tags=False) + " "


def _begin(reader: TexReader) -> str:
    name = reader.argument()
    if re.match(r"\[[tbclr]\]", reader.source[reader.at :]):
        reader.option()
    columns = ""
    if name in _COUNTED:
        reader.argument()
    if name in ("array", "tabular", "subarray"):
        columns = "{" + (re.sub(r"[^lcr|]", "", re.sub(r"[@!>*]\{[^{}]*\}", "", reader.argument())) or "c") + "}"
    elif _ENVIRONMENTS.get(name) == "array":
        columns = "{rcl}"
    return f"\\begin{{{_ENVIRONMENTS.get(name, name)}}}{columns}"


def _end(reader: TexReader) -> str:
    name = reader.argument()
    return f"\\end{{{_ENVIRONMENTS.get(name, name)}}}"


def _fence(command: str) -> Callable[[TexReader], str]:
    def fence(reader: TexReader) -> str:
        for sign, name in (("<", "\\langle "), (">", "\\rangle ")):
            if reader.follows(sign):
                return f"{command}{name}"
        return f"{command} "

    return fence


def _plain_matrix(name: str) -> Callable[[TexReader], str]:
    """``\\pmatrix{a & b \\cr c & d}`` of plain TeX."""

    def matrix(reader: TexReader) -> str:
        return f"\\begin{{{name}}}{_pieces(reader.argument(), keeps_tags=False)}\\end{{{name}}}"

    return matrix


def _verbatim(reader: TexReader) -> str:
    sign = reader.token()
    content, reader.at = _until(reader.source, reader.at, sign)
    return _text("\\texttt", content)


def _reference(reader: TexReader) -> str:
    return _text("\\text", f"({reader.argument()})")


def _link(reader: TexReader) -> str:
    """Formulae hold no links: the address stands behind the words."""
    address, words = reader.argument(), reader.argument()
    shown = _text("\\text", f" ({address})")
    return f"{{{_pieces(words, keeps_tags=False)}}}{shown}"


def _second_of_two(reader: TexReader) -> str:
    reader.argument()
    return f"{{{_pieces(reader.argument(), keeps_tags=False)}}}"


def _framed(reader: TexReader) -> str:
    notation, content = reader.argument(), _pieces(reader.argument(), keeps_tags=False)
    return f"\\cancel{{{content}}}" if "strike" in notation else f"\\boxed{{{content}}}"


def _box(reader: TexReader) -> str:
    reader.option()
    return f"{{{_pieces(reader.argument(), keeps_tags=False)}}}"


def _fbox(reader: TexReader) -> str:
    return "\\boxed{" + _text("\\text", reader.argument()) + "}"


def _nothing(reader: TexReader) -> str:
    reader.argument()
    return ""


def _character(reader: TexReader) -> str:
    number = reader.argument()
    try:
        char = chr(int(number[1:], 16) if number[:1] in "xX" else int(number))
    except (ValueError, OverflowError):
        return _text("\\text", number)
    return _text("\\text", char if char.isprintable() else number)


def _grouped(make: Callable[[TexReader], str]) -> Callable[[TexReader], str]:
    return lambda reader: f"{{{make(reader)}}}"


_COMMANDS: Final[dict[str, Callable[[TexReader], str]]] = {
    "\\begin": _begin, "\\end": _end, "\\left": _fence("\\left"), "\\right": _fence("\\right"),
    "\\middle": _fence("\\middle"), "\\label": _nothing, "\\require": _nothing, "\\ref": _reference,
    "\\eqref": _reference, "\\href": _link, "\\url": lambda reader: _text("\\text", reader.argument()),
    "\\pmatrix": _plain_matrix("pmatrix"), "\\matrix": _plain_matrix("matrix"), "\\cases": _plain_matrix("cases"),
    "\\verb": _verbatim, "\\colorbox": _second_of_two, "\\enclose": _framed, "\\bbox": _box, "\\smash": _box,
    "\\fbox": _fbox, "\\unicode": _character, "\\ce": lambda reader: f"{{{chemical(reader.argument())}}}",
    "\\ch": lambda reader: f"{{{chemical(reader.argument())}}}",
    **{name: _grouped(make) for name, make in QUANTITIES.items()},
}  # fmt: skip
