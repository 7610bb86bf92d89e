"""/v1/responses: a conversation is answered, as a whole, as a stream or in the background; kept responses are read,
cancelled and deleted."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Response, jsonify, request

from appliance.people.key_rights import Scope
from appliance.people.responses import KeptResponse
from appliance.turns.events import Done
from appliance.turns.request import TurnRequest
from appliance.turns.run import Turn
from webui.api import errors
from webui.api.auth import api_user, demand_scope
from webui.api.blueprint import blueprint
from webui.api.described import described
from webui.api.models import check_model
from webui.api.responses import present, shapes
from webui.api.responses.background import begin, in_seconds
from webui.api.responses.body import FIELDS, Body
from webui.api.responses.event_shapes import ResponseEvent
from webui.api.responses.follow import FROM_THE_BEGINNING, asks_to_follow, enter, follow, starting_after
from webui.api.responses.follow import QUERY as QUERY_TO_FOLLOW
from webui.api.responses.kept import Earlier, input_objects
from webui.api.responses.own import own_responses
from webui.api.responses.pages import QUERY, page_of
from webui.api.responses.request import ResponseRequest, parse_request, turn_request
from webui.api.responses.stream import AnsweredEvents
from webui.api.running import begin_turn, finish, json_body, note_ignored, streamed, wants_strictness
from webui.services import services
from webui.session import client_address


@blueprint.post("/responses")
@described(
    body=Body, fields=FIELDS, answer=shapes.Response, chunk=ResponseEvent, errors=(400, 404, 413, 415),
    links=("get_response", "list_input_items", "delete_response", "cancel_response"),
)  # fmt: skip
def create_response() -> Response:
    """Answer a conversation, as a whole or as a stream."""
    errors.name_fields(messages="input")
    asked = parse_request(json_body(), strict=wants_strictness())
    note_ignored(asked.ignored)
    body = asked.body
    check_model(body.model)
    if asked.reads_kept:
        demand_scope(Scope.RESPONSES)
    turn_asked = turn_request(asked, _earlier(), grammar=services().config.harmony_grammar)
    is_kept = services().responses.are_kept and body.store is not False
    settings = present.settings_of(
        turn_asked.id, in_seconds(services().clock()), services().model.id, body, is_kept=is_kept
    )
    envelope = present.Envelope(settings, seals_reasoning=asked.seals_reasoning)
    if body.background:
        return _in_background(asked, turn_asked, envelope)
    turn = begin_turn(turn_asked)
    finished = partial(_finished, envelope, body, turn, api_user().id)
    if body.stream:
        return streamed(turn, AnsweredEvents(envelope, turn.answer, finished))
    return jsonify(finished(finish(turn)))


@blueprint.get("/responses/<response_id>")
@described(answer=shapes.Response, chunk=ResponseEvent, query=QUERY_TO_FOLLOW, errors=(400, 404))
def get_response(response_id: str) -> Response:
    """A kept response without log probabilities: as it stands, as it ended, or as the stream of its events."""
    after = starting_after(request.args)
    if asks_to_follow(request.args):
        return follow(response_id, after, enter())
    return jsonify(own_responses().current(response_id).response)


@blueprint.get("/responses/<response_id>/input_items")
@described(answer=shapes.ItemPage, query=QUERY, errors=(400, 404))
def list_input_items(response_id: str) -> Response:
    """The items of the request that a kept response answers."""
    return jsonify(page_of(_earlier().input_of(own_responses().kept(response_id)), request.args))


@blueprint.delete("/responses/<response_id>")
@described(answer=shapes.DeletedResponse, errors=(404,))
def delete_response(response_id: str) -> Response:
    """Delete a kept response, cancelled first if it is being written. The record keeps its prompt and its answer."""
    own_responses().delete(response_id, by=api_user().actor("api", client_address()))
    return jsonify(id=response_id, object="response", deleted=True)


@blueprint.post("/responses/<response_id>/cancel")
@described(answer=shapes.Response, errors=(400, 404))
def cancel_response(response_id: str) -> Response:
    """End a response in the background. If it has ended, it is given as it ended."""
    return jsonify(own_responses().cancel(response_id))


def _in_background(asked: ResponseRequest, turn_asked: TurnRequest, envelope: present.Envelope) -> Response:
    """Begin a response in the background, which another request reads."""
    demand_scope(Scope.RESPONSES)
    if not asked.body.stream:
        return jsonify(begin(asked, turn_asked, envelope))
    leave = enter()
    try:
        begin(asked, turn_asked, envelope)
    except BaseException:
        leave()
        raise
    return follow(envelope.id, FROM_THE_BEGINNING, leave)


def _finished(envelope: present.Envelope, body: Body, turn: Turn, user_id: str, done: Done) -> dict[str, Any]:
    """The whole response, kept if it is to be. Log probabilities are not kept: with twenty alternatives they take some
    hundred times the space of the text, and what a conversation may load is limited by its bytes.

    Raises:
        DatabaseError: it could not be kept.
    """
    output = present.output_of(envelope, turn.answer.parts, done)
    whole = envelope.response(present.status_of(done), output, done=done, completed=in_seconds(services().clock()))
    if whole["store"]:
        given = input_objects(envelope.id, body.input)
        kept = {**whole, "output": present.without_logprobs(output)}
        services().responses.keep(user_id, KeptResponse(envelope.id, body.previous_response_id, given, kept))
    return whole


def _earlier() -> Earlier:
    return Earlier(services().responses, api_user().id)
