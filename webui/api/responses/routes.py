"""/v1/responses: a conversation is answered, as a whole or as a stream; kept responses are read and deleted."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Response, jsonify, request

from appliance.people.key_rights import Scope
from appliance.people.responses import KeptResponse, ResponseNotFoundError
from appliance.turns.events import Done
from appliance.turns.run import Turn
from webui.api import errors
from webui.api.auth import api_user, demand_scope
from webui.api.blueprint import blueprint
from webui.api.described import described
from webui.api.errors import ApiError
from webui.api.models import check_model
from webui.api.responses import present, shapes
from webui.api.responses.body import FIELDS, Body
from webui.api.responses.event_shapes import ResponseEvent
from webui.api.responses.kept import Earlier, input_objects
from webui.api.responses.pages import QUERY, page_of
from webui.api.responses.request import parse_request, turn_request
from webui.api.responses.stream import ResponseEvents
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
    envelope = present.Envelope(
        turn_asked.id, _now_s(), services().model.id, body,
        seals_reasoning=asked.seals_reasoning, is_kept=services().responses.are_kept and body.store is not False,
    )  # fmt: skip
    turn = begin_turn(turn_asked)
    finished = partial(_finished, envelope, turn, api_user().id)
    if body.stream:
        return streamed(turn, ResponseEvents(envelope, turn.answer, finished))
    return jsonify(finished(finish(turn)))


@blueprint.get("/responses/<response_id>")
@described(answer=shapes.Response, errors=(400, 404))
def get_response(response_id: str) -> Response:
    """A kept response, as it was answered, without log probabilities."""
    if request.args.get("stream") == "true":
        message = "stream: a kept response is complete, and is given as a whole; leave it out."
        raise ApiError(400, "unsupported_parameter", message, param="stream")
    return jsonify(_kept(response_id).response)


@blueprint.get("/responses/<response_id>/input_items")
@described(answer=shapes.ItemPage, query=QUERY, errors=(400, 404))
def list_input_items(response_id: str) -> Response:
    """The items of the request that a kept response answers."""
    return jsonify(page_of(_earlier().input_of(_kept(response_id)), request.args))


@blueprint.delete("/responses/<response_id>")
@described(answer=shapes.DeletedResponse, errors=(404,))
def delete_response(response_id: str) -> Response:
    """Delete a kept response. The record keeps its prompt and its answer."""
    try:
        services().responses.delete(api_user().id, response_id, by=api_user().actor("api", client_address()))
    except ResponseNotFoundError:
        raise _not_found() from None
    return jsonify(id=response_id, object="response", deleted=True)


@blueprint.post("/responses/<response_id>/cancel")
@described(answer=shapes.Response, errors=(400, 404))
def cancel_response(response_id: str) -> Response:
    """Nothing can be cancelled by its id, because nothing runs in the background."""
    _kept(response_id)
    message = "Only a response in the background can be cancelled, and there are none here; close its connection."
    raise ApiError(400, "not_in_background", message)


def _finished(envelope: present.Envelope, turn: Turn, user_id: str, done: Done) -> dict[str, Any]:
    """The whole response, kept if it is to be. Log probabilities are not kept: with twenty alternatives they take some
    hundred times the space of the text, and what a conversation may load is limited by its bytes.

    Raises:
        DatabaseError: it could not be kept.
    """
    output = present.output_of(envelope, turn.answer.parts, done)
    whole = envelope.response(present.status_of(done), output, done=done, completed=_now_s())
    if envelope.is_kept:
        body = envelope.body
        given = input_objects(envelope.id, body.input)
        kept = {**whole, "output": present.without_logprobs(output)}
        services().responses.keep(user_id, KeptResponse(envelope.id, body.previous_response_id, given, kept))
    return whole


def _earlier() -> Earlier:
    return Earlier(services().responses, api_user().id)


def _kept(response_id: str) -> KeptResponse:
    try:
        return services().responses.get(api_user().id, response_id)
    except ResponseNotFoundError:
        raise _not_found() from None


def _not_found() -> ApiError:
    """The same for a response of somebody else, one that was deleted, and one that never was."""
    return ApiError(404, "response_not_found", "There is no such response, or it is no longer kept.")


def _now_s() -> int:
    return int(services().clock().timestamp())
