"""Accepts paths with too many slashes: ``/v1//chat/completions``, ``/review/``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

_SLASHES: Final = re.compile("/{2,}")
WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class PlainPaths:
    """WSGI middleware: several slashes in a row are one, and one at the end is none, in every path alike, before
    anything decides by the path. No address of the application ends with a slash but the first page's."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["PATH_INFO"] = _SLASHES.sub("/", environ.get("PATH_INFO", "")).rstrip("/") or "/"
        return self._app(environ, start_response)
