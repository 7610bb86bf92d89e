"""Conversation in, token ids out: the prompt side of the Harmony response format, through ``oss-harmony``.

The vocabulary is the release's own file, checked by SHA-256 before the library may read it; the library holds no code
that could fetch another. Text of users, tools and earlier answers can never become a special token: the library encodes
contents as ordinary text, and the names that stand in message headers are checked here.

Source: github.com/openai/harmony, docs/format.md. harmony_parser.py reads what comes out of the model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import Any

import openai_harmony as oh

from appliance.errors import ApplianceError
from appliance.installed_release import ReleaseError, verify_vocabulary
from appliance.turns.request import ORDINARY_TOKENS as ORDINARY_TOKENS
from appliance.turns.request import Effort, Message, Tool, ToolCall, TurnRequest
from appliance.turns.schemas import in_order

RETURN, CONSTRAIN, CHANNEL, START, END, MESSAGE, CALL = 200002, 200003, 200005, 200006, 200007, 200008, 200012
END_OF_TEXT = 199999  # of the base vocabulary: it stands between the documents of a bare text
ROLE = "assistant"  # the model's own, which every prompt ends with
FUNCTIONS = "functions."
ALL_TOKENS = 201_088

_VOCABULARY_NAME = "o200k_base.tiktoken"  # the library looks for this name in the directory it is given
_BASE_VARIABLE = "TIKTOKEN_ENCODINGS_BASE"
_HEADER_PIECE = re.compile(rb"[ A-Za-z0-9_.=\-]+")
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The library's byte-pair merging takes quadratic time over a run without a break, and holds the interpreter meanwhile:
# 50,000 emoji took 17 s. Contents are therefore handed over in pieces; where they cannot be, a longer run is refused.
_LONG_RUN = re.compile(r"\S{512}|\s{512}")
_REFUSED_RUN = re.compile(r"\S{8192}|\s{8192}")
_PART_CHARS = 16 * 1024
_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)|(?<=\n)(?=[^\s/])")  # no token reaches across these places
_UNNAMED_FORMAT = "answer"
_EFFORTS: dict[Effort, str] = {"low": "Low", "medium": "Medium", "high": "High"}


class ConversationError(ApplianceError):
    """The conversation cannot be written as Harmony; the text says which part and may be shown to the user."""


class Vocabulary:
    """o200k_harmony: token ids to bytes, text to token ids."""

    def __init__(self, encoding: oh.HarmonyEncoding) -> None:
        self.encoding = encoding

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens only: text that spells a special token stays text."""
        return list(self.encoding.encode(text, disallowed_special=()))

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes of an ordinary token; None for a special or unassigned one."""
        if not 0 <= token < ORDINARY_TOKENS:
            return None
        return self._bytes_of(token)

    def decode(self, tokens: Sequence[int]) -> str:
        """What tokens spell; a special one spells its name.

        Raises:
            ValueError: one is no token of the vocabulary.
        """
        if not all(0 <= token < ALL_TOKENS for token in tokens):
            raise ValueError("not a token of the vocabulary")
        return bytes(self.encoding._inner.decode_bytes(list(tokens))).decode("utf-8", "replace")

    @cached_property
    def header_pieces(self) -> dict[bytes, int]:
        """Every ordinary token that may be a piece of a header, by its bytes."""
        pieces = ((self._bytes_of(token), token) for token in range(ORDINARY_TOKENS))
        return {piece: token for piece, token in pieces if _HEADER_PIECE.fullmatch(piece)}

    def _bytes_of(self, token: int) -> bytes:
        # The library's public decode() replaces broken UTF-8; a stream needs the bytes to join across tokens.
        return bytes(self.encoding._inner.decode_bytes([token]))


def load_vocabulary(path: Path) -> Vocabulary:
    """Load o200k_harmony from ``path`` and from nowhere else.

    Raises:
        ReleaseError: the file is missing, misnamed or not o200k_base.
    """
    verify_vocabulary(path)
    if path.name != _VOCABULARY_NAME:
        raise ReleaseError(f"{path}: must be named {_VOCABULARY_NAME}")
    before = os.environ.get(_BASE_VARIABLE)
    os.environ[_BASE_VARIABLE] = str(path.parent.absolute())  # the library's only way to be told; it checks again
    try:
        encoding = oh.load_harmony_encoding(oh.HarmonyEncodingName.HARMONY_GPT_OSS)
    except oh.HarmonyError as exc:
        raise ReleaseError(f"{path}: the vocabulary cannot be loaded: {exc}") from exc
    finally:
        if before is None:
            del os.environ[_BASE_VARIABLE]
        else:
            os.environ[_BASE_VARIABLE] = before
    return Vocabulary(encoding)


def render_prompt(vocabulary: Vocabulary, request: TurnRequest, *, today: date) -> list[int]:
    """The tokens up to and including the ``<|start|>assistant`` that the model continues. A request that ``continues``
    ends inside the last message instead, and one of the form "text" is its bare text.

    Leading system and developer messages, the tools and the schema of the answer make the one developer message; later
    ones stand where they are.
    Reasoning of earlier turns is dropped, except of calls that no final answer has followed yet: the model needs the
    thoughts that led to them.

    Raises:
        ConversationError: there is no message, or a tool or tool result cannot be named.
    """
    if request.form == "text":
        return _ordinary(vocabulary, request.messages[0].content) or [END_OF_TEXT]
    rendered, begun = conversation_of(request, today=today), []
    if request.continues:
        said = request.messages[-1].content
        rendered = rendered[:-1] if said else rendered
        begun = [CHANNEL, *vocabulary.encode("final"), MESSAGE, *_ordinary(vocabulary, said)]
    return _rendered(vocabulary, rendered) + begun


def _rendered(vocabulary: Vocabulary, rendered: Sequence[oh.Message]) -> list[int]:
    try:
        return list(
            vocabulary.encoding.render_conversation_for_completion(
                oh.Conversation.from_messages(rendered),
                oh.Role.ASSISTANT,
                oh.RenderConversationConfig(auto_drop_analysis=False),  # _history has dropped it by the rule above
            )
        )
    except (oh.HarmonyError, ValueError, RecursionError) as exc:
        raise ConversationError(f"The conversation cannot be written in the model's format: {exc}.") from exc


def conversation_of(request: TurnRequest, *, today: date) -> list[oh.Message]:
    """The messages of the prompt in the order in which the model reads them, by the rules of `render_prompt`. The last
    one of a request that ``continues`` is the one that the answer goes on from.

    Raises:
        ConversationError: as `render_prompt`.
    """
    if not request.messages:
        raise ConversationError("The conversation has no message.")
    last = request.messages[-1]
    if request.continues and (last.role != "assistant" or last.tool_calls):
        raise ConversationError("An answer can go on only from an assistant's message without tool calls.")
    rendered = [_system(request.effort, today)]
    leading = 0
    while leading < len(request.messages) and request.messages[leading].role in ("system", "developer"):
        leading += 1
    instructions = "\n\n".join(m.content for m in request.messages[:leading] if m.content)
    if instructions or request.tools or request.answer_schema is not None:
        rendered.append(_developer(instructions, request.tools, request.answer_schema))
    return rendered + _history(request.messages[leading:], continues=request.continues)


def count_public_tokens(vocabulary: Vocabulary, prompt: Sequence[int], effort: Effort, *, today: date) -> int:
    """How many tokens at the beginning of a rendered prompt are the appliance's own: the same for everyone on that day
    who asks for that effort."""
    message = vocabulary.encoding.render(_system(effort, today))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(message, prompt, strict=False))
    return sum(1 for _ in same)


def _system(effort: Effort, today: date) -> oh.Message:
    system = (
        oh.SystemContent.new()
        .with_reasoning_effort(oh.ReasoningEffort(_EFFORTS[effort]))
        .with_conversation_start_date(today.isoformat())
    )
    return oh.Message.from_role_and_content(oh.Role.SYSTEM, system)


def _developer(instructions: str, tools: Sequence[Tool], answer_schema: Mapping[str, Any] | None = None) -> oh.Message:
    schemas = [_schema_text(tool.parameters) for tool in tools]
    if any(_REFUSED_RUN.search(text) for text in (instructions, *(tool.description for tool in tools), *schemas)):
        raise ConversationError("Instructions and tools may not hold 8,192 characters without a break.")
    content = oh.DeveloperContent.new()
    if instructions:
        content = content.with_instructions(_clean(instructions))
    if tools:
        described = [
            oh.ToolDescription.new(_function_name(tool.name), _clean(tool.description), parameters=json.loads(schema))
            for tool, schema in zip(tools, schemas, strict=True)
        ]
        content = content.with_function_tools(described)
    contents: list[oh.Content] = [content] if instructions or tools or answer_schema is None else []
    if answer_schema is not None:
        contents += _pieces(("\n\n" if contents else "") + response_format(answer_schema))
    return oh.Message.from_role_and_contents(oh.Role.DEVELOPER, contents)


def response_format(schema: Mapping[str, Any]) -> str:
    """How the model is told to which schema its answer is held: the end of the developer message.

    The library has no form for it. Source: openai/harmony, docs/format.md, "Structured output".
    """
    name, about = (" ".join(str(schema.get(key) or "").split()) for key in ("title", "description"))
    comment = f"// {about}\n" if about else ""
    return f"# Response Formats\n\n## {name or _UNNAMED_FORMAT}\n\n{comment}{_schema_text(schema)}"


def _schema_text(schema: Mapping[str, Any] | None) -> str:
    try:
        return _clean(json.dumps(None if schema is None else in_order(schema), ensure_ascii=False))
    except RecursionError as exc:
        raise ConversationError("A schema is nested too deep.") from exc


def _history(messages: Sequence[Message], *, continues: bool) -> list[oh.Message]:
    ended = messages[:-1] if continues else messages
    last_final = max((i for i, m in enumerate(ended) if m.role == "assistant" and not m.tool_calls), default=-1)
    names: dict[str, str] = {}  # tool call id -> function name
    rendered: list[oh.Message] = []
    for position, message in enumerate(messages):
        if message.role == "user":
            rendered.append(oh.Message.from_role_and_contents(oh.Role.USER, _pieces(message.content)))
        elif message.role == "assistant":
            names.update((call.id, call.name) for call in message.tool_calls)
            rendered += _assistant(message, with_reasoning=position > last_final)
        elif message.role == "tool":
            rendered.append(_tool_result(message, names))
        else:
            rendered.append(_developer(message.content, ()))
    return rendered


def _assistant(message: Message, *, with_reasoning: bool) -> list[oh.Message]:
    rendered = []
    if message.reasoning and with_reasoning:
        rendered.append(_said("analysis", message.reasoning))
    if message.content:
        rendered.append(_said("commentary" if message.tool_calls else "final", message.content))
    return rendered + [_call(call) for call in message.tool_calls]


def _said(channel: str, text: str) -> oh.Message:
    return oh.Message.from_role_and_contents(oh.Role.ASSISTANT, _pieces(text)).with_channel(channel)


def _call(call: ToolCall) -> oh.Message:
    recipient = FUNCTIONS + _function_name(call.name)
    return _said("commentary", call.arguments).with_recipient(recipient).with_content_type("<|constrain|>json")


def _tool_result(message: Message, names: dict[str, str]) -> oh.Message:
    name = names.get(message.tool_call_id or "") or message.name
    if name is None:
        raise ConversationError("A tool result answers no call of the conversation and names no function.")
    author = oh.Author.new(oh.Role.TOOL, FUNCTIONS + _function_name(name))
    answer = oh.Message(author=author, content=_pieces(message.content))
    return answer.with_channel("commentary").with_recipient(ROLE)


def _function_name(name: str) -> str:
    """Names stand in headers, where the library encodes special tokens: nothing but a plain name may get there."""
    if not _FUNCTION_NAME.fullmatch(name):
        raise ConversationError("A function's name must be 1 to 64 letters, digits, underscores or hyphens.")
    return name


def _pieces(text: str) -> list[oh.TextContent]:
    """The text, cut inside overlong runs only; the library writes the pieces one after the other, nothing between."""
    text = _clean(text)
    cuts = [0, *(match.end() for match in _LONG_RUN.finditer(text)), len(text)]
    return [oh.TextContent(text=text[start:end]) for start, end in pairwise(cuts)]


def _ordinary(vocabulary: Vocabulary, text: str) -> list[int]:
    """The tokens of a text that stands by itself, as the library would write them into a message."""
    parts = chain.from_iterable(_short_parts(piece.text) for piece in _pieces(text))
    return list(chain.from_iterable(map(vocabulary.encode, parts)))


def _short_parts(text: str) -> Iterator[str]:
    """The text in parts, each of about `_PART_CHARS` where words allow it; their tokens are the tokens of the whole.

    The library holds the interpreter while it encodes a part, and the model's thread needs it.
    """
    start = 0
    while len(text) - start > _PART_CHARS and (found := _BETWEEN_WORDS.search(text, start + _PART_CHARS)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def _clean(text: str) -> str:
    """Lone surrogates, which JSON can carry and UTF-8 cannot, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
