"""Answers that the server gives without the application: a status, one sentence, and the end of the connection.

A program that asked for an address of the API gets the API's JSON, everybody else plain text. The head may be what is
wrong with the request, so its first bytes decide.
"""

from __future__ import annotations

import json
import re
from typing import Final

from appliance.site_address import parse_authority
from webui.api.errors import ApiError, body_of
from webui.request_ids import HEADER, request_id
from webui.serving.heads import Head

CODES: Final = {  # status: reason phrase, code in the API's JSON
    308: ("Permanent Redirect", "https_only"),
    400: ("Bad Request", "bad_request"),
    408: ("Request Timeout", "request_timeout"),
    413: ("Content Too Large", "request_too_large"),
    431: ("Request Header Fields Too Large", "headers_too_large"),
    500: ("Internal Server Error", "internal_error"),
    501: ("Not Implemented", "not_implemented"),
    503: ("Service Unavailable", "overloaded"),
    505: ("HTTP Version Not Supported", "http_version_not_supported"),
}
_FOR_API: Final = re.compile(rb"\S{1,20} +(?:[Hh][Tt][Tt][Pp][Ss]?://[^/\s]*)?/+v1(?:[/?\s]|$)")


def refusal(status: int, sentence: str, fields: str = "", *, asked: bytes) -> bytes:
    """The whole answer, after which the connection ends.

    Args:
        fields: further header lines, each with its CR LF.
        asked: the beginning of the request.
    """
    reason, code = CODES.get(status, ("Refused", "bad_request"))
    body, kind = f"{sentence}\n".encode(), "text/plain; charset=utf-8"
    if _FOR_API.match(asked):
        body, kind = json.dumps(body_of(ApiError(status, code, sentence))).encode(), "application/json"
        fields += f"{HEADER}: {request_id(None)}\r\n"
    fields += "Retry-After: 1\r\n" if status == 503 else ""
    fields += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status} {reason}\r\n{fields}\r\n".encode() + body


def https_only(head: Head) -> bytes:
    """The answer to a plain request on a TLS port: a page is redirected to its https address, all else is refused."""
    sentence = "This address speaks HTTPS only. Use https:// instead of http://."
    asked = beginning_of(head.method, head.target)
    if head.method in ("GET", "HEAD") and _is_authority(head.host or ""):
        return refusal(308, sentence, f"Location: https://{head.host}{head.target}\r\n", asked=asked)
    return refusal(400, sentence, asked=asked)


def beginning_of(method: str, target: str) -> bytes:
    """The beginning of a request that was read."""
    return f"{method} {target} ".encode("latin-1", "replace")


def _is_authority(host: str) -> bool:
    try:
        parse_authority(host)
    except ValueError:
        return False
    return True
