"""Compares an installed release with its manifest, for the commands that use the release's files.

`appliance/runtime/launch.py` has compared all code before this module could be imported. Here `serve`, `selftest` and
`doctor` compare the files that the appliance reads: graph, weights, vocabulary, configuration, known answers. A command
of a development checkout has no launcher. Here it also compares the code of an installed release, and it does not
compare a directory without a manifest (a release that is being built).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from appliance.installed_release import ReleaseError
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
class VerifiedRelease:
    """An installed release that has just been compared with its manifest, and is as it was installed."""

    version: str  # the name of its directory
    manifest_sha256: str
    files: int


def is_launched() -> bool:
    """Whether a release's launcher started this process: only that starts Python without its site module."""
    return bool(sys.flags.no_site)


def verify_installed(release: Path) -> VerifiedRelease | None:
    """Compare what a start compares: the weights by size and time, everything else by digest.

    Returns:
        None for a missing directory, and in a development checkout for a release that was not installed.
    Raises:
        ReleaseError: the release is not as it was installed, or this command belongs to another release.
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
    return VerifiedRelease(release.name, manifest.sha256, len(manifest.files))
