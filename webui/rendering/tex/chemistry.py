r"""Chemical formulae of mhchem (``\ce``) as TeX: ``2H2 + O2 -> 2H2O``.

Source: the manual of the LaTeX package mhchem, version 4. Covers: elements, amounts, charges, isotopes, states, bonds,
arrows with words above and below, precipitates and gases, hydrates, words and formulae inside. Does not cover: the
width of bonds, and \bond for dotted ones, which become the nearest sign.
"""

# ruff: noqa: RUF001 - letters and signs of the languages that are read here
from __future__ import annotations

import re
from typing import Final

# Longer arrows stand before shorter ones.
_ARROWS: Final = {
    "<=>>": r"\xrightleftharpoons", "<<=>": r"\xrightleftharpoons", "<=>": r"\xrightleftharpoons",
    "<-->": r"\xrightleftharpoons", "<->": r"\xleftrightarrow", "->": r"\xrightarrow", "<-": r"\xleftarrow",
    "⇌": r"\xrightleftharpoons", "→": r"\xrightarrow", "⟶": r"\xrightarrow", "←": r"\xleftarrow",
    "↔": r"\xleftrightarrow",
}  # fmt: skip
_SHORT: Final = {  # an arrow without words above or below
    r"\xrightleftharpoons": r"\rightleftharpoons", r"\xleftrightarrow": r"\leftrightarrow",
    r"\xrightarrow": r"\rightarrow", r"\xleftarrow": r"\leftarrow",
}  # fmt: skip
_ARROW: Final = re.compile("|".join(map(re.escape, _ARROWS)))
_WORDS: Final = re.compile(r"\[((?:[^\[\]{}]|\{[^{}]*\})*)\]")
_MATHS: Final = re.compile(r"\$([^$]*)\$|\\\((.*?)\\\)")
_BOND: Final = re.compile(r"\\bond\{([^{}]*)\}")
_BONDS: Final = {
    "-": "-",
    "1": "-",
    "=": "=",
    "2": "=",
    "#": r"\equiv ",
    "3": r"\equiv ",
    "->": r"\to ",
    "<-": r"\gets ",
}
_ISOTOPE: Final = re.compile(r"([\^_])(\{[^{}]*\}|-?\d+)(?:([\^_])(\{[^{}]*\}|-?\d+))?(?=[A-Za-z\\])")
_SCRIPT: Final = re.compile(r"([\^_])(\{(?:[^{}]|\{[^{}]*\})*\}|\d*[+-]+|\d+[+-]?|[A-Za-z*.•'])")
_STATE: Final = re.compile(r"\((aq|s|l|g|cr|sol|solv|am|ads|s,\w+|aq,\s*∞|\$\\infty\$)\)")
_ATOM: Final = re.compile(r"[A-Z][a-z]?(?![a-z])|[A-Z][a-z]*|[a-z]+|[α-ωΑ-Ω]")
_AMOUNT: Final = re.compile(r"(\d+)/(\d+)|\d+(?:\.\d+)?")
_SUBSCRIPT: Final = re.compile(r"(?:\d*[nmxyz](?:[+-]\d+)?|\d+)(?![a-z])|\d+")
_CHARGE: Final = re.compile(r"[+-](?=\s|$|[\])}(]|\^|->)|(?<=[0-9])[+-](?=$|\s)")
_COMMAND: Final = re.compile(r"\\[a-zA-Z]+(?:\s*\{[^{}]*\})*|\\.")
_GROUP: Final = re.compile(r"\{((?:[^{}]|\{[^{}]*\})*)\}")


def chemical(formula: str) -> str:
    """The TeX of what stands in the braces of ``\\ce``."""
    return _Chemistry(formula.strip()).tex()


class _Chemistry:
    """A formula, read from left to right."""

    def __init__(self, formula: str) -> None:
        self._formula = formula
        self._at = 0
        self._out: list[str] = []
        self._is_new = True  # at the beginning of a molecule: a number is an amount
        self._may_follow = False  # something is there that a subscript or a charge can belong to

    def tex(self) -> str:
        steps = (self._blank, self._arrow, self._maths, self._bond_command, self._isotope, self._sign, self._state,
                 self._script, self._number, self._charge, self._atom, self._group, self._command)  # fmt: skip
        while self._at < len(self._formula):
            if not any(step() for step in steps):
                self._other()
        return "".join(self._out)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._formula, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _put(self, tex: str, *, new: bool = False, follow: bool = False) -> bool:
        self._out.append(tex)
        self._is_new, self._may_follow = new, follow
        return True

    def _blank(self) -> bool:
        if not self._formula[self._at].isspace():
            return False
        self._at += 1
        self._is_new, self._may_follow = True, False
        if self._out and not self._out[-1].endswith(("\\ ", "\\,", "\\;", "+", "=")):
            self._out.append("\\ ")
        return True

    def _arrow(self) -> bool:
        found = self._take(_ARROW)
        if found is None:
            return False
        command = _ARROWS[found.group()]
        above, below = self._take(_WORDS), self._take(_WORDS)
        if self._out and self._out[-1] == "\\ ":
            self._out.pop()
        if above is None:
            return self._put(f"\\;{_SHORT[command]}\\;", new=True)
        under = f"[{_word(below.group(1))}]" if below is not None and below.group(1) else ""
        return self._put(f"\\;{command}{under}{{{_word(above.group(1))}}}\\;", new=True)

    def _maths(self) -> bool:
        found = self._take(_MATHS)
        return found is not None and self._put(f"{{{found.group(1) or found.group(2) or ''}}}", follow=True)

    def _bond_command(self) -> bool:
        found = self._take(_BOND)
        return found is not None and self._put("{" + _BONDS.get(found.group(1), r"\cdots ") + "}")

    def _isotope(self) -> bool:
        """Mass and atomic number before an element."""
        if self._may_follow:
            return False
        found = self._take(_ISOTOPE)
        if found is None:
            return False
        scripts = {found.group(1): _bare(found.group(2))}
        if found.group(3):
            scripts.setdefault(found.group(3), _bare(found.group(4)))
        return self._put("{}" + "".join(f"{sign}{{{script}}}" for sign, script in scripts.items()))

    def _sign(self) -> bool:
        """What stands between blanks: plus, precipitate, gas, equals."""
        found = self._take(re.compile(r"(\+|v|\^|\(v\)|\(\^\)|=|↓|↑)(?=\s|$)")) if self._is_new else None
        if found is None:
            return False
        if found.group() in "+=":
            if self._out and self._out[-1] == "\\ ":
                self._out.pop()  # the sign has its own space
            return self._put(found.group(), new=True)
        return self._put(r"{}\downarrow {}" if found.group().strip("()") in "v↓" else r"{}\uparrow {}", new=True)

    def _state(self) -> bool:
        found = self._take(_STATE)
        return found is not None and self._put(f"\\text{{({found.group(1)})}}", follow=True)

    def _script(self) -> bool:
        found = self._take(_SCRIPT)
        if found is None:
            return False
        script = _signs(_bare(found.group(2)))
        apart = not self._may_follow or self._out[-1].removeprefix("{}").startswith(found.group(1))
        return self._put(("{}" if apart else "") + f"{found.group(1)}{{{script}}}", follow=True)

    def _number(self) -> bool:
        if self._may_follow:
            found = self._take(_SUBSCRIPT)
            apart = "{}" if self._out and self._out[-1].startswith("_") else ""
            return found is not None and self._put(f"{apart}_{{{found.group()}}}", follow=True)
        found = self._take(_AMOUNT)
        if found is None:
            return False
        over = found.group(2)
        return self._put((f"\\tfrac{{{found.group(1)}}}{{{over}}}" if over else found.group()) + "\\,")

    def _charge(self) -> bool:
        found = self._take(_CHARGE) if self._may_follow else None
        if found is None:
            return False
        apart = "{}" if self._out[-1].removeprefix("{}").startswith("^") else ""
        return self._put(f"{apart}^{{{found.group()}}}", follow=True)

    def _atom(self) -> bool:
        found = self._take(_ATOM)
        if found is None:
            return False
        name = found.group()
        is_variable = len(name) == 1 and name.islower() and name not in "e"
        return self._put(name if is_variable else f"\\mathrm{{{name}}}", follow=True)

    def _group(self) -> bool:
        found = self._take(_GROUP)
        return found is not None and self._put(_word(found.group(1)), follow=True)

    def _command(self) -> bool:
        found = self._take(_COMMAND)
        return found is not None and self._put(found.group() + " ", follow=True)

    def _other(self) -> bool:
        char = self._formula[self._at]
        self._at += 1
        match char:
            case "-" | "–":
                return self._put("{-}")
            case "=":
                return self._put("{=}")
            case "#":
                return self._put("{\\equiv}")
            case "*" | "." | "·" | "•":
                return self._put("\\cdot ", new=True)
            case "(" | "[":
                return self._put(char)
            case ")" | "]":
                return self._put(char, follow=True)
            case "+":
                return self._put("+", new=True)
            case "$" | "&" | "_" | "~":
                return self._put("\\" + char if char != "~" else "\\ ")
            case "{" | "}" | "\\":
                return True  # not balanced
            case "^":
                return self._put("\\uparrow ")
            case _:
                return self._put(char, follow=True)


def _word(content: str) -> str:
    """Words above an arrow, and in braces: a formula, a chemical formula or plain words."""
    whole = _MATHS.fullmatch(content.strip())
    if whole is not None:
        return f"{{{whole.group(1) or whole.group(2) or ''}}}"
    if content.startswith("\\") and _COMMAND.fullmatch(content):
        return content + " "
    if re.search(r"[A-Z][a-z]?\d|[A-Z][a-z]?[+-]|^[A-Z][a-z]?$|\\|[\^_]", content):
        return chemical(content)
    return f"\\text{{{content}}}"


def _bare(script: str) -> str:
    return script[1:-1] if script.startswith("{") else script


def _signs(script: str) -> str:
    """A script as it is, in upright letters."""
    if script in (".", "•", "*"):
        return "\\bullet" if script != "*" else script
    if re.fullmatch(r"[A-Z]+[a-z]*", script):
        return f"\\mathrm{{{script}}}"
    return _MATHS.sub(lambda found: found.group(1) or found.group(2) or "", script)
