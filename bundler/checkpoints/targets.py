"""Which matrix each tensor of a LoRA adapter changes.

PEFT names a factor after the module that it changes. Experts of Transformers are parameters of one module, which the
names of factors do not tell apart; their shapes do. PEFT 0.19 and later may take a parameter's last two dimensions the
other way round than Transformers multiplies them ("swapped"). Shapes show that, too, but for square matrices: then
the layer's other projection decides, or the version that saved the adapter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from bundler.checkpoints.files import FLOATS, StoredTensor
from bundler.checkpoints.names import PROJECTIONS, Projection, expert_part, published_name
from bundler.errors import CheckpointError
from bundler.layout import expected_tensors
from bundler.model_config import ModelConfig

_FACTOR: Final = re.compile(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight")
_OTHERS: Final = (
    ("lora_magnitude_vector", "DoRA scales whole columns of the weights"),
    ("lora_embedding_", "it changes the embedding"),
    (".base_layer.weight", "a copy of a whole matrix of the base, which may have been trained"),
    (".bias", "biases were trained, too"),
    ("modules_to_save", "a module was trained whole"),
)
_MERGE: Final = "factors lora_A and lora_B of matrices: merge this adapter with PEFT, and give the result"
_SWAPPING_SINCE: Final = (0, 19)  # the version of PEFT that may swap


class Rules(Protocol):
    """What the adapter's configuration says."""

    @property
    def peft_version(self) -> str | None: ...
    def rank(self, key: str) -> int: ...
    def scaling(self, key: str) -> float: ...


@dataclass(frozen=True)
class Factors:
    """The factors of one matrix."""

    a: StoredTensor
    b: StoredTensor
    scaling: float


@dataclass(frozen=True)
class ExpertFactors(Factors):
    """The factors of one expert's matrix, or of those of every expert."""

    count: int  # experts that the factors hold
    expert: int | None = None  # None: all of them
    half: Literal["gate", "up"] | None = None
    is_swapped: bool = False


Targets = tuple[dict[str, Factors], dict[tuple[int, Projection], list[ExpertFactors]]]


def find_targets(tensors: Mapping[str, StoredTensor], rules: Rules, config: ModelConfig, path: Path) -> Targets:
    """The factors by matrix, outside the experts and of the experts.

    Raises:
        CheckpointError: a tensor changes no matrix of this model, or has another shape.
    """
    if not tensors:
        raise CheckpointError(path, "holds no tensor", _MERGE)
    search = _Search(rules, config, path)
    for module, (a, b) in _pairs(tensors, path).items():
        search.place(module, a, b)
    return search.matrices, search.experts()


def _pairs(tensors: Mapping[str, StoredTensor], path: Path) -> dict[str, tuple[StoredTensor, StoredTensor]]:
    """Module -> its A and B."""
    found: dict[str, dict[str, StoredTensor]] = {}
    adapters: set[str | None] = set()
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            why = next((f": {why}" for part, why in _OTHERS if part in name), "")
            raise CheckpointError(path, f"{name} cannot be merged{why}", _MERGE)
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2 or 0 in tensor.shape:
            raise CheckpointError(path, f"{name} is {tensor}", "a matrix of floats")
        adapters.add(match[3])
        found.setdefault(match[1], {})[match[2]] = tensor
    if len(adapters) > 1:
        raise CheckpointError(path, f"holds several adapters ({', '.join(sorted(map(str, adapters)))})", "one adapter")
    for module, pair in found.items():
        if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise CheckpointError(path, f"{module} has no matching pair of factors", "lora_A [r, in], lora_B [out, r]")
    return {module: (pair["A"], pair["B"]) for module, pair in found.items()}


class _Search:
    """The model's matrices, and the factors found for them so far."""

    def __init__(self, rules: Rules, config: ModelConfig, path: Path) -> None:
        self.rules, self.config, self.path = rules, config, path
        self.specs = expected_tensors(config)
        self.matrices: dict[str, Factors] = {}
        self._experts: dict[tuple[int, Projection], list[ExpertFactors]] = {}
        self._fused: dict[tuple[int, Projection], tuple[str, StoredTensor, StoredTensor]] = {}

    def place(self, module: str, a: StoredTensor, b: StoredTensor) -> None:
        """Find the matrix of one module's factors."""
        inner = re.sub(r"\.base_layer(?=\.|$)", "", module)  # PEFT wraps a module once for each of its parameters
        name = published_name(inner) or inner
        key = inner.removeprefix("base_model.model.")  # what PEFT's patterns are matched with
        spec = self.specs.get(f"{name}.weight")
        part = expert_part(name)
        if part is not None and part.expert is not None and part.part == "weight":
            self._place_one(part.layer, part.projection, part.expert, part.half, key, a, b)
        elif part is not None or re.fullmatch(r"model\.layers\.\d+\.mlp\.experts", name):
            self._place_fused(name, key, a, b)
        elif spec is not None and len(spec.shape) == 2 and name != "model.embed_tokens":
            self._require(module, (a.shape[1], b.shape[0]), (spec.shape[1], spec.shape[0]))
            self.matrices[f"{name}.weight"] = self._factors(key, a, b)
        else:
            raise CheckpointError(self.path, f"{module} is not a matrix of this model", "matrices of the base model")

    def experts(self) -> dict[tuple[int, Projection], list[ExpertFactors]]:
        """The experts' factors, when every module is placed."""
        shapes = {at: self._orientations(at[1], a, b) for at, (_, a, b) in self._fused.items()}
        told = {next(iter(found)) for found in shapes.values() if len(found) == 1}
        for (layer, projection), (key, a, b) in self._fused.items():
            possible = shapes[layer, projection]
            swapped = next(iter(possible)) if len(possible) == 1 else self._told(told, projection)
            factors = self._factors(key, a, b, count=self.config.experts)
            group = ExpertFactors(factors.a, factors.b, factors.scaling, self.config.experts, is_swapped=swapped)
            self._experts.setdefault((layer, projection), []).append(group)
        return self._experts

    def _place_one(
        self, layer: int, projection: Projection, expert: int, half: Literal["gate", "up"] | None, key: str,
        a: StoredTensor, b: StoredTensor,
    ) -> None:  # fmt: skip
        depth, rows = self._sizes(projection)
        if layer >= self.config.layers or expert >= self.config.experts:
            raise CheckpointError(self.path, f"{key} is not a matrix of this model", "matrices of the base model")
        self._require(key, (a.shape[1], b.shape[0]), (depth, rows // 2 if half else rows))
        factors = self._factors(key, a, b)
        one = ExpertFactors(factors.a, factors.b, factors.scaling, 1, expert, half)
        self._experts.setdefault((layer, projection), []).append(one)

    def _place_fused(self, name: str, key: str, a: StoredTensor, b: StoredTensor) -> None:
        """Factors of every expert of a layer: the shapes tell which projection they change."""
        layer = int(name.split(".")[2])
        fitting = [projection for projection in PROJECTIONS if self._orientations(projection, a, b)]
        if not fitting or layer >= self.config.layers or a.shape[0] % self.config.experts:
            raise CheckpointError(self.path, f"{key} has factors {a} and {b}", "those of the experts of this model")
        (projection,) = fitting
        if (layer, projection) in self._fused:
            raise CheckpointError(self.path, f"{key} has factors for {projection} twice", "one pair of them")
        parameter = key if key.endswith(projection) else f"{key}.{projection}"
        self._fused[layer, projection] = (parameter, a, b)

    def _orientations(self, projection: Projection, a: StoredTensor, b: StoredTensor) -> set[bool]:
        """Which values of `is_swapped` the shapes allow."""
        depth, rows = self._sizes(projection)
        sizes = (a.shape[1], b.shape[0])
        return {swapped for swapped, wanted in ((False, (depth, rows)), (True, (rows, depth))) if sizes == wanted}

    def _told(self, told: set[bool], projection: Projection) -> bool:
        """Whether a square matrix is swapped: as the others of the adapter, or as its version of PEFT does."""
        if len(told) == 1:
            return next(iter(told))
        version = self.rules.peft_version
        if not told and (version is None or _version(version) < _SWAPPING_SINCE):
            return False
        fault = f"does not tell which way round the factors of the square matrices {projection} are (PEFT {version})"
        raise CheckpointError(self.path, fault, "an adapter that changes gate_up_proj, too, or the merged checkpoint")

    def _factors(self, key: str, a: StoredTensor, b: StoredTensor, *, count: int = 1) -> Factors:
        rank, said = a.shape[0] // count, self.rules.rank(key)
        if rank != said:
            raise CheckpointError(self.path, f"{key} has rank {rank}, adapter_config.json says {said}", "one rank")
        return Factors(a, b, self.rules.scaling(key))

    def _sizes(self, projection: Projection) -> tuple[int, int]:
        """Depth and rows."""
        hidden, inner = self.config.hidden, self.config.intermediate
        return (hidden, 2 * inner) if projection == "gate_up_proj" else (inner, hidden)

    def _require(self, name: str, found: tuple[int, int], wanted: tuple[int, int]) -> None:
        if found != wanted:
            fault = f"{name} maps {found[0]} numbers to {found[1]}"
            raise CheckpointError(self.path, fault, f"{wanted[0]} to {wanted[1]}: an adapter of this base model")


def _version(text: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else _SWAPPING_SINCE
