"""Compression of pages, only where it gives no secret away.

The length of a compressed page says how much of it is repeated. An attacker who has a browser load a page many times
with words of the attacker's choice in it, and sees how long each encrypted answer is, can guess a secret of that page
letter by letter (BREACH, CVE-2013-3587). So a view is compressed only if it asks for it by `compressed`, and it may ask
only if (1) its page holds nothing that the request chose, not even an error's words, and (2) it holds no secret that is
shown once. The chat's pages qualify, and they are the large ones. Not compressed: the review (it repeats the filter
beside what people asked), account and administration (new keys and links), signing in (it repeats a name), answers that
are being written, and the API. The session's cookie is SameSite=Strict as well, so no page of another site can load a
page of a signed-in person.

Files of ``static/`` hold no secret and are compressed once (`webui.static_files`).
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec

from flask import Response, make_response, request
from flask.typing import ResponseReturnValue

P = ParamSpec("P")

_LEAST_BYTES: Final = 1_400  # what fits a packet gains nothing
_LEVEL: Final = 5  # of 400 kB: 4 ms; level 9 takes three times as long for 2 % less


def accepts_gzip() -> bool:
    """Whether the browser said that it takes gzip."""
    return request.accept_encodings.quality("gzip") > 0


def compressed(view: Callable[P, ResponseReturnValue]) -> Callable[P, Response]:
    """Compress the pages of a view that reflects nothing of its request and shows no secret of ours."""

    @wraps(view)
    def smaller(*args: P.args, **kwargs: P.kwargs) -> Response:
        response = make_response(view(*args, **kwargs))
        response.vary.add("Accept-Encoding")
        if not response.is_streamed and response.status_code == 200 and accepts_gzip():
            content = response.get_data()
            if len(content) >= _LEAST_BYTES:
                response.set_data(gzip.compress(content, _LEVEL, mtime=0))
                response.headers["Content-Encoding"] = "gzip"
        return response

    return smaller
