"""A whole request as the model read it: every message with its role and channel, the tools, the stop texts. Pure.

The list and the chat show only what the person said last. Instructions, earlier messages and descriptions of tools
reach the model too. Here only the appliance's own system message is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Final

import openai_harmony as oh
from markupsafe import Markup

from appliance.audit.details.codec import UNREADABLE
from appliance.audit.details.turns import read_beside
from appliance.engine.harmony import ConversationError, conversation_of
from appliance.turns.request import Tool, TurnRequest
from webui.review.present.unseen import visible

MAX_SHOWN_CHARS: Final = 50_000  # the page shows so much of one message; the source has all


@dataclass(frozen=True)
class AskedPart:
    """One message or tool: its sender and recipient as a title, and its text."""

    title: str
    text: Markup
    left_out: int  # so many characters of a very long text stand in the source alone


@dataclass(frozen=True)
class AskedRequest:
    """The request. ``problem`` says why it could not be put into the model's form."""

    parts: tuple[AskedPart, ...]
    summary: str
    problem: str | None = None


def asked_request(request: TurnRequest, when: datetime) -> AskedRequest:
    """The request of a prompt that was recorded at `when`."""
    messages, problem = _messages(request, when.astimezone(UTC).date())
    stops = [_part("Stop text", text) for text in request.stop]
    parts = (*messages, *map(_tool, request.tools), *stops)
    return AskedRequest(parts, _summary(request), problem)


def beside_words(beginning: str) -> str:
    """What reaches the model beside a prompt's own words, by the beginning of its details; "" if nothing does."""
    try:
        beside = read_beside(beginning)
    except UNREADABLE:
        return "more than can be counted"
    if beside is None:
        return ""
    told = (
        (beside.system, "system {:,} character", "system {:,} characters", None),
        (beside.earlier, "{:,} earlier message", "{:,} earlier messages", beside.earlier_characters),
        (beside.begun, "an answer begun with {:,} character", "an answer begun with {:,} characters", None),
        (beside.tools, "{:,} tool", "{:,} tools", beside.tool_characters),
        (beside.stop, "stop texts of {:,} character", "stop texts of {:,} characters", None),
        (beside.schema, "a schema of {:,} character", "a schema of {:,} characters", None),
    )
    return ", ".join(
        (one if count == 1 else many).format(count) + ("" if length is None else f" ({length:,} characters)")
        for count, one, many, length in told
        if count
    )


def _messages(request: TurnRequest, today: date) -> tuple[list[AskedPart], str | None]:
    if request.form == "text":
        return [
            _part("Bare text, which the answer goes on from", message.content) for message in request.messages
        ], None
    try:
        conversation = conversation_of(request, today=today)
    except ConversationError as exc:
        parts = [_part(message.role, message.content) for message in request.messages]
        return parts, f"The model never read it: {exc}"
    parts = [_part(_title(message), _text(message)) for message in conversation if message.author.role != "system"]
    if request.continues:
        parts[-1] = replace(parts[-1], title=parts[-1].title + ", which the answer goes on from")
    return parts, None


def _title(message: oh.Message) -> str:
    author = message.author.name or str(message.author.role.value)
    channel = f", channel {message.channel}" if message.channel else ""
    return author + channel + (f", to {message.recipient}" if message.recipient else "")


def _text(message: oh.Message) -> str:
    parts: list[str] = []
    for content in message.content:
        if isinstance(content, oh.TextContent):
            parts.append(content.text)
        elif isinstance(content, oh.DeveloperContent):
            parts.append(content.instructions or "")
    return "".join(parts)


def _tool(tool: Tool) -> AskedPart:
    schema = json.dumps(tool.parameters, ensure_ascii=False, indent=1) if tool.parameters else "no parameters"
    return _part(f"Tool {tool.name}", f"{tool.description}\n\n{schema}")


def _part(title: str, text: str) -> AskedPart:
    return AskedPart(title, visible(text[:MAX_SHOWN_CHARS]), max(0, len(text) - MAX_SHOWN_CHARS))


def _summary(request: TurnRequest) -> str:
    messages, tools = len(request.messages), len(request.tools)
    words = f"{messages:,} message" + ("s" if messages != 1 else "")
    if tools:
        words += f", {tools:,} tool" + ("s" if tools != 1 else "")
    return f"The whole request as the model read it: {words}"
