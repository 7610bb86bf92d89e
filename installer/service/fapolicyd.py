"""What fapolicyd must trust of a site, in the form of its files in trust.d: path, size and SHA-256 on a line.

fapolicyd refuses to run programs, and Python modules, that no package of the host brought. The lines come from the
release's manifest, which lists what was verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from installer.errors import NoReleaseError, ServiceError
from installer.formats.manifest import ENVIRONMENT, ManifestError, load_manifest
from installer.service.files import KEEPER


def trust_lines(prefix: Path, version: str) -> Iterator[str]:
    """A line for each file that can run: the code of one release, and the keeper.

    Raises:
        NoReleaseError: the release has no manifest that fits its receipt.
        ServiceError: a path holds a space, by which fapolicyd parts its fields.
    """
    release = prefix / "releases" / version
    try:
        files = load_manifest(str(release)).files
    except (ManifestError, OSError) as exc:
        raise NoReleaseError(f"release {version} cannot be read: {exc}") from exc
    for name, entry in sorted(files.items()):
        if name.startswith(f"{ENVIRONMENT}/"):
            yield _line(release / name, entry.size_bytes, entry.sha256)
    keeper = prefix / KEEPER
    if keeper.is_file():
        data = keeper.read_bytes()
        yield _line(keeper, len(data), hashlib.sha256(data).hexdigest())


def _line(path: Path, size_bytes: int, sha256: str) -> str:
    if any(character.isspace() for character in str(path)):
        raise ServiceError(f"{str(path)!r} holds a space, by which fapolicyd parts its fields; choose another prefix")
    return f"{path} {size_bytes} {sha256}"
