"""A LoRA adapter as PEFT writes it: adapter_config.json and adapter_model.safetensors. Merging adds

    scaling * B @ A        scaling = alpha / rank, or alpha / sqrt(rank) with rank-stabilised LoRA

to each matrix that the adapter names. What cannot be merged exactly so is refused by name: other methods than LoRA,
DoRA, biases, modules that were trained whole, embeddings, and initialisations that change the base model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Final, TypeVar

import numpy as np

from bundler.checkpoints.experts import Changes
from bundler.checkpoints.files import StoredTensor, header
from bundler.checkpoints.lowrank import Float32Array, LowRank
from bundler.checkpoints.names import Projection
from bundler.checkpoints.recognise import given_name, refuse_by_content
from bundler.checkpoints.targets import ExpertFactors, Factors, find_targets
from bundler.errors import CheckpointError
from bundler.model_config import ModelConfig
from installer.formats.checks import FaultError, Must, check

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_NAME_CHARS: Final = 100
_MERGE: Final = (
    "a LoRA adapter that adds to weights only: merge this one with PEFT (merge_and_unload), and give the result"
)

T = TypeVar("T")
_Number = Annotated[float, Must("must be a number greater than 0", gt=0)]
_Count = Annotated[int, Must("must be a whole number of at least 1", ge=1)]


@dataclass(frozen=True)
class AdapterConfig:
    """The fields of adapter_config.json that merging depends on."""

    r: _Count
    lora_alpha: _Number
    use_rslora: bool = False
    rank_pattern: Mapping[str, _Count] | None = None
    alpha_pattern: Mapping[str, _Number] | None = None
    peft_version: str | None = None

    def rank(self, key: str) -> int:
        return _by_pattern(self.rank_pattern or {}, key, self.r)

    def scaling(self, key: str) -> float:
        """What the product of the factors of this module or parameter is multiplied by."""
        alpha, rank = _by_pattern(self.alpha_pattern or {}, key, self.lora_alpha), self.rank(key)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


@dataclass(frozen=True)
class Adapter:
    """An adapter whose every tensor changes a matrix of the model."""

    directory: Path
    name: str  # of the directory, printable
    _matrices: Mapping[str, Factors]  # by the matrix's published name
    _experts: Mapping[tuple[int, Projection], Sequence[ExpertFactors]]

    def matrix(self, name: str) -> Callable[[], LowRank] | None:
        """Reads what is added to a matrix outside the experts; None: nothing is."""
        factors = self._matrices.get(name)
        return None if factors is None else partial(_of_matrix, factors)

    def experts(self, layer: int, projection: Projection) -> Changes | None:
        """Reads what is added to the matrices of each expert; None: nothing is added to any of them."""
        found = self._experts.get((layer, projection))
        return None if found is None else partial(_of_experts, found)


def open_adapter(directory: Path, config: ModelConfig) -> Adapter:
    """Read an adapter's configuration and headers, and find the matrix that each tensor changes.

    Raises:
        CheckpointError: it is no LoRA adapter, not one of this model, or it cannot be merged.
    """
    path, weights = directory / ADAPTER_CONFIG, directory / ADAPTER_WEIGHTS
    if not directory.is_dir():
        refuse_by_content(directory)
        fault = "is a file" if directory.exists() else "does not exist"
        raise CheckpointError(directory, fault, "the directory that PEFT's save_pretrained wrote")
    if not path.is_file():
        refuse_by_content(path)
        whole = (directory / "config.json").is_file()
        fault = "is a whole checkpoint and no adapter" if whole else f"holds no {ADAPTER_CONFIG}"
        raise CheckpointError(directory, fault, "the directory that PEFT's save_pretrained wrote")
    if not weights.exists() and (pickle := directory / "adapter_model.bin").exists():
        fault = "is a Python pickle, which is never opened: it can run code"
        raise CheckpointError(pickle, fault, f"{ADAPTER_WEIGHTS}: save the adapter with safe_serialization=True")
    adapter_config, tensors = _parse_config(path), header(weights)
    try:
        matrices, experts = find_targets(tensors, adapter_config, config, weights)
    except re.error as exc:
        raise CheckpointError(path, f"a pattern in it is none ({exc})", "regular expressions") from exc
    return Adapter(directory, _shown(given_name(directory)), matrices, experts)


def _shown(name: str) -> str:
    """A directory's name, which will stand on pages and terminals: without control characters and broken Unicode."""
    return "".join(character if character.isprintable() else "?" for character in name)[:_NAME_CHARS]


def _parse_config(path: Path) -> AdapterConfig:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        refuse_by_content(path)
        raise CheckpointError(path, f"not readable as JSON ({exc})", "a configuration of PEFT") from exc
    if not isinstance(body, dict):
        raise CheckpointError(path, "not a JSON object", "a configuration of PEFT")
    if body.get("peft_type") != "LORA":
        raise CheckpointError(path, f'"peft_type" is {json.dumps(body.get("peft_type")):.40}', _MERGE)
    for name, value in body.items():
        if value and name not in _HARMLESS and not (name in _MERGED_IF and value in _MERGED_IF[name]):
            raise CheckpointError(path, f'"{name}" is {json.dumps(value):.60}: {_WHY.get(name, _UNKNOWN)}', _MERGE)
    try:
        return check(AdapterConfig, body)
    except FaultError as fault:
        raise CheckpointError(path, f'"{fault.where}" {fault.said}', "a configuration of PEFT") from fault


def _by_pattern(patterns: Mapping[str, T], key: str, default: T) -> T:
    """The value of the first pattern that the end of the key matches, as PEFT decides."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            return value
    return default


def _float32(tensor: StoredTensor) -> Float32Array:
    values: Float32Array = tensor.read().astype(np.float32)
    return values


def _scaled(tensor: StoredTensor, scaling: float) -> Float32Array:
    return _float32(tensor) * np.float32(scaling)


def _of_matrix(factors: Factors) -> LowRank:
    return LowRank(_scaled(factors.b, factors.scaling), _float32(factors.a))


def _of_experts(found: Sequence[ExpertFactors]) -> Callable[[int], Sequence[LowRank]]:
    """Read the factors once, and give each expert's from them."""
    whole = [(factors, _float32(factors.a), _scaled(factors.b, factors.scaling)) for factors in found]
    return lambda expert: [change for each in whole if (change := _of_expert(*each, expert))]


def _of_expert(factors: ExpertFactors, a: Float32Array, b: Float32Array, expert: int) -> LowRank | None:
    """One expert's change. PEFT orders A's rows by expert and then rank, and B's columns by rank and then expert."""
    if factors.expert is not None:
        return LowRank(b, a, factors.half) if factors.expert == expert else None
    rank = len(a) // factors.count
    mine, outer = a[expert * rank : (expert + 1) * rank], b[:, expert :: factors.count]
    return LowRank(mine.T, outer.T) if factors.is_swapped else LowRank(outer, mine)


_HARMLESS: Final = {field.name for field in fields(AdapterConfig)} | {
    "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout",
    "target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern", "megatron_core",
    "megatron_config", "qalora_group_size", "eva_config", "ensure_weight_tying",
}  # fmt: skip
_MERGED_IF: Final[Mapping[str, tuple[object, ...]]] = {
    "bias": ("none",), "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),
}  # fmt: skip
_UNKNOWN: Final = "this version does not know what it means"
_WHY: Final[Mapping[str, str]] = {
    "use_dora": "DoRA scales whole columns of the weights",
    "bias": "biases were trained, too",
    "lora_bias": "the factors have biases",
    "modules_to_save": "these modules were trained whole",
    "init_lora_weights": "this initialisation changed the base model",
    "fan_in_fan_out": "it is for matrices that are stored the other way round",
    "trainable_token_indices": "rows of the embedding were trained",
    "layer_replication": "it repeats layers",
    "use_qalora": "QALoRA groups the inputs",
    "alora_invocation_tokens": "it is in force after certain tokens only",
    "arrow_config": "it chooses among several adapters while it runs",
}
