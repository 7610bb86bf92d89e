"""What /v1/messages answers about a turn. Pure: an answer's parts in, JSON out.

Source: Anthropic API reference, "Create a message".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from appliance.turns.answer import Stretch
from appliance.turns.events import Done
from appliance.turns.request import ToolCall
from webui.api.present import notice_delta

SIGNATURE: Final = "unsigned"  # clients give it back with the thinking; it signs nothing
Part = Stretch | ToolCall
_REASONS: Final = {"length": "max_tokens", "tool_calls": "tool_use"}


@dataclass(frozen=True)
class Envelope:
    """What every drawing of one answer repeats."""

    id: str
    model: str
    shows_thinking: bool = False

    def shows(self, part: Part) -> bool:
        return self.shows_thinking or isinstance(part, ToolCall) or part.kind != "reasoning"

    def message(
        self, content: Sequence[dict[str, Any]], done: Done | None, *, prompt_tokens: int = 0, cached_tokens: int = 0
    ) -> dict[str, Any]:
        """The message. Args: prompt_tokens, cached_tokens: where it is not done."""
        end = {"stop_reason": None, "stop_sequence": None} if done is None else ended(done)
        counts = usage(prompt_tokens, cached_tokens, 0) if done is None else usage_of(done)
        return {
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": list(content),
            **end, "usage": counts,
        }  # fmt: skip


def usage(prompt_tokens: int, cached_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": prompt_tokens - cached_tokens, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens, "output_tokens": output_tokens,
    }  # fmt: skip


def usage_of(done: Done) -> dict[str, int]:
    return usage(done.prompt_tokens, done.cached_tokens, done.completion_tokens)


def ended(done: Done) -> dict[str, Any]:
    """Why the answer ends."""
    reason = _REASONS.get(done.finish_reason, "end_turn" if done.stop_text is None else "stop_sequence")
    return {"stop_reason": reason, "stop_sequence": done.stop_text if reason == "stop_sequence" else None}


def content_of(envelope: Envelope, parts: Sequence[Part], done: Done) -> list[dict[str, Any]]:
    """The blocks of a whole answer. A call that the limit cut off is left out: its input is no JSON yet."""
    blocks = [block for part in parts if envelope.shows(part) and (block := _whole(part)) is not None]
    if done.notice is None:
        return blocks
    after_text = bool(blocks) and blocks[-1]["type"] == "text"
    said = notice_delta(done.notice, after_text=after_text)["content"]
    if after_text:
        return [*blocks[:-1], {"type": "text", "text": blocks[-1]["text"] + said}]
    return [*blocks, {"type": "text", "text": said}]


def _whole(part: Part) -> dict[str, Any] | None:
    if isinstance(part, Stretch):
        return begun(part) | (
            {"text": part.text} if part.kind == "text" else {"thinking": part.text, "signature": SIGNATURE}
        )
    try:
        given = json.loads(part.arguments)
    except ValueError:
        return None
    return {**begun(part), "input": given} if isinstance(given, dict) else None


def begun(part: Part) -> dict[str, Any]:
    """A block as it begins, with nothing in it."""
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
    if part.kind == "text":
        return {"type": "text", "text": ""}
    return {"type": "thinking", "thinking": "", "signature": ""}
