"""POST /v1/messages and /v1/messages/count_tokens, for Anthropic's clients. docs/messages.md is their reference."""

from __future__ import annotations

from flask import Response, jsonify

from appliance.turns.engine import CountRequest
from appliance.turns.engine import TokenCount as EngineCount
from appliance.turns.events import Failed
from webui.allowances import allowance
from webui.api import errors
from webui.api.anthropic import present, shapes
from webui.api.anthropic.body import COUNT_FIELDS, FIELDS, Body, CountBody
from webui.api.anthropic.request import parse_count_request, parse_request, turn_request
from webui.api.anthropic.stream import MessageEvents
from webui.api.auth import api_user
from webui.api.blueprint import blueprint
from webui.api.described import described
from webui.api.models import check_model
from webui.api.running import begin_turn, finish, json_body, note_ignored, streamed, wants_strictness
from webui.services import services


@blueprint.post("/messages")
@described(
    body=Body, fields=FIELDS, answer=shapes.AnsweredMessage, chunk=shapes.MessageEvent, refusal=shapes.MessageRefusal,
    errors=(400, 404, 413, 415),
)  # fmt: skip
def create_message() -> Response:
    """Answer a conversation, as a whole or as a stream."""
    body, ignored = parse_request(json_body(), strict=wants_strictness())
    note_ignored(ignored)
    check_model(body.model)
    asked = turn_request(body, api_user().id, grammar=services().config.harmony_grammar)
    shows_thinking = body.thinking is not None and body.thinking.is_shown
    envelope = present.Envelope(asked.id, services().model.id, shows_thinking)
    turn = begin_turn(asked)
    if body.stream:
        return streamed(turn, MessageEvents(envelope, turn.answer))
    done = finish(turn)
    return jsonify(envelope.message(present.content_of(envelope, turn.answer.parts, done), done))


@blueprint.post("/messages/count_tokens")
@described(
    body=CountBody, fields=COUNT_FIELDS, answer=shapes.TokenCount, refusal=shapes.MessageRefusal,
    errors=(400, 404, 413, 415),
)  # fmt: skip
def count_message_tokens() -> Response:
    """How many tokens the prompt of a message has."""
    body, ignored = parse_count_request(json_body(), strict=wants_strictness())
    note_ignored(ignored)
    check_model(body.model)
    asked = turn_request(body, api_user().id, grammar=services().config.harmony_grammar)
    allowance().check(api_user().id, asked)
    found = services().engine.ask(CountRequest(asked))
    if isinstance(found, Failed):
        raise errors.from_failed(found)
    if not isinstance(found, EngineCount):
        raise RuntimeError("internal error: the engine answered another question")
    return jsonify(input_tokens=found.count)
