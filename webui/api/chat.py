"""POST /v1/chat/completions: a conversation is answered, as a whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from flask import Response, jsonify

from appliance.turns.events import AnswerDelta, Done, TurnEvent
from appliance.turns.request import TurnRequest, alternatives, new_request
from appliance.turns.run import Turn
from webui.api import errors, present, shapes
from webui.api.auth import api_user
from webui.api.blueprint import blueprint
from webui.api.body import FIELDS, Body
from webui.api.choices import Choices, check_count, finish_all, streamed_choices
from webui.api.described import described
from webui.api.errors import ApiError
from webui.api.models import check_model
from webui.api.running import begin_turn, finish, json_body, note_ignored, sse, streamed, wants_strictness
from webui.api.validation import ChatRequest, parse_chat_request
from webui.services import services

_END: Final = "data: [DONE]\n\n"


@blueprint.post("/chat/completions")
@described(
    body=Body, fields=FIELDS, answer=shapes.ChatCompletion, chunk=shapes.ChatChunk, errors=(400, 404, 413, 415, 429)
)
def create_chat_completion() -> Response:
    """Answer a conversation, as a whole or as a stream."""
    chat = parse_chat_request(json_body(), strict=wants_strictness())
    note_ignored(chat.ignored)
    check_model(chat.model)
    turn_request = new_turn(chat, id_prefix="chatcmpl-")
    created = int(services().clock().timestamp())
    envelope = present.Envelope(turn_request.id, created, services().model.id, services().release.version)
    if chat.choices > 1:
        return _answer_several(chat, turn_request, envelope)
    turn = begin_turn(turn_request)
    if chat.stream:
        return streamed(turn, _Chunks(envelope, include_usage=chat.include_usage))
    done = finish(turn)
    return jsonify(_completion(envelope, turn, done))


def _completion(envelope: present.Envelope, turn: Turn, done: Done) -> dict[str, Any]:
    answer = turn.answer
    tokens = None if turn.request.top_logprobs is None else answer.tokens
    return present.completion(envelope, answer.words, done, tokens)


def _answer_several(chat: ChatRequest, first: TurnRequest, envelope: present.Envelope) -> Response:
    """Answer a conversation several times, the first time as ``first`` asks."""
    config = services().config
    check_count(chat.choices, queue_limit=config.queue_limit, user_limit=config.queue_limit_per_user)
    turns = [begin_turn(one) for one in alternatives(first, chat.choices)]
    envelopes = [replace(envelope, index=index) for index in range(chat.choices)]
    choices = Choices(turns)
    if chat.stream:
        return streamed_choices(choices, _ManyChunks(envelopes, include_usage=chat.include_usage))
    ends = finish_all(choices)
    whole = [_completion(*one) for one in zip(envelopes, turns, ends, strict=True)]
    return jsonify(present.joined(whole, ends))


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
        must_call=chat.must_call,
        answer_schema=chat.answer_schema,
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
        yield from self.finish(done)
        if self._include_usage:
            yield sse(present.usage_chunk(self._envelope, done))
        yield _END

    def finish(self, done: Done) -> Iterator[str]:
        """The end of the choice, without what ends the stream."""
        if done.notice is not None:
            yield sse(present.chunk(self._envelope, present.notice_delta(done.notice, after_text=self._has_text)))
        yield sse(present.chunk(self._envelope, {}, done.finish_reason))

    def fail(self, error: ApiError) -> Iterator[str]:
        yield sse(errors.body_of(error))


class _OneOfMany(_Chunks):
    """Draws one choice of several, whose stream goes on when it ends."""

    def end(self, done: Done) -> Iterator[str]:
        yield from self.finish(done)


class _ManyChunks:
    """Draws several choices as one stream; `webui.api.choices.ChoicesDrawing`."""

    def __init__(self, envelopes: Sequence[present.Envelope], *, include_usage: bool) -> None:
        self.each = [_OneOfMany(envelope, include_usage=False) for envelope in envelopes]
        self._envelope = envelopes[0]
        self._include_usage = include_usage

    def end_all(self, ends: Sequence[Done]) -> Iterator[str]:
        if self._include_usage:
            yield sse(present.usage_chunk(self._envelope, *ends))
        yield _END
