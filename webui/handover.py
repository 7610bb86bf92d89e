"""POST, redirect, GET: every form of a page is answered with a redirect, and the page there says how it went.

    return hand_over("/account?notice=key_shown", {"new_key": secret})     # the view of the POST
    left = take()                                                          # the view of the GET: left.get("new_key")

So a reload repeats no form, and Back leads to no form that was sent. What a signed-in person is to see waits on the
server and is seen once (`appliance.people.handovers`); the address holds its name alone, which helps nobody without the
session. A stranger leaves nothing on the server: a refusal travels in a cookie for a minute, which the page drops. It
holds what the stranger typed as a name, and never a password or a secret of ours.

``status`` and ``retry_after`` of what is handed over become the status and the header of the page that shows it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from flask import Response, make_response, redirect, request

from webui.security import cookie_name, drop_cookie, set_cookie
from webui.services import services
from webui.session import current_user, own_token

FIELD: Final = "shown"  # of the address: the name of what was handed over
_COOKIE: Final = "refused"
_COOKIE_S: Final = 60
_MAX_COOKIE_CHARS: Final = 3_000


def hand_over(address: str, left: Mapping[str, Any]) -> Response:
    """See-other to `address`, a page of this site, which takes what is `left`.

    Raises:
        HandoverError: it could not be kept.
    """
    content = json.dumps(left).encode()
    if current_user() is None:
        response = make_response(redirect(address, 303))
        value = base64.urlsafe_b64encode(content).decode()
        if len(value) <= _MAX_COOKIE_CHARS:  # browsers drop larger ones; the page then only asks again
            set_cookie(response, _COOKIE, value, max_age_s=_COOKIE_S)
        return response
    return make_response(redirect(_with_name(address, content), 303))


def take() -> dict[str, Any]:
    """What was left for this page; empty if nothing was, or if it was seen already."""
    if current_user() is None:
        return _of_stranger()
    content = services().handovers.take(own_token(), request.args.get(FIELD, ""))
    return {} if content is None else dict(json.loads(content))


def look() -> dict[str, Any]:
    """As `take`, for a page that a reload shows again."""
    content = services().handovers.read(own_token(), request.args.get(FIELD, ""))
    return {} if content is None else dict(json.loads(content))


def answer(page: str, left: Mapping[str, Any]) -> Response:
    """The page that shows what was `left`."""
    response = make_response(page, left.get("status", 200))
    if "retry_after" in left:
        response.headers["Retry-After"] = str(left["retry_after"])
    if cookie_name(_COOKIE) in request.cookies:
        drop_cookie(response, _COOKIE)
    return response


def _with_name(address: str, content: bytes) -> str:
    name = services().handovers.leave(own_token(), content)
    return f"{address}{'&' if '?' in address else '?'}{FIELD}={name}"


def _of_stranger() -> dict[str, Any]:
    """Nobody else can write this cookie, but whoever holds the browser can: it is text for the page and no more."""
    value = request.cookies.get(cookie_name(_COOKIE), "")
    try:
        left = json.loads(base64.urlsafe_b64decode(value)) if value else {}
    except (binascii.Error, ValueError):
        return {}
    texts = {name: str(left[name]) for name in ("error", "name") if name in left} if isinstance(left, dict) else {}
    numbers = {name: left[name] for name in ("status", "retry_after") if texts and isinstance(left.get(name), int)}
    return {**texts, **numbers} if numbers.get("status", 400) in (400, 401, 429, 503) else {}
