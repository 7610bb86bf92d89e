"""The connection of the request being answered: whether its client has gone, which writing to it tells too late."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from flask import request

from webui.serving.environ import CLIENT_IS_GONE


def client_is_gone() -> bool:
    """Whether the other side has closed the connection; False under a server that does not say.

    The server knows it also behind TLS, and without a look at the socket here: it reads the connection all the time.
    """
    ask = cast("Callable[[], bool] | None", request.environ.get(CLIENT_IS_GONE))
    return ask is not None and ask()
