r"""Numbers with units of siunitx and mhchem as TeX: ``\SI{9.81}{\metre\per\second\squared}``, ``\pu{1.2e3 kJ mol-1}``.

Source: the manual of the LaTeX package siunitx, version 3, and that of mhchem for ``\pu``. Digits are not grouped: a
number stays one word. Options are ignored: they change how a quantity looks, not what it says.
"""

# ruff: noqa: RUF001 - letters and signs of the languages that are read here
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from webui.rendering.tex.reader import TexReader

_PREFIXES: Final = {
    "quecto": "q", "ronto": "r", "yocto": "y", "zepto": "z", "atto": "a", "femto": "f", "pico": "p", "nano": "n",
    "micro": "μ", "milli": "m", "centi": "c", "deci": "d", "deca": "da", "deka": "da", "hecto": "h", "kilo": "k",
    "mega": "M", "giga": "G", "tera": "T", "peta": "P", "exa": "E", "zetta": "Z", "yotta": "Y", "kibi": "Ki",
    "mebi": "Mi", "gibi": "Gi", "tebi": "Ti", "pebi": "Pi",
}  # fmt: skip
_UNITS: Final = {
    "ampere": "A", "candela": "cd", "kelvin": "K", "kilogram": "kg", "metre": "m", "meter": "m", "mole": "mol",
    "second": "s", "becquerel": "Bq", "degreeCelsius": "°C", "celsius": "°C", "coulomb": "C", "farad": "F",
    "gray": "Gy",
    "hertz": "Hz", "henry": "H", "joule": "J", "katal": "kat", "lumen": "lm", "lux": "lx", "newton": "N", "ohm": "Ω",
    "pascal": "Pa", "radian": "rad", "siemens": "S", "sievert": "Sv", "steradian": "sr", "tesla": "T", "volt": "V",
    "watt": "W", "weber": "Wb", "astronomicalunit": "au", "bel": "B", "dalton": "Da", "day": "d", "decibel": "dB",
    "degree": "°", "electronvolt": "eV", "hectare": "ha", "hour": "h", "litre": "L", "liter": "L", "minute": "min",
    "arcminute": "′", "arcsecond": "″", "neper": "Np", "tonne": "t", "gram": "g", "percent": "%", "bar": "bar",
    "atmosphere": "atm", "angstrom": "Å", "barn": "b", "bit": "bit", "byte": "B", "calorie": "cal", "mmHg": "mmHg",
    "knot": "kn", "molar": "M", "rpm": "rpm", "year": "a", "Molar": "M", "dpi": "dpi", "clight": "c",
    "elementarycharge": "e",
    # short forms
    "fg": "fg", "pg": "pg", "ng": "ng", "ug": "μg", "mg": "mg", "g": "g", "kg": "kg", "pm": "pm", "nm": "nm",
    "um": "μm",
    "mm": "mm", "cm": "cm", "dm": "dm", "m": "m", "km": "km", "as": "as", "fs": "fs", "ps": "ps", "ns": "ns",
    "us": "μs",
    "ms": "ms", "s": "s", "mol": "mol", "mmol": "mmol", "umol": "μmol", "nmol": "nmol", "kmol": "kmol", "A": "A",
    "mA": "mA", "uA": "μA", "kA": "kA", "L": "L", "l": "l", "ml": "ml", "mL": "mL", "ul": "μl", "uL": "μL", "Hz": "Hz",
    "kHz": "kHz", "MHz": "MHz", "GHz": "GHz", "THz": "THz", "N": "N", "mN": "mN", "kN": "kN", "MN": "MN", "Pa": "Pa",
    "kPa": "kPa", "MPa": "MPa", "GPa": "GPa", "kohm": "kΩ", "Mohm": "MΩ", "V": "V", "mV": "mV", "kV": "kV",
    "W": "W", "mW": "mW", "kW": "kW", "MW": "MW", "GW": "GW", "J": "J", "kJ": "kJ", "MJ": "MJ", "eV": "eV",
    "keV": "keV",
    "MeV": "MeV", "GeV": "GeV", "TeV": "TeV", "kWh": "kWh", "F": "F", "uF": "μF", "nF": "nF", "pF": "pF", "K": "K",
    "dB": "dB", "C": "C", "T": "T", "H": "H", "Wb": "Wb",
}  # fmt: skip
_POWERS: Final = {"squared": "2", "cubed": "3"}
_BEFORE: Final = {"square": "2", "cubic": "3"}
_NUMBER: Final = re.compile(
    r"(?P<sign>[+-]|\\pm|±)?\s*(?P<digits>[\d\s.,]*\d|\d*)(?P<doubt>\(\d+\))?"
    r"(?:\s*(?:\\pm|\+-|\+/-|±)\s*(?P<margin>[\d.,]+))?(?:\s*(?:[eEdD]|\\times\s*10\^|x10\^)\{?(?P<exponent>[+-]?\d+)\}?)?\s*"
)
_WORD: Final = re.compile(r"\\?[A-Za-zµμΩÅ°%′″]+|\\%")
_RAISED: Final = re.compile(r"\\(tothe|raiseto)\{([^{}]*)\}")
_EXPONENT: Final = re.compile(r"\^?\{?([+-]?\d+)\}?|\^\{([^{}]*)\}")


def number(text: str) -> str:
    """``1.5e-3``, ``1.23(4)``, ``1 +- 2``. What is no number is taken as TeX."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None or not (found["digits"] or found["exponent"]):
        return text.replace("%", r"\%")
    sign = {"±": r"\pm ", None: ""}.get(found["sign"], found["sign"])
    margin = rf" \pm {_digits(found['margin'])}" if found["margin"] else ""
    mantissa = f"{sign}{_digits(found['digits'])}{found['doubt'] or ''}{margin}"
    if not found["exponent"]:
        return mantissa
    power = f"10^{{{int(found['exponent'])}}}"
    if not found["digits"]:
        return f"{sign}{power}"
    return rf"{f'({mantissa})' if margin else mantissa} \times {power}"


def _digits(text: str) -> str:
    return re.sub(r"\s", "", text).replace(",", "{,}")


class _Units:
    """Units from left to right: commands of siunitx, or letters with signs between them."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._out: list[str] = []
        self._prefix = self._power = ""
        self._is_below = False  # after \per or /

    def tex(self) -> str:
        at = 0
        while at < len(self._text):
            at = self._step(at)
        joined = r"\,".join(self._out).replace(r"\,/\,", "/")
        return joined.replace(r"(\,", "(").replace(r"\,)", ")")

    def _step(self, at: int) -> int:
        power = _RAISED.match(self._text, at)
        if power is not None:
            self._before_or_after(power)
            return power.end()
        word = _WORD.match(self._text, at)
        if word is not None:
            self._word(word.group())
            return word.end()
        if self._out and (exponent := _EXPONENT.match(self._text, at)) is not None:
            self._raise(exponent.group(1) or exponent.group(2) or "")
            return exponent.end()
        if self._text[at] == "/":
            self._out.append("/")
        elif self._text[at] not in " .*·~{}\\,;:!\t\n^":
            self._out.append(self._text[at])
        return at + 1

    def _before_or_after(self, power: re.Match[str]) -> None:
        if power.group(1) == "raiseto":
            self._power = power.group(2)
        elif self._out:
            self._raise(power.group(2))

    def _word(self, word: str) -> None:
        name = word.removeprefix("\\")
        if not word.startswith("\\") or word == "\\%":
            self._add(name)
        elif name == "per":
            self._is_below = True
        elif name in _PREFIXES:
            self._prefix += _PREFIXES[name]
        elif name in _POWERS:
            self._raise(_POWERS[name])
        elif name in _BEFORE:
            self._power = _BEFORE[name]
        elif name in ("of", "cdot", "text", "mathrm", "highlight", "cancel"):
            return
        else:
            self._add(_UNITS.get(name, name))

    def _add(self, sign: str) -> None:
        upright = {"%": r"\%", "°": r"{}^{\circ}", "°C": r"{}^{\circ}\mathrm{C}", "Ω": r"\Omega", "μ": r"\mu "}.get(
            sign
        )
        unit = upright if upright and not self._prefix else rf"\mathrm{{{self._prefix}{sign}}}".replace("%", r"\%")
        power = self._power or "1"
        self._prefix = self._power = ""
        shown = f"-{power}" if self._is_below else power
        self._is_below = False
        self._out.append(unit if shown == "1" else f"{unit}^{{{shown}}}")

    def _raise(self, power: str) -> None:
        unit, _, was = (
            self._out[-1].rpartition("^") if re.search(r"\^\{-1\}$", self._out[-1]) else (self._out[-1], "", "")
        )
        self._out[-1] = f"{unit}^{{{'-' if was else ''}{power}}}"


def units(text: str) -> str:
    """``\\kilo\\metre\\per\\hour``, ``m/s^2``, ``kg.m^{-3}``, ``kJ mol-1``."""
    return _Units(text.strip()).tex()


def _quantity(amount: str, unit: str) -> str:
    made = units(unit)
    return number(amount) + ("" if made.startswith("{}^") and made == r"{}^{\circ}" else r"\," if made else "") + made


def _physical(reader: TexReader) -> str:
    """``\\pu``: a number, blanks, units."""
    text = reader.argument().strip().replace("//", "/")
    found = _NUMBER.match(text)
    if found is None or not found["digits"]:
        return units(text)
    return _quantity(text[: found.end()], text[found.end() :])


def _angle(text: str) -> str:
    parts = zip(text.split(";"), (r"^{\circ}", "'", "''"), strict=False)
    return "".join(f"{number(part)}{sign}" for part, sign in parts if part.strip())


def _after_options(make: Callable[[TexReader], str]) -> Callable[[TexReader], str]:
    def made(reader: TexReader) -> str:
        reader.option()
        return make(reader)

    return made


def _range(reader: TexReader) -> str:
    begin, end = number(reader.argument()), number(reader.argument())
    return rf"{begin}\text{{ to }}{end}"


def _list(reader: TexReader) -> str:
    return r",\ ".join(number(one) for one in reader.argument().split(";"))


_OLD_QUANTITY: Final = _after_options(lambda reader: _quantity(reader.argument(), _unit_of(reader)))


def _unit_of(reader: TexReader) -> str:
    """The unit of ``\\SI``, which may have a sign before it in square brackets."""
    sign = reader.option() or ""
    return sign + reader.argument()


QUANTITIES: Final[dict[str, Callable[[TexReader], str]]] = {
    "\\SI": _OLD_QUANTITY,
    "\\qty": _OLD_QUANTITY,
    "\\si": _after_options(lambda reader: units(reader.argument())),
    "\\unit": _after_options(lambda reader: units(reader.argument())),
    "\\num": _after_options(lambda reader: number(reader.argument())),
    "\\ang": _after_options(lambda reader: _angle(reader.argument())),
    "\\SIrange": _after_options(lambda reader: rf"{_range(reader)}\,{units(reader.argument())}"),
    "\\qtyrange": _after_options(lambda reader: rf"{_range(reader)}\,{units(reader.argument())}"),
    "\\numrange": _after_options(_range),
    "\\numlist": _after_options(_list),
    "\\SIlist": _after_options(lambda reader: rf"{_list(reader)}\,{units(reader.argument())}"),
    "\\qtylist": _after_options(lambda reader: rf"{_list(reader)}\,{units(reader.argument())}"),
    "\\pu": _physical,
}
