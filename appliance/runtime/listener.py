"""The one way in: the listening socket, bound before every way out is shut."""

from __future__ import annotations

import os
import socket

from appliance.config import Config
from appliance.errors import ApplianceError
from appliance.isolation.privileges import is_listener

LISTENER_FD = 3  # where systemd's socket activation, and so gunicorn, expects the first listener (sd_listen_fds)


class ListenError(ApplianceError):
    """The appliance cannot listen on the address."""


def listen(config: Config, inherited: int | None) -> socket.socket:
    """The listening socket, moved to LISTENER_FD.

    Args:
        inherited: descriptor of a socket that a service manager bound; None: bind the configured address.
    Raises:
        ListenError: the address is taken or not this host's, or the inherited socket does not accept streams.
    """
    if inherited is not None:
        bound = socket.socket(fileno=inherited)
        if not is_listener(bound):
            bound.close()
            raise ListenError("the socket handed over by the service manager does not listen for TCP or Unix streams")
    else:
        family = socket.AF_INET6 if ":" in config.listen_host else socket.AF_INET
        try:
            bound = socket.create_server((config.listen_host, config.listen_port), family=family, backlog=1024)
        except OSError as exc:
            where = f"{config.listen_host}:{config.listen_port}"
            reason = os.strerror(exc.errno or 0)
            raise ListenError(f"cannot listen on {where}: {reason}; choose another by --port or --host") from exc
    if bound.fileno() == LISTENER_FD:
        return bound
    with bound:
        os.dup2(bound.fileno(), LISTENER_FD, inheritable=False)
    return socket.socket(fileno=LISTENER_FD)


def url_of(listener: socket.socket, scheme: str) -> str:
    """The address to type into a browser. A socket on every address gets this host's name."""
    if listener.family == socket.AF_UNIX:
        return f"{scheme}://{socket.gethostname()} (by a proxy, through {listener.getsockname()})"
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - comparing, not binding
        host = socket.gethostname()
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
