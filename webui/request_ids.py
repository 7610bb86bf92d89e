"""The name of a request, which its answer has in ``X-Request-Id`` and the server's log has beside an error.

A client may choose it, so that its own log and the server's have the same name. What could change a header or a line
of the log is not taken.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

HEADER: Final = "X-Request-Id"
_SOUND: Final = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


def request_id(given: str | None) -> str:
    """What the client gave, if that can be taken; else a new one."""
    return given if given is not None and _SOUND.fullmatch(given) else f"req_{secrets.token_hex(16)}"
