"""POST /v1/responses: a conversation is answered, as a whole or as a stream."""

from __future__ import annotations

from flask import Response, jsonify

from webui.api import errors
from webui.api.auth import api_user
from webui.api.blueprint import blueprint
from webui.api.models import check_model
from webui.api.responses import present
from webui.api.responses.request import parse_request, turn_request
from webui.api.responses.stream import ResponseEvents
from webui.api.running import begin_turn, finish, json_body, note_ignored, streamed, wants_strictness
from webui.services import services


@blueprint.post("/responses")
def create_response() -> Response:
    """Answer a conversation, as a whole or as a stream."""
    errors.name_fields(messages="input")
    asked = parse_request(json_body(), strict=wants_strictness())
    note_ignored(asked.ignored)
    check_model(asked.body.model)
    turn_asked = turn_request(asked, api_user().id, grammar=services().config.harmony_grammar)
    envelope = present.Envelope(turn_asked.id, _now_s(), services().model.id, asked.body, asked.seals_reasoning)
    turn = begin_turn(turn_asked)
    if asked.body.stream:
        return streamed(turn, ResponseEvents(envelope, turn.answer, _now_s))
    done = finish(turn)
    output = present.output_of(envelope, turn.answer.parts, done)
    return jsonify(envelope.response(present.status_of(done), output, done=done, completed=_now_s()))


def _now_s() -> int:
    return int(services().clock().timestamp())
