"""gunicorn's configuration module: says when a worker has loaded the application and will answer."""

from __future__ import annotations

import os
from typing import Any


def post_worker_init(_worker: Any) -> None:
    """Write one byte to the descriptor that the supervisor reads; it cannot ask over HTTP, having no way to connect."""
    os.write(int(os.environ["APPLIANCE_READY_FD"]), b"\x01")
