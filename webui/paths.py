"""Paths as clients write them who put a slash at the end of their base address: ``/v1//chat/completions``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

_SLASHES: Final = re.compile("/{2,}")
WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class SingleSlashes:
    """WSGI middleware: several slashes in a row are one, in every path alike, before anything decides by the path."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["PATH_INFO"] = _SLASHES.sub("/", environ.get("PATH_INFO", ""))
        return self._app(environ, start_response)
