"""Reads what a release says of itself: release.json, with the files that the installer needs, and about.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from installer.errors import ReleaseDescriptorError
from installer.formats import release as formats
from installer.formats.about import FILE as ABOUT
from installer.formats.about import parse_about
from installer.formats.fields import FormatError
from installer.formats.release import Release


def parse_release(data: bytes, paths: Iterable[str]) -> Release:
    """Parse release.json and check that the files the installer needs are among the release's paths.

    Raises:
        ReleaseDescriptorError: a field is missing, of the wrong type, or names a file that the release lacks.
    """
    try:
        release = formats.parse_release(data)
    except FormatError as exc:
        raise ReleaseDescriptorError(f"release.json is not a description that this installer reads: {exc}") from exc
    needed = {release.target.lock(python) for python in release.target.pythons}
    needed |= {release.known_answers} if release.known_answers else set()
    if absent := sorted(needed - set(paths)):
        raise ReleaseDescriptorError(f"the release lacks {', '.join(absent)}")
    return release


def schema_of(directory: Path) -> str:
    """The revision to which an installed release upgrades the database; empty if it is too old to say."""
    try:
        return parse_about((directory / ABOUT).read_bytes()).schema
    except (OSError, FormatError):
        return ""
