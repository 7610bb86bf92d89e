"""Answers that the server gives without the application: a status, one sentence, and the end of the connection."""

from __future__ import annotations

from typing import Final

from appliance.site_address import parse_authority
from webui.serving.heads import Head

_REASONS: Final = {
    308: "Permanent Redirect", 400: "Bad Request", 408: "Request Timeout", 413: "Content Too Large",
    431: "Request Header Fields Too Large", 501: "Not Implemented", 503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}  # fmt: skip


def refusal(status: int, sentence: str, fields: str = "") -> bytes:
    """The whole answer, after which the connection ends.

    Args:
        fields: further header lines, each with its CR LF.
    """
    body = f"{sentence}\n".encode()
    fields += "Retry-After: 1\r\n" if status == 503 else ""
    fields += f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Refused')}\r\n{fields}\r\n".encode() + body


def https_only(head: Head) -> bytes:
    """The answer to a plain request on a TLS port: a page is redirected to its https address, all else is refused."""
    sentence = "This address speaks HTTPS only. Use https:// instead of http://."
    if head.method in ("GET", "HEAD") and _is_authority(head.host or ""):
        return refusal(308, sentence, f"Location: https://{head.host}{head.target}\r\n")
    return refusal(400, sentence)


def _is_authority(host: str) -> bool:
    try:
        parse_authority(host)
    except ValueError:
        return False
    return True
