"""The fields of POST /v1/completions. Those that it shares with chat are checked by the same rules (`Body`).

Source: OpenAI API reference, "Create completion" (legacy).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from installer.formats.checks import Choose, FaultError, Length, Must
from webui.api.body import ELSEWHERE, MAX_TOKENS, Body, Takes, sentences_of
from webui.api.messages import Messages
from webui.api.validation import ChatRequest, chat_request, parse_body
from webui.api.values import REFUSED, UNSUPPORTED, Text, between, form_of, never

MAX_CHOICES: Final = 16  # prompts times n: each is a turn of its own
MAX_LOGPROBS: Final = 5  # as at OpenAI
DEFAULT_MAX_TOKENS: Final = 16  # OpenAI's


def _form_of_prompt(prompt: Any) -> str:
    if isinstance(prompt, list) and any(isinstance(part, int | list) for part in prompt):
        return "tokens"
    return form_of(prompt)


_TOKENS: Final = "takes text; token ids are not taken, because no other tokenizer is sure to number them as this one"
_PROMPT = Choose(
    _form_of_prompt,
    {
        "text": Text,
        "list": Annotated[tuple[Text, ...], Length(most=MAX_CHOICES)],
        "tokens": Annotated[None, never(_TOKENS)],
        "other": Annotated[str, Must(f"must be a string or a list of at most {MAX_CHOICES} strings")],
    },
    refused=("tokens", "other"),
)


@dataclass(frozen=True, kw_only=True)
class CompletionBody(Body):
    """The body. Of the fields of `Body`, only those in `FIELDS` may be sent."""

    messages: Messages = ()
    prompt: Annotated[
        str | tuple[str, ...],
        _PROMPT,
        Takes(f"required; a string, or up to {MAX_CHOICES}, each answered by a choice of its own; no token ids"),
    ]
    max_tokens: Annotated[int | None, between(1, MAX_TOKENS), Takes("1 or more, default 16")] = DEFAULT_MAX_TOKENS
    n: Annotated[
        int, between(1, 128), Takes(f"choices for each prompt, default 1; at most {MAX_CHOICES} choices together")
    ] = 1
    best_of: Annotated[int | None, between(1, 128), Takes("only the value of n: no choice is thrown away")] = None
    echo: Annotated[bool, Takes("whether the text begins with the prompt; default false")] = False
    suffix: Annotated[
        None,
        never("this model writes from left to right only", kind=REFUSED),
        Takes("refused: this model writes from left to right only"),
    ] = None
    logprobs: Annotated[
        int | None,
        between(0, MAX_LOGPROBS),
        Takes(f"0 to {MAX_LOGPROBS} alternatives to each token; default: no log probabilities; see below"),
    ] = None  # type: ignore[assignment]  # a number here, true or false in a chat; `_request` takes it away from `Body`


_OWN: Final = ("prompt", "max_tokens", "n", "best_of", "echo", "suffix", "logprobs")
_SHARED: Final = (
    *("model", "temperature", "top_p", "seed", "stop", "stream", "stream_options"),
    *("top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "user"),
)
_SENTENCES: Final = sentences_of(CompletionBody)
FIELDS: Final = {name: _SENTENCES[name] for name in (_SHARED[0], *_OWN, *_SHARED[1:])}


_NOT_OF_PROMPTS: Final = "cannot be given with echo: a prompt's tokens have no log probabilities here"
_CONVERSATION: Final = "this belongs to a conversation; send one to /v1/chat/completions"
_ELSEWHERE: Final = {
    **ELSEWHERE,
    **dict.fromkeys(("messages", "tools", "response_format", "reasoning_effort"), _CONVERSATION),
    "max_completion_tokens": "this field is max_tokens here",
}


@dataclass(frozen=True)
class CompletionRequest:
    """One request as the server will run it: each prompt ``n`` times, with the settings of ``chat``."""

    chat: ChatRequest  # without messages
    prompts: tuple[str, ...]
    n: int
    echo: bool
    ignored: tuple[str, ...] = ()  # fields that are not known


def parse_completion_request(raw: bytes, *, strict: bool = False) -> CompletionRequest:
    """Check a request's body.

    Args:
        strict: fields that are not known are refused, not ignored.
    Raises:
        ApiError: 400, with the field at fault in `param`.
    """
    request, ignored = parse_body(raw, CompletionBody, FIELDS, _request, strict=strict, elsewhere=_ELSEWHERE)
    return replace(request, ignored=ignored)


def _request(body: CompletionBody) -> CompletionRequest:
    prompts = (body.prompt,) if isinstance(body.prompt, str) else body.prompt
    if not prompts:
        raise FaultError("must have at least one string", at=("prompt",))
    if body.best_of is not None and body.best_of != body.n:
        raise FaultError("must be the same as n; every choice is given out", kind=UNSUPPORTED, at=("best_of",))
    if len(prompts) * body.n > MAX_CHOICES:
        raise FaultError(f"asks for more than {MAX_CHOICES} choices together with prompt", at=("n",))
    if body.echo and body.logprobs is not None:
        raise FaultError(_NOT_OF_PROMPTS, kind=UNSUPPORTED, at=("logprobs",))
    chat = replace(chat_request(replace(body, n=1, logprobs=None)), top_logprobs=body.logprobs)
    return CompletionRequest(chat, prompts, body.n, body.echo)
