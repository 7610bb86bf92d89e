"""The list of elements, attributes and classes that rendered text may hold; everything else is dropped."""

from __future__ import annotations

from typing import Final

import nh3
from pygments.token import STANDARD_TYPES

from webui.rendering.tex.mathml import MATH_CLASSES

_MATH_TAGS: Final = {
    "math", "merror", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom", "mprescripts",
    "mroot", "mrow", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder",
    "munderover",
}  # fmt: skip
_PROSE_TAGS: Final = {
    "a", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "input", "kbd", "li", "ol",
    "p", "pre", "s", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_MATH_ATTRIBUTES: Final = {
    "accent", "accentunder", "display", "displaystyle", "form", "height", "largeop", "linethickness", "lspace",
    "mathvariant", "maxsize", "minsize", "movablelimits", "rspace", "scriptlevel", "stretchy", "symmetric", "voffset",
    "width",
}  # fmt: skip
_cleaner: Final = nh3.Cleaner(
    tags=_PROSE_TAGS | _MATH_TAGS,
    attributes={
        "a": {"href", "title"},
        "div": {"data-language"},
        "ol": {"start"},
        "input": {"disabled", "checked", "aria-label"},
    }
    | {tag: _MATH_ATTRIBUTES for tag in _MATH_TAGS},
    allowed_classes={
        "div": {"code-block", "math-block", "table-scroll"},
        "span": {name for name in STANDARD_TYPES.values() if name} | {"image-absent"},
        "code": {"math-source"},
        **{tag: MATH_CLASSES for tag in _MATH_TAGS},
        "p": {"render-note", "code-title", "footnote", "definition"},
        "li": {"task"},
        "th": {"align-left", "align-center", "align-right"},
        "td": {"align-left", "align-center", "align-right"},
    },
    set_tag_attribute_values={"input": {"type": "checkbox", "disabled": ""}},  # the box of a task, and nothing else
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
)


def clean(html_text: str) -> str:
    """`html_text` with what is listed here and nothing else. Links are absolute: http, https or mailto."""
    return _cleaner.clean(html_text)
