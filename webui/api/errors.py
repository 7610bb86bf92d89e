"""Errors of the API under /v1, in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``.

The official client turns the status into a typed exception, so the status tells the caller what to do: 400 and 404,
change the request; 401 and 403, change the key; 429, wait ``Retry-After`` seconds; 5xx, try later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable
from typing import Any, Final

from flask import Response, g, has_app_context, has_request_context, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from appliance.turns.events import FAILURES, Failed
from webui.request_ids import current_request_id

_OWN_NAMES: Final = "api_names_of_fields"
_log = logging.getLogger(__name__)
_MESSAGE_TYPES: Final = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """Becomes an answer that is not 200. `message` is one plain sentence; `param` names the field at fault; `allow` has
    the methods that the address takes."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        allow: Collection[str] = (),
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.allow = allow
        super().__init__(message)


def body_of(error: ApiError) -> dict[str, Any]:
    """The error as the API's JSON object, also sent inside a stream that fails after it began."""
    names = g.get(_OWN_NAMES, {}) if has_app_context() else {}  # the server refuses some requests before there is one
    param = names.get(error.param, error.param)
    if has_request_context() and is_of_messages(request.path):
        return _of_messages(error, param)
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}


def _of_messages(error: ApiError, param: str | None) -> dict[str, Any]:
    """In the shape of Anthropic's API. ``details`` are what other addresses say of an error."""
    kind = _MESSAGE_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    details = {"error_code": error.code, "param": param}
    told = {"type": kind, "message": error.message, "details": details}
    return {"type": "error", "error": told, "request_id": current_request_id()}


def is_of_messages(path: str) -> bool:
    """Whether a path is one of those for Anthropic's clients."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def name_fields(**names: str) -> None:
    """For the rest of this call: what other calls name so, this one names otherwise."""
    setattr(g, _OWN_NAMES, names)


def respond(error: ApiError) -> Response:
    """The error as a response."""
    response = jsonify(body_of(error))
    response.status_code = error.status
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.allow:
        response.headers["Allow"] = ", ".join(sorted(error.allow))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def is_api(path: str) -> bool:
    """Whether a path belongs to the API, even if no route takes it."""
    return path == "/v1" or path.startswith("/v1/")


def respond_http(error: HTTPException) -> Response:
    """Werkzeug's own errors in the API's shape."""
    if error.code is None or error.code >= 500:
        _log.error("request %s under /v1 failed", current_request_id())
        message = f"The server could not complete this. Its log names the request as {current_request_id()}."
        return respond(ApiError(500, "internal_error", message))
    if not isinstance(error, MethodNotAllowed):
        return respond(ApiError(error.code, "bad_request", "The request could not be read."))
    return respond(wrong_method(error.valid_methods or ()))


def wrong_method(methods: Iterable[str]) -> ApiError:
    """The answer for an address that takes requests of other methods."""
    allow = sorted(methods)
    message = f"This address takes no requests of this method; it takes {', '.join(allow)}."
    return ApiError(405, "method_not_allowed", message, allow=allow)


def from_failed(failed: Failed) -> ApiError:
    """The engine's or the record's failure as the API says it."""
    kind = FAILURES[failed.code]
    return ApiError(kind.status, kind.api_code, failed.message, param=kind.param, retry_after_s=failed.retry_after_s)
