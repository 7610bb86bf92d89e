"""MathML of TeX, by math-core, within limits of length, depth and time.

Covers: math-core is native code that nothing can interrupt and that recurses, so what it is given is short and not
deep (tests/attacks/test_up_formulae.py measures time and stack), and commands cannot be defined: a few of them would
make megabytes. Its style attributes, which the page's policy forbids, become classes of css/prose.css.
Does not cover: what may be in the HTML, which `cleaner` says.
"""

from __future__ import annotations

import re
from typing import Final

from math_core import LatexError, LatexToMathML

from webui.rendering.tex.macros import MACROS
from webui.rendering.tex.reader import depth_of
from webui.rendering.tex.translate import translated

MAX_FORMULA_CHARS: Final = 2_000
MAX_FORMULA_DEPTH: Final = 40
MAX_TRANSLATED_CHARS: Final = 4 * MAX_FORMULA_CHARS  # units and chemistry are longer in TeX
MAX_MATHML_CHARS: Final = 200_000

_converter: Final = LatexToMathML(
    macros=MACROS, ignore_unknown_commands=True, fancy_error=False, allow_unreliable_rendering=True, max_expansions=300
)
_DEFINES: Final = re.compile(
    r"\\(?:(?:re|provide)?newcommand|[egx]?def|g?let|DeclareMathOperator|newenvironment)(?![a-z])"
)
_STYLE: Final = re.compile(r' style="([^"]*)"')
_CLASS_OF: Final = {
    "text-align: right": "math-right", "text-align: left": "math-left", "padding-right: 0": "math-close",
    "padding-left: 0": "math-open", "padding-left:1em": "math-apart", "width: 100%": "math-wide",
    "width: 50%": "math-margin", "width: 7.5%": "math-small-margin",
    "border-left: 0.05em solid currentcolor": "math-line-left",
    "border-top: 0.05em solid currentcolor": "math-line-top",
    "border-right: 0.05em solid currentcolor": "math-line-right",
    "border-bottom: 0.05em solid currentcolor": "math-line-bottom", "padding-top: 0.1667em": "math-low",
    "color:#FF0000": "math-red", "color:#0000FF": "math-blue", "color:#00FF00": "math-green",
    "color:#008000": "math-green", "color:#FF8000": "math-orange", "color:#FFA500": "math-orange",
    "color:#800080": "math-purple", "color:#BF0040": "math-purple", "color:#808080": "math-grey",
}  # fmt: skip
_WIDTH: Final = re.compile(r'<mspace style="(?:width:|margin-left:)(-?[\d.]+r?em)')
_ENCLOSED: Final = re.compile(r'<menclose notation="([a-z ]+)">')
_ENCLOSURES: Final = {"box": "math-box", "updiagonalstrike": "math-strike", "downdiagonalstrike": "math-strike"}
_STRIKE: Final = re.compile(r'<mrow class="menclose-[a-z]+"></mrow>')
MATH_CLASSES: Final = {
    *_CLASS_OF.values(), *_ENCLOSURES.values(), "math-text-b", "math-text-i", "math-text-em", "math-text-code",
    "math-core-unknown-cmd",
}  # fmt: skip
_LETTERS: Final = re.compile(r"<mtext><(b|i|em|code)>([^<]*)</\1></mtext>")


def mathml_of(source: str, *, display: bool) -> str | None:
    """MathML of the TeX `source`; None if it cannot be converted within the limits."""
    if len(source) > MAX_FORMULA_CHARS or depth_of(source) > MAX_FORMULA_DEPTH or _DEFINES.search(source):
        return None
    tex = translated(source)
    if len(tex) > MAX_TRANSLATED_CHARS or depth_of(tex) > MAX_FORMULA_DEPTH + 10:
        return None
    try:
        made = _converter.convert_with_local_state(tex, displaystyle=display)
    except LatexError:
        return None
    return None if len(made) > MAX_MATHML_CHARS else _with_classes(made, display=display)


def _with_classes(made: str, *, display: bool) -> str:
    made = _WIDTH.sub(r'<mspace width="\1" style="', made)
    made = _STYLE.sub(_classes, made)
    made = _ENCLOSED.sub(lambda found: f'<mrow class="{_ENCLOSURES.get(found.group(1).split()[0], "math-box")}">', made)
    made = _STRIKE.sub("", made).replace("</menclose>", "</mrow>")
    made = _LETTERS.sub(r'<mtext class="math-text-\1">\2</mtext>', made)
    return made if display else made.replace("<math>", '<math display="inline">', 1)


def _classes(found: re.Match[str]) -> str:
    names = [_CLASS_OF[one] for one in map(str.strip, found.group(1).split(";")) if one in _CLASS_OF]
    return f' class="{" ".join(names)}"' if names else ""
