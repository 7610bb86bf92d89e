"""The names that training tools give to gpt-oss's tensors, led back to the published layout's.

Wrappers of training put words into a name (``module.``, ``base_model.model.``, ``_fsdp_wrapped_module.`` ..), and the
tools differ in how they hold the experts:

    experts.gate_up_proj                    every expert in one tensor: Transformers, TRL, Axolotl
    experts.gate_up_projs.3.weight          a linear layer for each expert: Unsloth in 4 bits
    experts.3.gate_proj.weight, .up_proj    two of them, gate and up apart: llm-compressor, Megatron's exports

Gate and up rows take turns in the published layout, so the last form is woven together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bundler.checkpoints.files import StoredTensor
from bundler.errors import CheckpointError

Projection = Literal["gate_up_proj", "down_proj"]
Part = Literal["weight", "bias"]
PROJECTIONS: Final[tuple[Projection, ...]] = ("gate_up_proj", "down_proj")

_WRAPPERS: Final = frozenset(
    ("base_model", "model", "module", "language_model", "_orig_mod", "_fsdp_wrapped_module",
     "_checkpoint_wrapped_module")
)  # fmt: skip
_DERIVED: Final = "rotary_emb.inv_freq"  # computed from the configuration; old versions stored it, too
_EXPERT: Final = re.compile(r"model\.layers\.(0|[1-9]\d*)\.mlp\.experts\.(.+)")
_FUSED: Final = re.compile(r"(gate_up_proj|down_proj)(_bias)?")
_LISTED: Final = re.compile(r"(gate_up|down)_projs\.(0|[1-9]\d*)(?:\.(weight|bias))?")
_APART: Final = re.compile(r"(0|[1-9]\d*)\.(gate_up|gate|up|down)_proj(?:\.(weight|bias))?")


@dataclass(frozen=True)
class ExpertPart:
    """Which part of a layer's experts a name means."""

    layer: int
    projection: Projection
    part: Part
    expert: int | None  # None: every expert
    half: Literal["gate", "up"] | None  # None: the whole projection


def published_name(stored: str) -> str | None:
    """The name in the published layout of a tensor or module, without what wrappers put in; None: it is derived.

    An expert's own tensors keep the names of their tool; `expert_part` reads them.
    """
    if stored.endswith(_DERIVED):
        return None
    words = [word for word in stored.split(".") if word not in _WRAPPERS]
    name = ".".join(words).replace("mlp.router.linear", "mlp.router")
    return name if words[:1] == ["lm_head"] else f"model.{name}"


def by_published_name(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors by their published names.

    Raises:
        CheckpointError: two tensors mean the same.
    """
    found: dict[str, StoredTensor] = {}
    for stored, tensor in tensors.items():
        name = published_name(stored)
        if name is None:
            continue
        if name in found:
            raise CheckpointError(tensor.path, f"{stored} and {found[name].name} both mean {name}", "one of them")
        found[name] = tensor
    return found


def expert_part(name: str) -> ExpertPart | None:
    """What a published name means if it is the name of experts in 16 bits, or of a module that holds them."""
    if (match := _EXPERT.fullmatch(name)) is None:
        return None
    layer, rest = int(match[1]), match[2]
    if fused := _FUSED.fullmatch(rest):
        return ExpertPart(layer, _projection(fused[1]), "bias" if fused[2] else "weight", None, None)
    if listed := _LISTED.fullmatch(rest):
        return ExpertPart(layer, _projection(listed[1]), _part(listed[3]), int(listed[2]), None)
    if apart := _APART.fullmatch(rest):
        half: Literal["gate", "up"] | None = "gate" if apart[2] == "gate" else "up" if apart[2] == "up" else None
        projection = _projection("gate_up" if half else apart[2])
        return ExpertPart(layer, projection, _part(apart[3]), int(apart[1]), half)
    return None


def grouped_experts(tensors: Iterable[tuple[str, StoredTensor]]) -> dict[ExpertPart, StoredTensor]:
    """The experts' tensors that are not in MXFP4, by what they hold; other tensors are left out."""
    parts = ((expert_part(name), tensor) for name, tensor in tensors)
    return {part: tensor for part, tensor in parts if part is not None}


def _projection(word: str) -> Projection:
    return "down_proj" if word.startswith("down") else "gate_up_proj"


def _part(word: str | None) -> Part:
    return "bias" if word == "bias" else "weight"
