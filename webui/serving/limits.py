"""What one connection, one address and one process may use. Tests put small numbers in."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from appliance.errors import ApplianceError

ACCEPTS_AT_ONCE = 64  # connections that are taken before the first of them can be told to go
LEAST_FILES = 1024
_OTHER_DESCRIPTORS = 192 + ACCEPTS_AT_ONCE  # databases, files, the event loop's own
STREAM_DESCRIPTORS = 3  # beside its connection: the engine's, and in the chat the turn's file twice, written and read
_MOST_CONNECTIONS = 20_000
MAX_BODY_BYTES = 8 * 1024 * 1024  # half of the engine's line limit, for the JSON around the text


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Deadlines in seconds, sizes in bytes. Each deadline ends one connection and nothing else."""

    handshake_s: float = 10.0  # from the connection to the end of the TLS handshake
    head_s: float = 10.0  # from the connection, or the first byte of a later request, to the end of its head
    idle_s: float = 60.0  # between two requests
    window_s: float = 10.0  # a body that arrives and an answer that leaves are judged once per window
    least_bytes_per_s: int = 1024  # of a body or an answer, on average over a window
    linger_s: float = 2.0  # after a last answer, so that the client reads it before it sees the connection reset
    head_bytes: int = 32 * 1024
    body_bytes: int = MAX_BODY_BYTES  # a larger body is not read; the application sees its length and refuses it
    bodies_bytes: int = 256 * 1024 * 1024  # of all bodies that arrive, wait for a thread or have one
    answer_bytes: int = 1024 * 1024  # of an answer in memory; a larger one waits for its reader
    connections: int = 1024
    connections_per_address: int = 128  # an IPv6 network of 64 bits is one address; trusted proxies have no such limit
    waiting_requests: int = 256  # for a thread; the next is answered 503
    streams: int = 512  # answers without a length, each in a thread that does not count among the others
    tick_s: float = 0.25  # how often the deadlines are looked at


class OpenFilesError(ApplianceError):
    """The host allows too few open files for this process to serve reliably."""


def limits_of_this_process() -> Limits:
    """The most that the host allows: raises the soft limit of open files to the hard one.

    Raises:
        OpenFilesError: people would be refused at random, because files of the appliance cannot be opened.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limits_within(_MOST_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard)


def limits_within(files: int) -> Limits:
    """Limits under which at most `files` are open, however many connections and streams there are.

    Raises:
        OpenFilesError: there are too few.
    """
    if files < LEAST_FILES:
        raise OpenFilesError(
            f"The limit of open files is {files}, and serving needs {LEAST_FILES}: raise the hard limit, with "
            "LimitNOFILE= of the service or with ulimit -Hn."
        )
    streams = min(Limits.streams, files // 8)
    connections = min(_MOST_CONNECTIONS, files - STREAM_DESCRIPTORS * streams - _OTHER_DESCRIPTORS)
    return Limits(connections=connections, connections_per_address=max(32, connections // 8), streams=streams)
