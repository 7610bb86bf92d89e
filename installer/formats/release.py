"""release.json: what a release is. The bundler writes it, the installer decides by it, the appliance serves by it.

    {"format": 1, "name": .., "version": .., "accelerators": ["cpu"], "graphs": {"cpu": "model/cpu/model.onnx"},
     "dense": "int8", "config": .., "vocabulary": .., "known_answers": .. or null,
     "target": {"python": "3.11", "platform": "manylinux_2_28_x86_64"},
     "model": {"id": .., "title": .., "description": .., "context_tokens": .., "example_prompts": [..],
               "notice": .. or null}}

Checked here: every field and its form, and that paths stay inside the release. Not checked: that a file is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from installer.formats.fields import (
    Fields,
    FormatError,
    nested,
    optional_text,
    parse_object,
    text,
    texts,
    value,
    whole,
)

FORMAT = 1
DESCRIPTOR = "release.json"
MAX_DESCRIPTOR_BYTES = 1 << 20
VERSION_PATTERN = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
_PYTHON_PATTERN = re.compile(r"3\.[0-9]{1,2}")


@dataclass(frozen=True)
class ModelCard:
    """What the pages say about the model."""

    id: str
    title: str
    description: str
    context_tokens: int
    example_prompts: tuple[str, ...]
    notice: str | None


@dataclass(frozen=True)
class Target:
    """What the release's wheels were made for."""

    python: str  # "3.11"
    platform: str  # "manylinux_2_28_x86_64"


@dataclass(frozen=True)
class Release:
    """release.json. Paths are relative to the release."""

    name: str
    version: str  # also the name of its directory
    accelerators: tuple[str, ...]
    graphs: Mapping[str, str]  # accelerator -> graph
    dense: str | None  # how CPUs hold attention and head: "int8" or "bf16"; None: no CPU graph
    config: str
    vocabulary: str
    known_answers: str | None  # None: the release cannot be tested on the host
    target: Target
    model: ModelCard


def encode_release(release: Release) -> bytes:
    """The file's bytes.

    Raises:
        UnicodeEncodeError: a text holds half of a surrogate pair.
    """
    body = {"format": FORMAT, **asdict(release)}
    return (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def parse_release(data: bytes) -> Release:
    """Read the file's bytes.

    Raises:
        FormatError: it is not such a description.
    """
    body = parse_object(data, version=FORMAT)
    target = nested(body, "target")
    release = Release(
        name=text(body, "name"),
        version=text(body, "version"),
        accelerators=texts(body, "accelerators"),
        graphs={kind: _path(nested(body, "graphs"), kind) for kind in nested(body, "graphs")},
        dense=optional_text(body, "dense"),
        config=_path(body, "config"),
        vocabulary=_path(body, "vocabulary"),
        known_answers=None if value(body, "known_answers") is None else _path(body, "known_answers"),
        target=Target(text(target, "python"), text(target, "platform")),
        model=parse_model_card(nested(body, "model")),
    )
    for field in (release.name, release.version):
        if not VERSION_PATTERN.fullmatch(field):
            raise FormatError(f"{field!r} is not a usable name or version")
    if not _PYTHON_PATTERN.fullmatch(release.target.python):
        raise FormatError(f"{release.target.python!r} is not a Python version such as 3.11")
    return release


def parse_model_card(body: Fields) -> ModelCard:
    """The object `model`, which a checkpoint may also carry as model_card.json.

    Raises:
        FormatError: it is not such an object.
    """
    return ModelCard(
        id=text(body, "id"),
        title=text(body, "title"),
        description=text(body, "description"),
        context_tokens=whole(body, "context_tokens", least=1),
        example_prompts=texts(body, "example_prompts"),
        notice=optional_text(body, "notice"),
    )


def _path(body: Mapping[str, Any], key: str) -> str:
    name = text(body, key)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise FormatError(f"{name!r} does not stay inside the release")
    return name
