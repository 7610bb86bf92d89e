"""Sets how fast and how often the recorder reads a whole release or its packed weights while the appliance answers."""

from __future__ import annotations

import threading
from typing import Final

from installer.formats.manifest import Pace

RATE_BYTES_S: Final = 32 << 20  # gpt-oss-20b in 7 minutes, 120b in 34; under 3 % of a core, 0.1 % of memory's bandwidth
AGAIN_S: Final = 24 * 3600.0


class StoppedError(Exception):
    """The recorder ended while files were being read."""


def pace(stop: threading.Event, rate_bytes_s: int) -> Pace:
    """Keep to `rate_bytes_s` by waiting after each piece; raise `StoppedError` once `stop` is set."""

    def wait(size_bytes: int) -> None:
        if stop.wait(size_bytes / rate_bytes_s):
            raise StoppedError

    return wait
