"""Noticing that the client has gone. A threaded gunicorn worker learns it only when it writes; this asks the socket."""

from __future__ import annotations

import socket

from flask import request


def client_is_gone() -> bool:
    """Whether the other side has closed the connection of the request being answered.

    Reads nothing from the connection. False where the server does not hand out its socket (gunicorn does).
    """
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return False
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
    except BlockingIOError:
        return False
    except OSError:
        return True
