"""What a release is: the description in its release.json, parsed once, for the installer's decisions.

The complete contract of release.json is in docs/architecture.md; the fields that only the appliance reads are left to
it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from installer.errors import ReleaseDescriptorError

DESCRIPTOR = "release.json"
REQUIREMENTS = "wheels/requirements.lock"
VERSION_PATTERN = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
MAX_DESCRIPTOR_BYTES = 1 << 20


@dataclass(frozen=True)
class Release:
    """The installer's view of release.json."""

    name: str
    version: str  # also the name of its directory
    accelerators: tuple[str, ...]
    python: str  # "3.11"
    platform: str  # "manylinux_2_28_x86_64"
    known_answers: str | None  # path; None: the release cannot be tested on the host
    dense: str | None  # how CPUs hold attention and head: "int8" or "bf16"; None: no CPU graph
    model_id: str
    model_title: str


def parse_release(data: bytes, paths: Iterable[str]) -> Release:
    """Parse release.json and check that the files the installer needs are among the release's paths.

    Raises:
        ReleaseDescriptorError: a field is missing, of the wrong type, or names a file that the release lacks.
    """
    try:
        body = json.loads(data)
        if body["format"] != 1:
            raise ReleaseDescriptorError(f"release.json has format {body['format']!r}; this installer reads format 1")
        known_answers = body["known_answers"]
        release = Release(
            name=_text(body, "name"),
            version=_text(body, "version"),
            accelerators=tuple(str(a) for a in body["accelerators"]),
            python=_text(body["target"], "python"),
            platform=_text(body["target"], "platform"),
            known_answers=None if known_answers is None else _text(body, "known_answers"),
            dense=None if body.get("dense") is None else _text(body, "dense"),
            model_id=_text(body["model"], "id"),
            model_title=_text(body["model"], "title"),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ReleaseDescriptorError(f"release.json is not a release description: {exc!r}") from exc
    for field in (release.name, release.version):
        if not VERSION_PATTERN.fullmatch(field):
            raise ReleaseDescriptorError(f"release.json: {field!r} is not a usable name or version")
    if not re.fullmatch(r"3\.[0-9]{1,2}", release.python):
        raise ReleaseDescriptorError(f"release.json: {release.python!r} is not a Python version such as 3.11")
    present = set(paths)
    needed = {REQUIREMENTS, *([release.known_answers] if release.known_answers else [])}
    if absent := sorted(needed - present):
        raise ReleaseDescriptorError(f"the release lacks {', '.join(absent)}")
    return release


def _text(body: dict[str, Any], key: str) -> str:
    value = body[key]
    if not isinstance(value, str) or not value:
        raise ReleaseDescriptorError(f"release.json: {key} must be a text")
    return value
