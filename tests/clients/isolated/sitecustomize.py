"""Python imports this at its start, in a client's program and in every Python that the program starts.

It refuses every name and address but the loopback, as the network of a site with the appliance does, and writes each
that was asked for into the file that ELSEWHERE names.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

LOOPBACK = (None, "", "127.0.0.1", "::1", "localhost")
asked_for = Path(os.environ["ELSEWHERE"])


def isolate(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in LOOPBACK:
        with asked_for.open("a") as file:
            file.write(f"{host}\n")
        raise socket.gaierror(socket.EAI_AGAIN, "this network is isolated")


sys.addaudithook(isolate)
