"""Real wheels in a cache of wheels: those that are installed here, so that no test needs an index."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bundler.lock import LockedWheel
from tests.installer.archives import installed_wheel

KIT_PACKAGES = ("click", "rich", "securesystemslib", "tuf")


def cached_wheel(cache: Path, package: str) -> LockedWheel:
    """Put the wheel of an installed package into the cache; the line of a lock that names it."""
    name, data = installed_wheel(package)
    digest = hashlib.sha256(data).hexdigest()
    (cache / digest).mkdir(parents=True, exist_ok=True)
    (cache / digest / name).write_bytes(data)
    return LockedWheel(package, name.split("-")[1], digest)
