"""The blocks of a message's content. Keys that are not declared here (``cache_control``, ``citations``..) are ignored.

Source: Anthropic API reference, "Create a message", ``messages``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from installer.formats.checks import Choose, FaultError, Length, Must, Rule
from webui.api.contents import MAX_PARTS
from webui.api.messages import MAX_ID_CHARS
from webui.api.tools import FunctionName
from webui.api.values import UNSUPPORTED, Text, chars, form_of, json_tree

_TAKEN: Final = "text, tool_use, tool_result, thinking and redacted_thinking"
Id = Annotated[Text, chars(1, MAX_ID_CHARS, f"must have 1 to {MAX_ID_CHARS} characters")]


@dataclass(frozen=True)
class TextBlock:
    """Words."""

    type: Literal["text"]
    text: Text


@dataclass(frozen=True)
class Thinking:
    """What the model thought. The signature is not looked at: it signs nothing."""

    type: Literal["thinking"]
    thinking: Text
    signature: Text = ""


@dataclass(frozen=True)
class RedactedThinking:
    """What another server's model thought, which nobody here can read."""

    type: Literal["redacted_thinking"]
    data: Text = ""


@dataclass(frozen=True)
class ToolUse:
    """A call that the model made."""

    type: Literal["tool_use"]
    id: Id
    name: FunctionName
    input: Annotated[dict[str, Any], Rule(json_tree)]


def _joined(blocks: tuple[TextBlock, ...]) -> str:
    return "".join(block.text for block in blocks)


def _unknown(entry: Any) -> Any:
    if not isinstance(entry, dict):
        raise FaultError("must be an object", kind="type")
    if entry.get("type") is None:
        raise FaultError("is required", kind="missing", at=("type",))
    raise FaultError(
        f"is of a kind that this model does not read; {_TAKEN} blocks are taken", kind=UNSUPPORTED, at=("type",)
    )


_UNKNOWN: Final = Annotated[Any, Rule(_unknown, takes=Any)]


def _is_text(entry: Any) -> str:
    return "text" if isinstance(entry, dict) and entry.get("type") == "text" else "unknown"


_Text = Annotated[Any, Choose(_is_text, {"text": TextBlock, "unknown": _UNKNOWN}, refused=("unknown",))]
Words = Annotated[  # a string, or text blocks, which are joined as they stand
    str,
    Choose(
        form_of,
        {
            "text": Text,
            "list": Annotated[str, Rule(_joined, takes=Annotated[tuple[_Text, ...], Length(most=MAX_PARTS)])],
            "other": Annotated[str, Must("must be a string or a list of text blocks")],
        },
        refused=("other",),
    ),
]


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: Id
    content: Words | None = None
    is_error: bool | None = None

    @property
    def text(self) -> str:
        """As the model reads it: nothing else tells it that a tool failed."""
        return f"Error: {self.content or ''}" if self.is_error else self.content or ""


Block = TextBlock | Thinking | RedactedThinking | ToolUse | ToolResult
_OF_USERS: Final[dict[str, Any]] = {"text": TextBlock, "tool_result": ToolResult, "unknown": _UNKNOWN}
_OF_ASSISTANTS: Final[dict[str, Any]] = {
    "text": TextBlock, "thinking": Thinking, "redacted_thinking": RedactedThinking, "tool_use": ToolUse,
    "unknown": _UNKNOWN,
}  # fmt: skip


def _content(kinds: dict[str, Any]) -> Any:
    """A string, or blocks of these kinds."""

    def kind_of(entry: Any) -> str:
        kind = entry.get("type") if isinstance(entry, dict) else None
        return kind if isinstance(kind, str) and kind in kinds else "unknown"

    block = Annotated[Any, Choose(kind_of, kinds, refused=("unknown",))]
    return Annotated[
        tuple[Block, ...],
        Choose(
            form_of,
            {
                "text": Annotated[tuple[Block, ...], Rule(lambda text: (TextBlock("text", text),), takes=Text)],
                "list": Annotated[tuple[block, ...], Length(most=MAX_PARTS)],
                "other": Annotated[tuple[Block, ...], Must("must be a string or a list of blocks")],
            },
            refused=("other",),
        ),
    ]


UserContent = _content(_OF_USERS)
AssistantContent = _content(_OF_ASSISTANTS)
