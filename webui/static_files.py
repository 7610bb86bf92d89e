"""The files of ``static/`` under names that change with their content, so that a browser asks for each of them once.

    /static/3f0c..a1/js/chat.js        immutable, for a year

The second part is the digest of all files together. Modules and style sheets name each other by relative addresses,
which then lead to files of the same release. A font for formulae stands among them, which comes from a package, since
no file of others is kept in this project. All files are read and compressed when the application is made; nothing
is read from the disk for a request, and no name in an address becomes a path.

A page of another release, from before an update, is led to the present file, and nothing keeps that answer.
"""

from __future__ import annotations

import gzip
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

from flask import Flask, Response, make_response, redirect, url_for

from webui.compression import accepts_gzip
from webui.errors import NotFoundError

_DIRECTORY: Final = Path(__file__).parent / "static"
_YEAR_S: Final = 365 * 24 * 3600
IMMUTABLE: Final = f"public, max-age={_YEAR_S}, immutable"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".ttf": "font/ttf"}
_COMPRESSED: Final = frozenset(_TYPES.values())  # pictures are compressed already
MATH_FONT: Final = "fonts/STIXTwoMath-Regular.ttf"  # under the SIL Open Font License, which the font itself names
_DIGEST_CHARS: Final = 16


@dataclass(frozen=True)
class StaticFile:
    """One file: its type, its bytes, and these compressed where that makes them smaller."""

    mimetype: str
    content: bytes
    gzipped: bytes | None


@dataclass(frozen=True)
class StaticFiles:
    """All files by their names below ``static/``, and the digest of all of them."""

    digest: str
    files: Mapping[str, StaticFile]


@cache
def read_static_files(directory: Path = _DIRECTORY) -> StaticFiles:
    """Read and compress every file, and the font."""
    paths = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    paths[MATH_FONT] = Path(str(distribution("ziamath").locate_file(f"ziamath/{MATH_FONT}")))  # without importing it
    state, files = sha256(), dict[str, StaticFile]()
    for name, path in sorted(paths.items()):
        content = path.read_bytes()
        state.update(f"{name}\0{len(content)}\0".encode() + content)
        files[name] = _static_file(path.suffix, content)
    return StaticFiles(state.hexdigest()[:_DIGEST_CHARS], files)


def install(app: Flask) -> None:
    """Serve the files, and let ``url_for("static", filename=..)`` name the present ones."""
    known = read_static_files()

    def add_digest(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static":
            values["digest"] = known.digest

    def static(digest: str, filename: str) -> Response:
        found = known.files.get(filename)
        if found is None:
            raise NotFoundError
        if digest != known.digest:
            return make_response(redirect(url_for("static", filename=filename)))
        return _respond(found)

    app.url_defaults(add_digest)
    app.add_url_rule("/static/<digest>/<path:filename>", "static", static)


def _respond(file: StaticFile) -> Response:
    gzipped = file.gzipped if accepts_gzip() else None
    response = Response(file.content if gzipped is None else gzipped, mimetype=file.mimetype)
    response.headers["Cache-Control"] = IMMUTABLE
    if file.gzipped is not None:
        response.headers["Vary"] = "Accept-Encoding"
    if gzipped is not None:
        response.headers["Content-Encoding"] = "gzip"
    return response


def _static_file(suffix: str, content: bytes) -> StaticFile:
    mimetype = _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
    smaller = gzip.compress(content, 9, mtime=0) if mimetype in _COMPRESSED else content
    return StaticFile(mimetype, content, smaller if len(smaller) < len(content) else None)
