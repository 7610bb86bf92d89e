"""release.json: what a release is. The bundler writes it, the installer decides by it, the appliance serves by it.

    {"format": 1, "name": .., "version": .., "accelerators": ["cpu"], "graphs": {"cpu": "model/cpu/model.onnx"},
     "dense": "int8", "config": .., "vocabulary": .., "known_answers": .. or null,
     "target": {"pythons": ["3.11", "3.12"], "platform": "manylinux_2_28_x86_64"},
     "model": {"id": .., "title": .., "description": .., "context_tokens": .., "example_prompts": [..],
               "notice": .. or null, "converted": {..} or null}}

Releases before 0.2 have `"python": "3.11"` in place of `pythons`.

Checked here: every field and its form, and that paths stay inside the release. Not checked: that a file is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Optional

from installer.formats.checks import FaultError, Length, Rule
from installer.formats.fields import Positive, Real, Text, Texts, parse_fields, parse_file

FORMAT = 1
DESCRIPTOR = "release.json"
MAX_DESCRIPTOR_BYTES = 1 << 20
ACCELERATORS = ("cpu", "cuda")  # what releases may have graphs for
MAX_TITLE_CHARACTERS = 200  # it stands in lines of output, in receipts and on pages
VERSION_PATTERN = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
_PYTHON_PATTERN = re.compile(r"3\.[0-9]{1,2}")


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise FaultError(f"is {name!r:.99}, which does not stay inside the release")
    return name


def _usable(name: str) -> str:
    if not VERSION_PATTERN.fullmatch(name):
        raise FaultError(f"is {name!r:.99}, which is not a usable name or version")
    return name


def _python(version: str) -> str:
    if not _PYTHON_PATTERN.fullmatch(version):
        raise FaultError(f"is {version!r:.99}, which is not a Python version such as 3.11")
    return version


def _brief(text: str) -> str:
    if len(text) > MAX_TITLE_CHARACTERS:
        raise FaultError(f"has {len(text)} characters, the limit is {MAX_TITLE_CHARACTERS}")
    return text


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise FaultError("must name at least one")
    for place, name in enumerate(names):
        if name not in ACCELERATORS:
            raise FaultError(f"is {name!r:.40}, which is none of {', '.join(ACCELERATORS)}", at=(place,))
    return names


Title = Annotated[Text, Rule(_brief)]
_Path = Annotated[Text, Rule(_inside)]
_Name = Annotated[Text, Rule(_usable)]
_Python = Annotated[Text, Rule(_python)]


STORED_MXFP4 = "MXFP4"  # what experts are rounded from if only an adapter changed them


@dataclass(frozen=True)
class Converted:
    """How the weights of a release differ from those of the checkpoint that it was built from."""

    adapter: Optional[Text] = None  # the LoRA adapter that was merged
    experts_from: Optional[Text] = None  # what experts were rounded to MXFP4 from; None: every one is as stored
    expert_errors: Mapping[str, Real] = field(default_factory=dict)  # layer -> error of its rounded experts, relative
    adapter_changes: Mapping[str, Real] = field(default_factory=dict)  # layer -> what the adapter adds, relative
    dense_from: Optional[Text] = None  # what other tensors were rounded to bfloat16 from

    @property
    def mean_error(self) -> float:
        """The mean of the layers' errors; layers whose experts were not rounded do not count."""
        return _mean(self.expert_errors)

    @property
    def sentences(self) -> str:
        """What people read about it."""
        said = [f"The LoRA adapter {self.adapter} was merged into this model here."] if self.adapter else []
        if self.experts_from:
            error = f"mean relative error {100 * self.mean_error:.2g} %" if self.mean_error else "no weight changed"
            changed = self.experts_from == STORED_MXFP4
            what = "the changed experts to MXFP4 again" if changed else f"experts from {self.experts_from} to MXFP4"
            said.append(f"This model was requantised here: {what}, {error}.")
        if (change := _mean(self.adapter_changes)) > 0:
            more = ", less than rounding does" if change < self.mean_error else ""
            said.append(f"The adapter changes these experts by {100 * change:.2g} %{more}.")
        if self.dense_from:
            said.append(f"Its other weights were rounded from {self.dense_from} to bfloat16.")
        return " ".join(said)


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values) if values else 0.0


@dataclass(frozen=True)
class ModelCard:
    """What the pages say about the model."""

    id: Title
    title: Title
    description: Text
    context_tokens: Positive
    example_prompts: Texts
    notice: Optional[Text] = None  # not `Text | None`: Python 3.9 reads the types of a record when it checks one
    converted: Optional[Converted] = None  # None: the weights are the checkpoint's own


@dataclass(frozen=True)
class Target:
    """What the release's wheels were made for."""

    pythons: tuple[str, ...]  # "3.11", "3.12", ..; ascending
    platform: str  # "manylinux_2_28_x86_64"

    def lock(self, python: str) -> str:
        """The lock of the wheels for one of these Pythons, relative to the release."""
        return "wheels/requirements.lock" if len(self.pythons) == 1 else f"wheels/requirements-{python}.lock"


@dataclass(frozen=True)
class _Target:
    """As the file has it."""

    platform: Text
    pythons: Annotated[tuple[_Python, ...], Length(least=1)] = ()
    python: Optional[_Python] = None  # before 0.2


def _target(read: _Target) -> Target:
    pythons = read.pythons or ((read.python,) if read.python is not None else ())
    if not pythons:
        raise FaultError("is missing", kind="missing", at=("pythons",))
    return Target(tuple(sorted(set(pythons), key=python_number)), read.platform)


def python_number(version: str) -> int:
    """12 of "3.12", for comparisons."""
    return int(version.split(".")[1])


@dataclass(frozen=True)
class Release:
    """release.json. Paths are relative to the release."""

    name: _Name
    version: _Name  # also the name of its directory
    accelerators: Annotated[Texts, Rule(_known)]
    graphs: Mapping[str, _Path]  # accelerator -> graph
    config: _Path
    vocabulary: _Path
    known_answers: Optional[_Path]  # None: the release cannot be tested on the host
    target: Annotated[Target, Rule(_target, takes=_Target)]
    model: ModelCard
    dense: Optional[Text] = None  # how CPUs hold attention and head: "int8" or "bf16"; None: no CPU graph


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
