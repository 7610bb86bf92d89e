"""The OpenAI-compatible API: /v1/models and /v1/chat/completions. docs/api.md is its reference.

Every turn goes through `appliance.turns.run`, so the prompt is recorded before the engine sees it. If the caller
goes away, the turn ends: the socket is checked at each event, and the engine's client makes one at least each second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from flask import Blueprint, Response, current_app, jsonify, make_response, request, stream_with_context
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from appliance.audit.details.denials import BodyTooLarge
from appliance.audit.log import RecordError
from appliance.errors import ApplianceError
from appliance.people.allowance import QuotaSpentError, RefusedError
from appliance.turns.events import AnswerDelta, Done, Failed, TurnEvent
from appliance.turns.permits import permitted
from appliance.turns.request import TurnRequest, new_request
from appliance.turns.run import Turn, run_turn
from webui.allowances import allowance
from webui.api import errors, present
from webui.api.auth import api_user, demand_key, key_permit, say_when_the_key_ends
from webui.api.errors import ApiError
from webui.api.validation import ChatRequest, parse_chat_request
from webui.denials import record_denial, record_refusal
from webui.services import services
from webui.session import client_address
from webui.streaming import client_is_gone

blueprint = Blueprint("api", __name__, url_prefix="/v1")
blueprint.before_request(demand_key)
blueprint.after_request(say_when_the_key_ends)

_CLIENT_GONE_STATUS: Final = 499  # nginx's number; nobody reads it but the server's log
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@blueprint.get("/models")
def list_models() -> Response:
    """The one model of the running release."""
    return jsonify(object="list", data=[_model()])


@blueprint.get("/models/<path:model_id>")
def get_model(model_id: str) -> Response:
    """The model, by its id."""
    _check_model(model_id)
    return jsonify(_model())


@blueprint.post("/chat/completions")
def create_chat_completion() -> Response:
    """Answer a conversation, as a whole or as a stream."""
    if request.mimetype != "application/json":
        raise ApiError(415, "unsupported_media_type", "The body must be JSON: Content-Type: application/json.")
    chat = parse_chat_request(request.get_data(cache=False))
    _check_model(chat.model)
    turn_request = _turn_request(chat)
    created = int(services().clock().timestamp())
    envelope = present.Envelope(turn_request.id, created, chat.model, services().release.version)
    actor = api_user().actor("api", client_address())
    engine = permitted(services().engine, key_permit())
    turn = run_turn(services().record, engine, actor, turn_request, conversation_id=None, allowance=allowance())
    return _streamed(turn, envelope, chat) if chat.stream else _whole(turn, envelope)


@blueprint.route("", methods=_METHODS)
@blueprint.route("/<path:rest>", methods=_METHODS)
def unknown(rest: str = "") -> Response:
    """Every other address under /v1."""
    raise errors.unknown_url()


@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    """Werkzeug's own errors. Flask logs an unexpected exception and then passes it on as a 500."""
    return errors.respond_http(error)


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_: RequestEntityTooLarge) -> Response:
    """A body that is refused unread."""
    actor = api_user().actor("api", client_address())
    record_denial(actor, "body_too_large", BodyTooLarge(size_bytes=request.content_length))
    return errors.respond(ApiError(413, "request_too_large", "The body is larger than this server accepts."))


@blueprint.errorhandler(RefusedError)
def _refused(error: RefusedError) -> Response:
    """A turn that is not run. The record says that it was refused, and keeps nothing of its text."""
    record_refusal(api_user().actor("api", client_address()), error)
    message = error.sentence
    if isinstance(error, QuotaSpentError):
        return errors.respond(ApiError(429, "quota_spent", message, retry_after_s=error.retry_after_s))
    return errors.respond(ApiError(400, "context_length_exceeded", message, param="messages"))


@blueprint.errorhandler(ApplianceError)
def _appliance_error(error: ApplianceError) -> Response:
    current_app.logger.error("%s: %s", request.endpoint, error)
    code = "record_failed" if isinstance(error, RecordError) else "unavailable"
    return errors.respond(ApiError(503, code, "A part of the appliance is not available. Nothing was answered."))


def _model() -> dict[str, Any]:
    return present.model_object(services().model.id, services().release.installed_s)


def _check_model(model_id: str) -> None:
    if model_id != services().model.id:
        raise ApiError(404, "model_not_found", f"This server has one model, {services().model.id}.", param="model")


def _turn_request(chat: ChatRequest) -> TurnRequest:
    return new_request(
        api_user().id,
        chat.messages,
        id_prefix="chatcmpl-",
        seed=chat.seed,
        tools=chat.tools,
        effort=chat.effort,
        temperature=chat.temperature,
        top_p=chat.top_p,
        max_tokens=chat.max_tokens,
        stop=chat.stop,
        grammar=services().config.harmony_grammar,
    )


def _whole(turn: Turn, envelope: present.Envelope) -> Response:
    """The answer when it is complete.

    Raises:
        ApiError: the turn failed or was cancelled.
    """
    with closing(turn):
        for event in turn:
            if isinstance(event, Done):
                _check_finished(event)
                return jsonify(present.completion(envelope, turn.answer.words, event))
            if isinstance(event, Failed):
                raise errors.from_failed(event)
            if client_is_gone():
                break
    return make_response("", _CLIENT_GONE_STATUS)


def _streamed(turn: Turn, envelope: present.Envelope, chat: ChatRequest) -> Response:
    """The answer as it is written. A turn that fails at once is an HTTP error; one that fails later, an error object.

    Raises:
        ApiError: the first event is a failure.
    """
    first = next(turn)
    if isinstance(first, Failed):
        turn.close()
        raise errors.from_failed(first)
    stream = stream_with_context(_stream(first, turn, envelope, include_usage=chat.include_usage))
    response = Response(stream, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(turn.close)
    return response


def _stream(first: TurnEvent, turn: Turn, envelope: present.Envelope, *, include_usage: bool) -> Iterator[str]:
    yield _sse(present.chunk(envelope, {"role": "assistant", "content": ""}))
    event: TurnEvent | None = first
    has_text = False
    while event is not None and not client_is_gone():
        if isinstance(event, Done) and event.notice is not None:
            yield _sse(present.chunk(envelope, present.notice_delta(event.notice, after_text=has_text)))
        if isinstance(event, Done | Failed):
            yield from _ending(event, envelope, include_usage=include_usage)
            return
        has_text |= isinstance(event, AnswerDelta)
        change = present.delta(event)
        yield _sse(present.chunk(envelope, change)) if change else ": waiting\n\n"
        event = next(turn, None)


def _ending(end: Done | Failed, envelope: present.Envelope, *, include_usage: bool) -> Iterator[str]:
    try:
        if isinstance(end, Failed):
            raise errors.from_failed(end)
        _check_finished(end)
    except ApiError as error:
        yield _sse(errors.body_of(error))
        return
    yield _sse(present.chunk(envelope, {}, end.finish_reason))
    if include_usage:
        yield _sse(present.usage_chunk(envelope, end))
    yield "data: [DONE]\n\n"


def _check_finished(done: Done) -> None:
    if done.finish_reason == "cancelled":
        raise ApiError(503, "cancelled", "The answer was cancelled before it was complete.")


def _sse(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
