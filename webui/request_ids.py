"""The name of a request under /v1: its answer has it in ``X-Request-Id``, and the server's log beside an error.

A client may choose the name, so that its own log and the server's agree. A name that could change a header or a line of
the log is not taken. OpenAI's clients show it as ``_request_id``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from flask import Flask, Response, g, request

HEADER: Final = "X-Request-Id"
ANTHROPIC_HEADER: Final = "Request-Id"  # where Anthropic's clients look
_SOUND: Final = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


def install(app: Flask, *, is_named: Callable[[str], bool]) -> None:
    """Name the requests of `app` in their answers. Args: is_named: says for a path whether its requests have names."""

    def finish(response: Response) -> Response:
        if is_named(request.path):
            for name in (HEADER, ANTHROPIC_HEADER):
                response.headers[name] = current_request_id()
        return response

    app.after_request(finish)


def current_request_id() -> str:
    """The name of the request that is being answered."""
    if "request_id" not in g:
        g.request_id = request_id(request.headers.get(HEADER))
    name: str = g.request_id
    return name


def request_id(given: str | None) -> str:
    """What the client gave, if that can be taken; else a new name."""
    return given if given is not None and _SOUND.fullmatch(given) else f"req_{secrets.token_hex(16)}"
