"""Where a browser goes after signing in: a page of this site, whatever the address said."""

from __future__ import annotations

import re
from typing import Final

# One slash, then no second one and no backslash (browsers read both "//host" and "/\host" as another site), and no
# control character, which browsers drop before they look.
_LOCAL_PATH: Final = re.compile(r"/(?![/\\])[^\x00-\x20\\\x7f]{0,1000}")
_NOT_PAGES: Final = ("/sign-in", "/sign-out", "/welcome", "/v1")


def safe_return_path(given: str | None) -> str:
    """`given` if it is a path of a page on this site, else the first page."""
    if given is None or not _LOCAL_PATH.fullmatch(given) or given.startswith(_NOT_PAGES):
        return "/"
    return given
