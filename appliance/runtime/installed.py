"""Compares an installed release with its manifest, for the commands that use the release's files.

`appliance/runtime/launch.py` has compared all code before this module could be imported. Here `serve`, `selftest` and
`doctor` compare what the release reads: graph, weights, vocabulary, configuration, known answers. A command of a
development checkout has no launcher; it compares the code of an installed release here, too, and a directory without a
manifest (a release that is being built) not at all.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from appliance.release import ReleaseError
from installer.formats.manifest import (
    MANIFEST,
    RECEIPT,
    ManifestError,
    compare_code,
    compare_data,
    damage,
    load_manifest,
)

REMEDY = "install the same archive again to repair it, and tell your security officer if nobody knows why"


@dataclass(frozen=True)
class InstalledRelease:
    """A release that is as it was installed, by what a start compares."""

    version: str  # the name of its directory
    manifest_sha256: str
    files: int


def is_launched() -> bool:
    """Whether a release's launcher started this process: only that starts Python without its site module."""
    return bool(sys.flags.no_site)


def verify_installed(release: Path) -> InstalledRelease | None:
    """Compare what a start compares: all but the weights by digest, weights by size and time.

    Returns:
        None for a directory that is not there, and in a development checkout for one that was not installed.
    Raises:
        ReleaseError: the release is not as it was installed, or not the one whose command this is.
    """
    if not release.is_dir():
        return None
    if is_launched():
        own = Path(__file__).parents[6]
        if own != release:
            right = release / "venv" / "bin" / "appliance"
            raise ReleaseError(f"this is the command of release {own.name}; release {release.name} has {right}")
    elif not (release / MANIFEST).exists() and not (release / RECEIPT).exists():
        return None
    try:
        manifest = load_manifest(str(release), has_receipt=(release / RECEIPT).exists())
        found = () if is_launched() else compare_code(str(release), manifest)
        found += compare_data(str(release), manifest)
    except (ManifestError, OSError) as exc:
        raise ReleaseError(f"release {release.name} is not as it was installed: {exc}; {REMEDY}") from exc
    if found:
        raise ReleaseError(f"release {release.name} is not as it was installed: {damage(found)}; {REMEDY}")
    return InstalledRelease(release.name, manifest.sha256, len(manifest.files))
