"""What the systemd units of a site say to the other rooms: which site they serve, and where they listen.

The installer writes them (`installer/service/units.py`). Under the service the socket unit binds the address, so that
the appliance's own setting does not count; `appliance doctor` asks here.
"""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Final

SYSTEM_UNITS: Final = Path("etc/systemd/system")  # below the root of the host
USER_UNITS: Final = Path(".config/systemd/user")  # below the home of a user
SITE_MARK: Final = "# Site: "
_LISTEN: Final = "ListenStream="
_MARKED_LINES: Final = 3  # the mark is one of the first


def site_of(text: str) -> str | None:
    """The site that a unit of ours serves; None for other files."""
    lines = text.splitlines()[:_MARKED_LINES]
    return next((line[len(SITE_MARK) :] for line in lines if line.startswith(SITE_MARK)), None)


def listen_of(text: str) -> str:
    """Where a socket unit listens; empty if it does not say."""
    return next((line[len(_LISTEN) :] for line in text.splitlines() if line.startswith(_LISTEN)), "")


def listening(site: Path, uid: int, root: Path = Path("/")) -> str | None:
    """Where the socket unit of a site listens: a unit of the host, or of this user; None if there is none."""
    for directory in _directories(uid, root):
        for path in sorted(directory.glob("*.socket")):
            text = text_of(path)
            if site_of(text) == str(site) and (found := listen_of(text)):
                return found
    return None


def host_of(listen: str) -> str | None:
    """The host of such an address; None for a Unix socket."""
    return None if listen.startswith(("/", "@")) else listen.rpartition(":")[0].strip("[]")


def _directories(uid: int, root: Path) -> list[Path]:
    try:
        home = Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        return [root / SYSTEM_UNITS]
    return [root / SYSTEM_UNITS, root / home.relative_to("/") / USER_UNITS]


def text_of(path: Path) -> str:
    """What a unit says; empty if it is no file, or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""
