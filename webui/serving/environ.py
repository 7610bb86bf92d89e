"""A request as the WSGI environ of PEP 3333, with two keys of our own for the application.

    appliance.client_is_gone      a callable: whether the peer of this request's connection has closed it
    appliance.server_is_ending    a callable: whether this process has stopped, and what still runs is to end

Headers with an underscore in their names are left out: WSGI cannot tell ``X_Forwarded_For`` from ``X-Forwarded-For``,
and a proxy replaces only the second.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from webui.serving.heads import Head

CLIENT_IS_GONE: Final = "appliance.client_is_gone"
SERVER_IS_ENDING: Final = "appliance.server_is_ending"

_WITHOUT_PREFIX: Final = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
_OF_THE_CONNECTION: Final = frozenset({"transfer-encoding", "connection", "keep-alive", "expect", "upgrade", "te"})


@dataclass(frozen=True)
class Peers:
    """The two ends of a connection, as the kernel names them; "" for a Unix socket."""

    client_host: str
    client_port: str
    server_host: str
    server_port: str


def peers_of(transport: asyncio.BaseTransport) -> Peers:
    """The two ends of the connection that `transport` has."""
    client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return Peers(*_host_and_port(client), *_host_and_port(server))


def _host_and_port(name: object) -> tuple[str, str]:
    """The parts of an IP socket's name. An IPv4 client of an IPv6 socket gets its IPv4 address."""
    if not isinstance(name, tuple):
        return "", ""
    host = str(name[0])
    return host.removeprefix("::ffff:") if "." in host else host, str(name[1])


def make_environ(
    head: Head, body: bytes | bytearray, peers: Peers, *, scheme: str, is_multiprocess: bool,
    is_gone: Callable[[], bool], is_ending: Callable[[], bool],
) -> dict[str, Any]:  # fmt: skip
    """The environ of a request. Args: body: the whole body; empty if it was too large to be read."""
    path, _, query = head.target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": head.target,
        "SERVER_PROTOCOL": f"HTTP/{head.version}",
        "SERVER_NAME": peers.server_host or "localhost",
        "SERVER_PORT": peers.server_port or ("443" if scheme == "https" else "80"),
        "REMOTE_ADDR": peers.client_host,
        "REMOTE_PORT": peers.client_port,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": is_multiprocess,
        "wsgi.run_once": False,
        CLIENT_IS_GONE: is_gone,
        SERVER_IS_ENDING: is_ending,
    }
    if head.host is not None:
        environ["HTTP_HOST"] = head.host
    for name, value in head.fields:
        if "_" in name or name in _OF_THE_CONNECTION:
            continue
        key = _WITHOUT_PREFIX.get(name) or "HTTP_" + name.upper().replace("-", "_")
        separator = "; " if name == "cookie" else ","
        environ[key] = f"{environ[key]}{separator}{value}" if key in environ else value
    if head.length is None:
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ
