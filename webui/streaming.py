"""What the server tells a request about its connection and itself. A failed write would tell it too late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from flask import request

from webui.serving.environ import CLIENT_IS_GONE, SERVER_IS_ENDING


def client_is_gone() -> bool:
    """Whether the client has closed the connection; False under a server that does not say so.

    Our server reads the connection all the time, so it knows, behind TLS too.
    """
    return watch_client()()


def watch_client() -> Callable[[], bool]:
    """`client_is_gone` in a form that still works when the request's context has ended."""
    return _ask_of(request.environ, CLIENT_IS_GONE)


def server_ending() -> Callable[[], bool]:
    """A function that says whether the server is ending. It works after the request has ended."""
    return _ask_of(request.environ, SERVER_IS_ENDING)


def _ask_of(environ: dict[str, Any], name: str) -> Callable[[], bool]:
    return cast("Callable[[], bool]", environ.get(name, lambda: False))
