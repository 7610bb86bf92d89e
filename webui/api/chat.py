"""POST /v1/chat/completions: a conversation is answered, as a whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, jsonify

from appliance.turns.events import AnswerDelta, Done, TurnEvent
from appliance.turns.request import TurnRequest, new_request
from webui.api import errors, present
from webui.api.auth import api_user
from webui.api.blueprint import blueprint
from webui.api.errors import ApiError
from webui.api.models import check_model
from webui.api.running import begin_turn, finish, json_body, note_ignored, sse, streamed, wants_strictness
from webui.api.validation import ChatRequest, parse_chat_request
from webui.services import services


@blueprint.post("/chat/completions")
def create_chat_completion() -> Response:
    """Answer a conversation, as a whole or as a stream."""
    chat = parse_chat_request(json_body(), strict=wants_strictness())
    note_ignored(chat.ignored)
    check_model(chat.model)
    turn_request = new_turn(chat, id_prefix="chatcmpl-")
    created = int(services().clock().timestamp())
    envelope = present.Envelope(turn_request.id, created, services().model.id, services().release.version)
    turn = begin_turn(turn_request)
    if chat.stream:
        return streamed(turn, _Chunks(envelope, include_usage=chat.include_usage))
    done = finish(turn)
    tokens = None if chat.top_logprobs is None else turn.answer.tokens
    return jsonify(present.completion(envelope, turn.answer.words, done, tokens))


def new_turn(chat: ChatRequest, *, id_prefix: str) -> TurnRequest:
    """A turn of the key's owner."""
    return new_request(
        api_user().id,
        chat.messages,
        id_prefix=id_prefix,
        seed=chat.seed,
        tools=chat.tools,
        effort=chat.effort,
        temperature=chat.temperature,
        top_p=chat.top_p,
        max_tokens=chat.max_tokens,
        stop=chat.stop,
        continues=chat.continues,
        top_k=chat.top_k,
        min_p=chat.min_p,
        frequency_penalty=chat.frequency_penalty,
        presence_penalty=chat.presence_penalty,
        logit_bias=chat.logit_bias,
        top_logprobs=chat.top_logprobs,
        grammar=services().config.harmony_grammar,
    )


class _Chunks:
    """Draws a stream of chat completion chunks; `webui.api.running.Drawing`."""

    def __init__(self, envelope: present.Envelope, *, include_usage: bool) -> None:
        self._envelope = envelope
        self._include_usage = include_usage
        self._has_text = False

    def begin(self) -> Iterator[str]:
        yield sse(present.chunk(self._envelope, {"role": "assistant", "content": ""}))

    def add(self, event: TurnEvent) -> Iterator[str]:
        self._has_text |= isinstance(event, AnswerDelta)
        tokens = event.tokens if isinstance(event, AnswerDelta) else ()
        if change := present.delta(event):
            yield sse(present.chunk(self._envelope, change, tokens=tokens or None))

    def end(self, done: Done) -> Iterator[str]:
        if done.notice is not None:
            yield sse(present.chunk(self._envelope, present.notice_delta(done.notice, after_text=self._has_text)))
        yield sse(present.chunk(self._envelope, {}, done.finish_reason))
        if self._include_usage:
            yield sse(present.usage_chunk(self._envelope, done))
        yield "data: [DONE]\n\n"

    def fail(self, error: ApiError) -> Iterator[str]:
        yield sse(errors.body_of(error))
