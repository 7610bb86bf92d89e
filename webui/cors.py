"""Which pages of other sites may call the API from a browser (``[web] cors_origins``). Without the setting, none may.

Covers: the CORS protocol (Fetch standard) for addresses under /v1. An origin is compared as a whole, so neither
``https://chat.example.evil.test`` nor ``null`` passes for ``https://chat.example``.
Does not cover: pages, which no other site may call. Credentials: browsers are never told to send cookies with such a
request, and the API reads none; the page has to know a key.

A preflight has no key, so an origin of the list is answered without one. It learns nothing that the list does not say.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from flask import Flask, Response, make_response, request

from webui.api.addresses import METHODS
from webui.api.errors import is_api

_NAMES: Final = re.compile(r"[A-Za-z0-9-]{1,64}(?:[ \t]*,[ \t]*[A-Za-z0-9-]{1,64}){0,63}")
_HEADERS: Final = "Authorization, Content-Type"  # what every client of the API sends
_MAX_AGE_S: Final = 600


def install(app: Flask, origins: frozenset[str]) -> None:
    """Answer preflights and mark answers of `app` for pages of these origins."""
    if origins:
        app.before_request(partial(_answer_preflight, origins))
        app.after_request(partial(_finish, origins))


def _answer_preflight(origins: frozenset[str]) -> Response | None:
    """The answer to a browser that asks before it sends a page's request; None for every other request."""
    is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if not (is_preflight and is_api(request.path) and request.headers.get("Origin") in origins):
        return None
    asked = request.headers.get("Access-Control-Request-Headers", "")
    response = make_response("", 204)
    response.headers["Access-Control-Allow-Methods"] = ", ".join(METHODS)
    response.headers["Access-Control-Allow-Headers"] = asked if _NAMES.fullmatch(asked) else _HEADERS
    response.headers["Access-Control-Max-Age"] = str(_MAX_AGE_S)
    return response


def _finish(origins: frozenset[str], response: Response) -> Response:
    """Let a page of these origins read the answer, with the headers that are the API's own."""
    if not is_api(request.path):
        return response
    response.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin in origins:
        response.headers["Access-Control-Allow-Origin"] = origin
        own = sorted({name for name, _ in response.headers if name.lower().startswith(("x-", "retry-after"))})
        response.headers["Access-Control-Expose-Headers"] = ", ".join(own)
    return response
