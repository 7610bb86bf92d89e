"""A request's head: read in the only possible way, or refused.

h11 parses. The checks here come first and refuse heads that a proxy and this server could read differently, because
that is how requests are smuggled past a proxy (RFC 9112 sections 2.2, 5.2, 6.1 and 11.2):

(1) a line that ends with LF alone, and CR or NUL inside a line; (2) a line that continues the previous one; (3) a
length together with a transfer coding, and a transfer coding in HTTP/1.0; (4) more than one length, equal or not;
(5) a method in small letters. It is another method than the one in capitals (RFC 9110 section 9.1), but WSGI programs
take it for that one: the answer to "head" would have no body, and a proxy would wait for one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11

MAX_FIELDS: Final = 100
END_OF_HEAD: Final = b"\r\n\r\n"
_BROKEN_LINE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0")
_BROKEN_LINE_SO_FAR = re.compile(rb"(?<!\r)\n|\0")  # the last byte may be the first half of CR LF
_FOLDED_LINE = re.compile(rb"\r\n[ \t]")


class RefusedRequestError(Exception):
    """The request is refused and not read any further. ``sentence`` is for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        self.sentence = sentence
        super().__init__(sentence)


@dataclass(frozen=True)
class Head:
    """What a head says. ``target`` is a path with its query. ``host`` comes from the target if that names one."""

    method: str
    target: str
    version: str  # "1.0" or "1.1"
    host: str | None
    fields: tuple[tuple[str, str], ...]  # names in lower case, in order, without "host"
    length: int | None  # the body's declared length; None: chunked
    expects_continue: bool


def check_beginning(received: bytes | bytearray, max_bytes: int, *, checked_bytes: int = 0) -> None:
    """Refuse an incomplete head that can never become a valid one.

    Args:
        checked_bytes: so many bytes at the beginning were checked before. Without it, a client that sends one byte at a
            time would have the whole head checked for each byte.
    Raises:
        RefusedRequestError
    """
    if _BROKEN_LINE_SO_FAR.search(received, checked_bytes):  # (1)
        raise RefusedRequestError(400, "A line of the request does not end with CR LF.")
    if len(received) > max_bytes:
        raise RefusedRequestError(431, f"The head of the request is longer than {max_bytes} bytes.")


def parse_head(raw: bytes, parser: h11.Connection) -> Head:
    """Read a complete head.

    Args:
        raw: the head with its empty line.
        parser: a new one; it is left where the body begins.
    Raises:
        RefusedRequestError
    """
    if _BROKEN_LINE.search(raw):  # (1)
        raise RefusedRequestError(400, "A line of the request does not end with CR LF.")
    if _FOLDED_LINE.search(raw):  # (2)
        raise RefusedRequestError(400, "A header continues on the next line, which is not allowed.")
    lengths = re.findall(rb"\r\ncontent-length[ \t]*:([^\r]*)", raw, re.IGNORECASE)
    if len(lengths) > 1 or b"," in b"".join(lengths):  # (4)
        raise RefusedRequestError(400, "The request has more than one Content-Length.")
    try:
        parser.receive_data(raw)
        request = parser.next_event()
    except h11.RemoteProtocolError as exc:
        raise RefusedRequestError(exc.error_status_hint, "The request is not HTTP as this server reads it.") from exc
    if not isinstance(request, h11.Request):
        raise RuntimeError(f"internal error: a whole head gave {request!r}")
    return _head_of(request, parser)


def _head_of(request: h11.Request, parser: h11.Connection) -> Head:
    fields = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers)
    version, method = request.http_version.decode("latin-1"), request.method.decode("latin-1")
    if version not in ("1.0", "1.1"):
        raise RefusedRequestError(505, "This server speaks HTTP/1.1.")
    if method != method.upper():  # (5)
        raise RefusedRequestError(501, "The method of the request is not known: methods are in capital letters.")
    if len(fields) > MAX_FIELDS:
        raise RefusedRequestError(431, f"The request has more than {MAX_FIELDS} headers.")
    named = dict(fields)
    is_chunked = "transfer-encoding" in named
    if is_chunked and ("content-length" in named or version == "1.0"):  # (3)
        raise RefusedRequestError(400, "The request has a Content-Length and a Transfer-Encoding.")
    length = named.get("content-length", "0")
    if len(length) > 18:
        raise RefusedRequestError(413, "The body is larger than this server accepts.")
    target, authority = _target_of(request)
    return Head(
        method=method,
        target=target,
        version=version,
        host=authority or named.get("host"),
        fields=tuple((name, value) for name, value in fields if name != "host"),
        length=None if is_chunked else int(length),
        expects_continue=parser.they_are_waiting_for_100_continue,
    )


def _target_of(request: h11.Request) -> tuple[str, str | None]:
    """The path with its query, and the host if the target names one (RFC 9112 section 3.2).

    Raises:
        RefusedRequestError: it is neither a path nor a whole URL.
    """
    target = request.target.decode("latin-1")
    if target.startswith("/") and "#" not in target:
        return target, None
    if re.match(r"https?://", target, re.IGNORECASE) and "#" not in target:
        try:
            parts = urlsplit(target)
        except ValueError as exc:
            raise RefusedRequestError(400, "The address of the request cannot be read.") from exc
        if "@" in parts.netloc:
            raise RefusedRequestError(400, "The address of the request names a user, which is not allowed.")
        if not parts.netloc:
            raise RefusedRequestError(400, "The address of the request names no host.")
        path = target[target.index("://") + 3 + len(parts.netloc) :]
        return path if path.startswith("/") else f"/{path}", parts.netloc
    if request.method == b"CONNECT":
        raise RefusedRequestError(501, "This server is no proxy.")
    raise RefusedRequestError(400, "The address of the request must be a path.")
