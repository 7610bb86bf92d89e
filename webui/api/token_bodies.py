"""The fields of POST /v1/tokenize and /v1/detokenize. Source: vLLM's addresses of these names, without /v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from appliance.turns.request import Message
from installer.formats.checks import FaultError, Length
from webui.api.body import Body, Takes, sentences_of
from webui.api.messages import Messages
from webui.api.validation import ChatRequest, chat_request, parse_body
from webui.api.values import Text, between

MAX_TOKENS_SENT: Final = 131_072  # the longest context of the model
_LARGEST_ID: Final = 2**31 - 1
_MODEL: Final = "a name that /v1/models gives; may be left out"


@dataclass(frozen=True, kw_only=True)
class TokenizeBody(Body):
    """Of the fields of `Body`, only those in `FIELDS` may be sent."""

    model: Annotated[Text, Takes(_MODEL)] = ""
    prompt: Annotated[Text | None, Takes("a bare text, as for /v1/completions; this or messages")] = None
    messages: Annotated[Messages, Takes("a conversation, as for chat; counted with all that stands around it")] = ()
    return_token_strs: Annotated[bool, Takes("whether to say what each token spells; default false")] = False
    add_special_tokens: Annotated[bool, Takes("ignored: a bare text of this model begins with none")] = True


TOGETHER: Final = {
    "anyOf": [
        {
            "properties": {"prompt": {"type": "string"}, "messages": {"type": "null"}, "tools": {"maxItems": 0}},
            "required": ["prompt"],
        },
        {"properties": {"messages": {"type": "array"}, "prompt": {"type": "null"}}, "required": ["messages"]},
    ]
}  # what `_tokenize` checks
_SENTENCES: Final = sentences_of(TokenizeBody)
FIELDS: Final = {
    name: _SENTENCES[name]
    for name in (
        *("model", "prompt", "messages", "tools", "reasoning_effort", "continue_final_message"),
        *("add_generation_prompt", "return_token_strs", "add_special_tokens"),
    )
}


@dataclass(frozen=True, kw_only=True)
class DetokenizeBody:
    """The body of the other direction."""

    model: Annotated[Text, Takes(_MODEL)] = ""
    tokens: Annotated[
        tuple[Annotated[int, between(0, _LARGEST_ID)], ...],
        Length(most=MAX_TOKENS_SENT),
        Takes(f"required; up to {MAX_TOKENS_SENT:,} token ids"),
    ]


DETOKENIZE_FIELDS: Final = sentences_of(DetokenizeBody)


@dataclass(frozen=True)
class TokenizeRequest:
    """What is to be counted: a bare text (one message of the user), or a conversation."""

    chat: ChatRequest
    is_text: bool
    with_texts: bool


def parse_tokenize_request(raw: bytes, *, strict: bool = False) -> tuple[TokenizeRequest, tuple[str, ...]]:
    """Check a request's body. The second value names the fields that are not known.

    Args:
        strict: they are refused.
    Raises:
        ApiError: 400, with the field at fault in `param`.
    """
    return parse_body(raw, TokenizeBody, FIELDS, _tokenize, strict=strict)


def parse_detokenize_request(raw: bytes, *, strict: bool = False) -> tuple[DetokenizeBody, tuple[str, ...]]:
    """As `parse_tokenize_request`."""
    return parse_body(raw, DetokenizeBody, DETOKENIZE_FIELDS, lambda body: body, strict=strict)


def _tokenize(body: TokenizeBody) -> TokenizeRequest:
    if body.prompt is None and not body.messages:
        raise FaultError("or messages is required", at=("prompt",))
    if body.prompt is not None and body.messages:
        raise FaultError("and messages exclude each other; send one of them", at=("prompt",))
    chat = chat_request(body)
    if body.prompt is None:
        return TokenizeRequest(chat, is_text=False, with_texts=body.return_token_strs)
    if body.tools:
        raise FaultError("belong to messages; a bare text has none", at=("tools",))
    bare = ChatRequest(model=chat.model, messages=(Message("user", body.prompt),))
    return TokenizeRequest(bare, is_text=True, with_texts=body.return_token_strs)
