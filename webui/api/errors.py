"""Errors of the API under /v1, in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``.

The official client turns the status into a typed exception, so the status is chosen by what the caller can do: 400 and
404 change the request, 401 and 403 change the key, 429 wait ``Retry-After`` seconds, 5xx try later.
"""

from __future__ import annotations

import math
from typing import Any, Final

from flask import Response, jsonify

from appliance.engine.protocol import Failed, FailureCode

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is not 200. `message` is one plain sentence; `param` names the field at fault."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        super().__init__(message)


def body_of(error: ApiError) -> dict[str, Any]:
    """The error as the API's JSON object, also sent inside a stream that fails after it began."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def respond(error: ApiError) -> Response:
    """The error as a response."""
    response = jsonify(body_of(error))
    response.status_code = error.status
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


# What each way of failing is to a caller: status, code, field.
_FAILURES: Final[dict[FailureCode, tuple[int, str, str | None]]] = {
    "bad_request": (400, "invalid_value", None),
    "context_exceeded": (400, "context_length_exceeded", "messages"),
    "overloaded": (429, "overloaded", None),
    "too_many_waiting": (429, "too_many_waiting", None),
    "engine_failed": (500, "engine_failed", None),
    "engine_stopped": (503, "engine_stopped", None),
    "record_failed": (503, "record_failed", None),
    "access_ended": (401, "access_ended", None),
}


def from_failed(failed: Failed) -> ApiError:
    """The engine's or the record's failure as the API says it."""
    status, code, param = _FAILURES[failed.code]
    return ApiError(status, code, failed.message, param=param, retry_after_s=failed.retry_after_s)
