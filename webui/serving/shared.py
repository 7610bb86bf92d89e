"""What all connections of a server share."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webui.serving.answer import WsgiApp
from webui.serving.crowd import Crowd
from webui.serving.limits import Limits
from webui.serving.pool import Pool

if TYPE_CHECKING:
    from webui.serving.connection import Connection


@dataclass
class Serving:
    """Made once by the server."""

    app: WsgiApp
    limits: Limits
    crowd: Crowd[Connection]
    pool: Pool
    clock_s: Callable[[], float]
    tls: Callable[[], ssl.SSLContext | None]  # for a new connection; None: plain HTTP
    is_exempt: Callable[[str], bool]  # whether an address is a trusted proxy, which may have any number of connections
    is_multiprocess: bool
    is_stopping: bool = False  # no request is taken any more
    is_ending: bool = False  # nor is any answered to its end
