"""The ``content`` of a message: a string, or a list of text parts, which are joined as they stand.

A refusal is what the model said, so it is text like the parts beside it, and stands once where they repeat it, as the
answers of this server do. Images, audio and files are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from installer.formats.checks import Choose, Length, Must, Rule
from webui.api.values import Text, form_of, only

MAX_PARTS: Final = 1024
_TEXTS: Final = ("text", "input_text", "output_text")  # the latter two are those of the Responses API
_NO_PART: Final = 'this model takes text only; leave this part out, or send a part of type "text" that describes it'


@dataclass(frozen=True)
class _Part:
    type: Annotated[Any, only(lambda kind: kind in _TEXTS, _NO_PART, schema={"enum": list(_TEXTS)})]
    text: Text


@dataclass(frozen=True)
class _Refusal:
    type: Literal["refusal"]
    refusal: Text


def _kind_of_part(entry: Any) -> str:
    return "refusal" if isinstance(entry, dict) and entry.get("type") == "refusal" else "text"


def _joined(parts: tuple[_Part | _Refusal, ...]) -> str:
    said = "".join(part.text for part in parts if isinstance(part, _Part))
    return "".join(
        part.text if isinstance(part, _Part) else "" if part.refusal in said else part.refusal for part in parts
    )


_PartOrRefusal = Annotated[Any, Choose(_kind_of_part, {"text": _Part, "refusal": _Refusal})]
Content = Annotated[
    str,
    Choose(
        form_of,
        {
            "text": Text,
            "list": Annotated[str, Rule(_joined, takes=Annotated[tuple[_PartOrRefusal, ...], Length(most=MAX_PARTS)])],
            "other": Annotated[str, Must("must be a string or a list of text parts")],
        },
        refused=("other",),
    ),
]
