"""What can go wrong in a page, and how it is shown: a browser gets a page, a script a JSON object.

A script asks for JSON with ``Accept: application/json`` and gets ``{"error": {"code": .., "message": ..}}``. The API
under /v1 has the OpenAI shape instead (`webui.api.errors`). No response names a path, a prompt, a key or a traceback.
"""

from __future__ import annotations

from typing import Final

from flask import Flask, Response, current_app, g, jsonify, make_response, redirect, render_template, request, url_for
from markupsafe import escape
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from appliance.audit.log import RecordError
from appliance.errors import ApplianceError
from webui.api import errors as api_errors
from webui.api.addresses import is_meant_for_the_api, unknown_url


class WebError(Exception):
    """The root: an HTTP status, a stable code and plain sentences for the person.

    ``title`` heads the page, ``message`` says what happened and what was kept, ``what_to_do`` what to do now.
    """

    status = 500
    code = "internal"
    title = "Something went wrong"
    message = "The server could not complete this."
    what_to_do = "Try again; if it happens again, tell your administrator."

    def __init__(self, code: str | None = None, message: str | None = None, what_to_do: str | None = None) -> None:
        self.code = code or self.code
        self.message = message or self.message
        self.what_to_do = what_to_do or self.what_to_do
        super().__init__(self.message)


class BadRequestError(WebError):
    """The server cannot understand the request."""

    status = 400
    code = "bad_request"
    title = "This request cannot be used"
    message = "The server did not understand what was sent."
    what_to_do = "Go back, correct it and send it again."


class SignInNeededError(WebError):
    """Nobody is signed in. A browser is sent to the sign-in page and comes back afterwards."""

    status = 401
    code = "sign_in_needed"
    title = "Please sign in"
    message = "You are not signed in, or your session has ended."
    what_to_do = "Sign in and try again."


class ForbiddenError(WebError):
    """The person may not do this, or the request may not come from our own page. Each one is recorded."""

    status = 403
    code = "forbidden"
    title = "You may not do this"
    message = "Your account does not have the role that this needs. The attempt was recorded."
    what_to_do = "If you need it for your work, ask your administrator for the role."


class ForeignRequestError(ForbiddenError):
    """A changing request that comes from another site's page, or from a page of ours that is out of date."""

    code = "foreign_request"
    title = "This page is out of date"
    message = "The request did not come from a current page of this site, so nothing was changed."
    what_to_do = "Reload the page and try again."


class LinkRefusedError(ForbiddenError):
    """A one-time link that is not valid."""

    status = 410
    code = "bad_link"
    title = "This link does not work"
    message = "It has ended."
    what_to_do = "Ask your administrator for a new one."


class UnknownHostError(ForbiddenError):
    """The request names a host that is not this site."""

    status = 421
    code = "unknown_host"
    title = "This is not the address of the site"
    message = "The site does not answer under the address that was used."
    what_to_do = "Ask your administrator for the right address."


class NotFoundError(WebError):
    """There is no such page or object, or it belongs to somebody else."""

    status = 404
    code = "not_found"
    title = "Nothing here"
    message = "There is no such page, or it is not yours to see."
    what_to_do = "Check the address, or start again from the first page."


class TooLargeError(WebError):
    """The request's body exceeds the limit."""

    status = 413
    code = "too_large"
    title = "That is too much at once"
    message = "What was sent is larger than the server accepts."
    what_to_do = "Send less at once."


class ConflictError(WebError):
    """Something else must end first, for example a running turn."""

    status = 409
    code = "conflict"
    title = "Not now"
    message = "Something else is going on here just now."
    what_to_do = "Try again when it is done."


class TooManyError(WebError):
    """The person already does as much at once as one person may."""

    status = 429
    code = "too_many"
    title = "That is too much at once"
    message = "You are doing as much at once as one person may."
    what_to_do = "Try again when part of it is done."


class QuotaSpentError(WebError):
    """The record already holds as much of this person today as one day allows."""

    status = 429
    code = "quota_spent"
    title = "That was enough for today"
    message = "As much was recorded for your account today as one day allows."
    what_to_do = "Go on tomorrow (UTC), or ask your administrator for a higher limit."


class UnavailableError(WebError):
    """A part of the appliance does not work: the record cannot be written, or the engine is down."""

    status = 503
    code = "unavailable"
    title = "Not available just now"
    message = "A part of the appliance is not available. Nothing was changed."
    what_to_do = "Try again in a minute; if it happens again, tell your administrator."


_BY_STATUS: Final[dict[int, type[WebError]]] = {
    kind.status: kind for kind in (BadRequestError, NotFoundError, TooLargeError, UnavailableError)
}


def install(app: Flask) -> None:
    """Have errors of `app` shown as this module says, and those under /v1 in the API's shape."""
    app.register_error_handler(api_errors.ApiError, api_errors.respond)
    app.register_error_handler(WebError, respond)
    app.register_error_handler(HTTPException, _respond_http)
    app.register_error_handler(ApplianceError, _respond_unavailable)


def wants_json() -> bool:
    """Whether the request asks for JSON rather than a page."""
    accept = request.accept_mimetypes
    return accept["application/json"] > accept["text/html"] or accept["text/event-stream"] > accept["text/html"]


def respond(error: WebError) -> Response:
    """The error as a page, as JSON, or as a redirect to the sign-in page."""
    if isinstance(error, SignInNeededError) and not wants_json() and request.method == "GET":
        return make_response(redirect(url_for("auth.sign_in", next=request.full_path.rstrip("?"))))
    if wants_json():
        body = jsonify(error={"code": error.code, "message": f"{error.message} {error.what_to_do}"})
        return make_response(body, error.status)
    if isinstance(error, UnknownHostError):
        return make_response(_plain_page(error), error.status)
    if error.status >= 500:
        g.user = None  # the frame of a signed-in person's page asks parts that may be broken
    page = render_template("error.html", title=error.title, message=error.message, what_to_do=error.what_to_do)
    return make_response(page, error.status)


def _plain_page(error: WebError) -> str:
    """A page without our styles and links. The browser could load none of them: the site refuses this host name."""
    body = f"<h1>{escape(error.title)}</h1><p>{escape(error.message)}</p><p>{escape(error.what_to_do)}</p>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(error.title)}</title>{body}</html>'


def _respond_unavailable(error: ApplianceError) -> Response:
    """A part of the appliance failed: the record, the database, the engine."""
    current_app.logger.error("%s: %s", request.endpoint, error)
    return respond(UnavailableError("record_failed" if isinstance(error, RecordError) else None))


def _respond_http(error: HTTPException) -> Response:
    """Werkzeug's own errors; Flask hands an unexpected exception over as a 500, after logging it."""
    is_api = api_errors.is_api(request.path)  # without a view of the API, Flask does not ask the API's handlers
    is_unknown = error.code == 404 or (error.code == 405 and not is_api)  # 405: a page has this address
    if is_unknown and is_meant_for_the_api(request.path):
        return api_errors.respond(unknown_url(request.path))
    if is_api:
        return api_errors.respond_http(error)
    status = error.code or 500
    shown = _BY_STATUS.get(status, WebError if status >= 500 else BadRequestError)()
    response = respond(shown)
    response.status_code = status
    if error.code == 405 and isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(error.valid_methods)
    return response
