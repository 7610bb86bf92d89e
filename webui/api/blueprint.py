"""The API's blueprint: who may come in, and what is said when something goes wrong. `routes` adds the addresses."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from appliance.audit.details.denials import BodyTooLarge
from appliance.audit.log import RecordError
from appliance.errors import ApplianceError
from appliance.people.allowance import LimitReachedError, RefusedError
from webui.api import errors
from webui.api.addresses import METHODS, UNKNOWN, methods_of, not_found
from webui.api.auth import api_user, demand_key, say_when_the_key_ends
from webui.api.errors import ApiError
from webui.api.limits import say_limits
from webui.api.running import say_what_was_ignored
from webui.denials import record_denial, record_refusal
from webui.request_ids import current_request_id
from webui.session import client_address

blueprint = Blueprint("api", __name__, url_prefix="/v1")
blueprint.before_request(demand_key)
blueprint.after_request(say_when_the_key_ends)
blueprint.after_request(say_limits)
blueprint.after_request(say_what_was_ignored)


@blueprint.before_request
def _name_methods() -> Response | None:
    """OPTIONS of an address: its own methods. Flask would add those of `unknown`."""
    if request.method != "OPTIONS" or request.endpoint == UNKNOWN:
        return None
    methods = methods_of(request.path)
    return Response(headers={"Allow": ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))})


@blueprint.route("", methods=METHODS)
@blueprint.route("/<path:rest>", methods=METHODS)
def unknown(rest: str = "") -> Response:
    """Every other address under /v1; `addresses.UNKNOWN`."""
    raise not_found(request.path)


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
    """A request or a turn that is refused. The record says so, and keeps nothing of its text."""
    record_refusal(api_user().actor("api", client_address()), error)
    message = error.sentence
    if isinstance(error, LimitReachedError):
        return errors.respond(ApiError(429, error.code, message, retry_after_s=error.retry_after_s))
    return errors.respond(ApiError(400, "context_length_exceeded", message, param="messages"))


@blueprint.errorhandler(ApplianceError)
def _appliance_error(error: ApplianceError) -> Response:
    current_app.logger.error("%s: request %s: %s", request.endpoint, current_request_id(), error)
    code = "record_failed" if isinstance(error, RecordError) else "unavailable"
    return errors.respond(ApiError(503, code, "A part of the appliance is not available. Nothing was answered."))
