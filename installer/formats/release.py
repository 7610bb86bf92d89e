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
from typing import Annotated, Any

from installer.formats.checks import FaultError, Rule
from installer.formats.fields import Positive, Text, Texts, parse_fields, parse_file

FORMAT = 1
DESCRIPTOR = "release.json"
MAX_DESCRIPTOR_BYTES = 1 << 20
VERSION_PATTERN = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
_PYTHON_PATTERN = re.compile(r"3\.[0-9]{1,2}")


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise FaultError(f"is {name!r}, which does not stay inside the release")
    return name


def _usable(name: str) -> str:
    if not VERSION_PATTERN.fullmatch(name):
        raise FaultError(f"is {name!r}, which is not a usable name or version")
    return name


def _python(version: str) -> str:
    if not _PYTHON_PATTERN.fullmatch(version):
        raise FaultError(f"is {version!r}, which is not a Python version such as 3.11")
    return version


_Path = Annotated[Text, Rule(_inside)]
_Name = Annotated[Text, Rule(_usable)]


@dataclass(frozen=True)
class ModelCard:
    """What the pages say about the model."""

    id: Text
    title: Text
    description: Text
    context_tokens: Positive
    example_prompts: Texts
    notice: Text | None = None


@dataclass(frozen=True)
class Target:
    """What the release's wheels were made for."""

    python: Annotated[Text, Rule(_python)]  # "3.11"
    platform: Text  # "manylinux_2_28_x86_64"


@dataclass(frozen=True, kw_only=True)
class Release:
    """release.json. Paths are relative to the release."""

    name: _Name
    version: _Name  # also the name of its directory
    accelerators: Texts
    graphs: Mapping[str, _Path]  # accelerator -> graph
    dense: Text | None = None  # how CPUs hold attention and head: "int8" or "bf16"; None: no CPU graph
    config: _Path
    vocabulary: _Path
    known_answers: _Path | None  # None: the release cannot be tested on the host
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
    return parse_file(Release, data, version=FORMAT)


def parse_model_card(body: Mapping[str, Any]) -> ModelCard:
    """The object `model`, which a checkpoint may also carry as model_card.json.

    Raises:
        FormatError: it is not such an object.
    """
    return parse_fields(ModelCard, body)
