"""What a program is told that asks at a wrong address: where the API is, and which address it probably meant."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from typing import Final

from flask import current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from webui.api.errors import ApiError, is_api, wrong_method

PREFIX: Final = "/v1"
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNKNOWN: Final = "api.unknown"  # the endpoint that takes every path under /v1 that no other takes
_OTHER_PREFIXES: Final = ("/v1beta", "/v2", "/api/", "/openai/", "/engines/")
_COMPARED_CHARS: Final = 100  # comparing takes the square of the time
_LIKE: Final = 0.85  # difflib's ratio; one wrong letter in /v1/models is 0.9


def not_found(path: str) -> ApiError:
    """The answer for a path under /v1 that no address of the API takes with the request's method."""
    methods = methods_of(path)
    return wrong_method(methods) if methods else unknown_url(path)


def methods_of(path: str) -> set[str]:
    """With which methods the path would be an address of the API."""
    adapter = current_app.url_map.bind("")
    found = set()
    for method in METHODS:
        with suppress(HTTPException, RequestRedirect):
            endpoint, _ = adapter.match(path, method=method)
            if endpoint != UNKNOWN:
                found.add(method)
    return found


def unknown_url(path: str) -> ApiError:
    """The answer for an address that does not exist."""
    meant = _meant(path)
    where = f"The right address is {meant}." if meant else f"It has {', '.join(_addresses())}."
    if is_api(path):
        return ApiError(404, "unknown_url", f"This server has no such API address. {where}")
    base = f"The API is under {request.url_root}{PREFIX[1:]}, so that is the base URL to set."
    return ApiError(404, "unknown_url", f"This server has no such API address. {base} {where}")


def is_meant_for_the_api(path: str) -> bool:
    """Whether a path that no page has was asked for by a program whose base URL is wrong. A browser gets a page."""
    if is_api(path):
        return True
    is_browser = "text/html" in request.headers.get("Accept", "")
    return not is_browser and (path.startswith(_OTHER_PREFIXES) or _meant(path) is not None)


def _meant(path: str) -> str | None:
    """The address of the API that is much like the path, or else the longest one with which it ends."""
    like = get_close_matches(path[:_COMPARED_CHARS].lower().strip(), _addresses(), n=1, cutoff=_LIKE)
    ends = [one for one in _addresses() if path.endswith(one.removeprefix(PREFIX))]
    return next(iter(like), None) or max(ends, key=len, default=None)


def _addresses() -> list[str]:
    """The addresses of the API that have no parameter."""
    rules = {rule.rule for rule in current_app.url_map.iter_rules() if rule.rule.startswith(f"{PREFIX}/")}
    return sorted(rule for rule in rules if "<" not in rule)
