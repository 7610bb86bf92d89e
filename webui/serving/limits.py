"""What one connection, one address and one process may use. Tests use smaller numbers."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from appliance.errors import ApplianceError

ACCEPTS_AT_ONCE = 64  # connections that are accepted before the first of them can be closed
LEAST_FILES = 1024
_OTHER_DESCRIPTORS = 192 + ACCEPTS_AT_ONCE  # databases, files and the event loop have these
STREAM_DESCRIPTORS = 3  # beside the connection: the engine's socket, and in the chat the turn's file, open twice
_MOST_CONNECTIONS = 20_000
MAX_BODY_BYTES = 8 * 1024 * 1024  # half of the engine's line limit, for the JSON around the text


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Deadlines in seconds, sizes in bytes. Each deadline ends one connection and nothing else."""

    handshake_s: float = 10.0  # from the connection to the end of the TLS handshake
    head_s: float = 10.0  # from the connection, or the first byte of a later request, to the end of its head
    idle_s: float = 60.0  # between two requests
    window_s: float = 10.0  # the pace of a body and of an answer is checked once per window
    least_bytes_per_s: int = 1024  # the pace of a body or an answer, on average in a window
    linger_s: float = 2.0  # after the last answer, so that the client reads it before the connection is reset
    head_bytes: int = 32 * 1024
    body_bytes: int = MAX_BODY_BYTES  # a larger body is not read; the application refuses it by its length
    bodies_bytes: int = 256 * 1024 * 1024  # all bodies that are arriving, wait for a thread or have one
    answer_bytes: int = 1024 * 1024  # an answer in memory; a larger one waits for its reader
    connections: int = 1024
    connections_per_address: int = 128  # an IPv6 network of 64 bits is one address; trusted proxies have no such limit
    waiting_requests: int = 256  # for a thread; one more is answered 503
    streams: int = 512  # answers without a length; their threads do not count
    tick_s: float = 0.25  # between two looks at the deadlines


class OpenFilesError(ApplianceError):
    """The host allows too few open files for this process to serve reliably."""


def limits_of_this_process() -> Limits:
    """The limits that the host allows. Raises the soft limit of open files to the hard one.

    Raises:
        OpenFilesError: the hard limit is too low. People would be refused at random when files cannot be opened.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limits_within(_MOST_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard)


def limits_within(files: int) -> Limits:
    """Limits that keep at most `files` files open, with any number of connections and streams.

    Raises:
        OpenFilesError: `files` is too small.
    """
    if files < LEAST_FILES:
        raise OpenFilesError(
            f"The limit of open files is {files}, and serving needs {LEAST_FILES}: raise the hard limit, with "
            "LimitNOFILE= of the service or with ulimit -Hn."
        )
    streams = min(Limits.streams, files // 8)
    connections = min(_MOST_CONNECTIONS, files - STREAM_DESCRIPTORS * streams - _OTHER_DESCRIPTORS)
    return Limits(connections=connections, connections_per_address=max(32, connections // 8), streams=streams)
