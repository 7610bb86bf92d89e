"""The rotary settings of a config.json, in every form that Transformers has written for gpt-oss.

    Transformers 4   "rope_theta": 150000, "rope_scaling": {"rope_type": "yarn", ..}     ("type" in older files)
    Transformers 5   "rope_parameters": {"rope_type": "yarn", "rope_theta": 150000, ..}
                     "rope_parameters": {"full_attention": {..}, "sliding_attention": {..}}

The theta may stand inside any of them. Optional fields may be null. Two forms in one file must say the same: versions
of Transformers disagree about which one counts, so a contradiction is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from bundler.errors import CheckpointError
from installer.formats.checks import Must, closed

LAYER_TYPES: Final = ("full_attention", "sliding_attention")
_FORMS: Final = ("rope_parameters", "rope_scaling")
_THETA: Final = "rope_theta"
_DEFAULT_THETA: Final = 150000.0  # of the model type

Positive = Annotated[float, Must("must be a number greater than 0", gt=0)]


@closed
@dataclass(frozen=True, kw_only=True)
class RopeFields:
    """The fields of one such object, without its nulls. Defaults are those of Transformers."""

    rope_type: Annotated[Literal["yarn"], Must('must be "yarn"')]
    type: Any = None  # an older name of rope_type
    rope_theta: Positive | None = None
    factor: Annotated[float, Must("must be a number of at least 1", ge=1)]
    original_max_position_embeddings: Annotated[int, Must("must be a whole number of at least 1", ge=1)]
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    truncate: bool = True
    attention_factor: Positive | None = None
    partial_rotary_factor: Annotated[float, Must("must be 1: every dimension of a head turns", ge=1, le=1)] = 1.0

    @property
    def concentration(self) -> float:
        """What multiplies cosines and sines."""
        return 0.1 * math.log(self.factor) + 1 if self.attention_factor is None else self.attention_factor


def rope_section(body: Mapping[str, Any], path: Path) -> tuple[str, Any]:
    """The name of the object that holds the rotary settings, and the object without nulls; None if there is none.

    Raises:
        CheckpointError: two places contradict each other.
    """
    found = {form: _flat(body[form], form, path) for form in _FORMS if body.get(form) is not None}
    if not found:
        return "rope_scaling", None
    if len(found) == 2 and found["rope_parameters"] != found["rope_scaling"]:
        theta = {name: body[name] for name in (_THETA,) if body.get(name) is not None}
        first, second = ({**theta, **fields} if isinstance(fields, dict) else fields for fields in found.values())
        if first != second:
            raise CheckpointError(path, '"rope_parameters" and "rope_scaling" contradict each other', "one of them")
    return next(iter(found.items()))


def chosen_theta(inside: float | None, beside: float | None, section: str, path: Path) -> float:
    """The base of the frequencies, from the object or from beside it.

    Raises:
        CheckpointError: the two differ.
    """
    if inside is not None and beside is not None and inside != beside:
        fault = f'"{section}.{_THETA}" is {inside:g} and "{_THETA}" is {beside:g}'
        raise CheckpointError(path, fault, "one value: versions of Transformers disagree about which one counts")
    return inside or beside or _DEFAULT_THETA


def _flat(section: Any, name: str, path: Path) -> Any:
    """One object without nulls, also where each type of layer has an object of its own."""
    if not isinstance(section, dict):
        return section
    if nested := [section[kind] for kind in LAYER_TYPES if isinstance(section.get(kind), dict)]:
        if any(fields != nested[0] for fields in nested):
            expected = "the same rotary settings for every layer: gpt-oss has one rotary cache"
            raise CheckpointError(path, f'"{name}" differs between types of layers', expected)
        section = {**{field: value for field, value in section.items() if field not in LAYER_TYPES}, **nested[0]}
    kept = {field: value for field, value in section.items() if value is not None}
    return {"rope_type": kept["type"], **kept} if "type" in kept else kept
