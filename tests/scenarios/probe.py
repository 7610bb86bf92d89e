"""Tries to get a byte to the sinks of `confinement.py` in every way that plain Python has. Prints each outcome.

Alone it is the unconfined probe; `confinement.py` also runs it in the place of the engine, under the real supervisor.
Arguments: the directory of the Unix sinks and the port of the others.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable

OUTSIDE = "198.51.100.1"  # TEST-NET-2, an address of the test's own network
BEYOND = "203.0.113.53"  # TEST-NET-3, behind the test's default route: seen as a packet, answered by nobody


def ways(directory: str, port: int) -> dict[str, Callable[[], object]]:
    inet, inet6, unix, stream, datagram = (
        socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM,
    )  # fmt: skip
    return {
        "tcp loopback": lambda: connect(inet, stream, ("127.0.0.1", port)),
        "tcp outside": lambda: connect(inet, stream, (OUTSIDE, port)),
        "tcp6 loopback": lambda: connect(inet6, stream, ("::1", port)),
        "udp loopback": lambda: connect(inet, datagram, ("127.0.0.1", port)),
        "udp outside": lambda: connect(inet, datagram, (OUTSIDE, port)),
        "udp6 loopback": lambda: connect(inet6, datagram, ("::1", port)),
        "udp beyond": lambda: connect(inet, datagram, (BEYOND, 53)),
        "fast open": lambda: fast_open(("127.0.0.1", port)),
        "unix path": lambda: connect(unix, stream, f"{directory}/stream"),
        "unix path datagram": lambda: connect(unix, datagram, f"{directory}/datagram"),
        "unix abstract": lambda: connect(unix, stream, f"\0sink-{port}"),
    }


def connect(family: int, kind: int, address: tuple[str, int] | str) -> None:
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        sock.connect(address)
        sock.send(b"probe")


def fast_open(address: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.sendto(b"probe", socket.MSG_FASTOPEN, address)


def try_all(directory: str, port: int) -> dict[str, str]:
    outcomes = {}
    for name, way in ways(directory, port).items():
        try:
            way()
            outcomes[name] = "sent"
        except BrokenPipeError:  # the sink took the connection and closed it faster
            outcomes[name] = "sent"
        except OSError as exc:
            outcomes[name] = type(exc).__name__
    return outcomes


if __name__ == "__main__":
    print(json.dumps(try_all(sys.argv[1], int(sys.argv[2]))))
