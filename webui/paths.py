"""Accepts paths with too many slashes: ``/v1//chat/completions``, ``/review/``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

_SLASHES: Final = re.compile("/{2,}")
WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class PlainPaths:
    """WSGI middleware: joins slashes in a row and drops a slash at the end, before anything decides by the path. Only
    the first page's address ends with a slash."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["PATH_INFO"] = _SLASHES.sub("/", environ.get("PATH_INFO", "")).rstrip("/") or "/"
        return self._app(environ, start_response)
