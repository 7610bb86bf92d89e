"""A gpt-oss checkpoint's config.json as a checked record: every size comes from here, none is assumed.

Fields are those of the Hugging Face ``gpt_oss`` model type. A field the graph depends on must be present and must say
something the graph can do; fields it does not depend on are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from bundler.errors import CheckpointError
from installer.formats.checks import FaultError, Must, check, closed, words_of

MXFP4_BLOCK = 32  # weights that share one scale (OCP Microscaling Formats v1.0)

LayerType = Literal["sliding_attention", "full_attention"]


@dataclass(frozen=True)
class Yarn:
    """Rotary scaling of arXiv:2309.00071; positions beyond ``original_context`` are interpolated by ``factor``."""

    factor: float
    original_context: int
    beta_fast: float
    beta_slow: float
    truncate: bool  # round the ramp's ends to whole dimensions


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one gpt-oss model."""

    layers: int
    hidden: int
    intermediate: int
    experts: int
    experts_per_token: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    layer_types: tuple[LayerType, ...]
    sliding_window: int  # positions a sliding layer attends to, the current one included
    swiglu_limit: float
    rms_norm_eps: float
    rope_theta: float
    yarn: Yarn


_Count = Annotated[int, Must("must be a whole number of at least 1", ge=1)]
_Positive = Annotated[float, Must("must be a number greater than 0", gt=0)]
_SHOWN_CHARS: Final = 80  # of a wrong value


@closed
@dataclass(frozen=True, kw_only=True)
class _Scaling:
    """`rope_scaling` as published."""

    rope_type: Annotated[Literal["yarn"], Must('must be "yarn"')]
    type: Any = None  # an older name of rope_type
    factor: Annotated[float, Must("must be a number of at least 1", ge=1)]
    original_max_position_embeddings: _Count
    beta_fast: _Positive = 32.0
    beta_slow: _Positive = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class _Quantization:
    """`quantization_config` as published."""

    quant_method: Annotated[Literal["mxfp4"], Must('must be "mxfp4"')]


@dataclass(frozen=True)
class _Published:
    """config.json as published, as far as the graph depends on it. Defaults are those of the published model type."""

    model_type: Annotated[Literal["gpt_oss"], Must('must be "gpt_oss"')]
    quantization_config: _Quantization
    num_hidden_layers: _Count
    hidden_size: _Count
    intermediate_size: _Count
    num_local_experts: _Count
    num_experts_per_tok: _Count
    num_attention_heads: _Count
    num_key_value_heads: _Count
    head_dim: _Count
    vocab_size: _Count
    max_position_embeddings: _Count
    layer_types: Any
    sliding_window: _Count
    swiglu_limit: _Positive
    rms_norm_eps: _Positive
    rope_theta: _Positive
    rope_scaling: _Scaling
    hidden_act: Annotated[Literal["silu"], Must('must be "silu"')] = "silu"
    attention_bias: Annotated[Literal[True], Must("must be true")] = True
    tie_word_embeddings: Annotated[Literal[False], Must("must be false")] = False


def load_model_config(path: Path) -> tuple[ModelConfig, bytes]:
    """The record of a config.json and the file's bytes.

    Raises:
        CheckpointError: unreadable, not JSON, or refused by `parse_model_config`.
    """
    expected = "the model's configuration"
    try:
        text = path.read_bytes()
        body = json.loads(text)
    except OSError as exc:
        raise CheckpointError(path, exc.strerror or str(exc), expected) from exc
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(path, f"not valid JSON ({exc})", expected) from exc
    if not isinstance(body, dict):
        raise CheckpointError(path, "not a JSON object", expected)
    return parse_model_config(body, path), text


def parse_model_config(body: Mapping[str, Any], path: Path = Path("config.json")) -> ModelConfig:
    """The record of a configuration.

    Args:
        path: where it was read, for messages only.
    Raises:
        CheckpointError: a field is missing or of the wrong kind, or the architecture is not gpt-oss's.
    """
    try:
        published = check(_Published, _with_rope_type(body))
    except FaultError as fault:
        raise _refusal(fault, path) from fault
    config = ModelConfig(
        layers=published.num_hidden_layers,
        hidden=published.hidden_size,
        intermediate=published.intermediate_size,
        experts=published.num_local_experts,
        experts_per_token=published.num_experts_per_tok,
        heads=published.num_attention_heads,
        kv_heads=published.num_key_value_heads,
        head_dim=published.head_dim,
        vocab=published.vocab_size,
        context=published.max_position_embeddings,
        layer_types=_layer_types(published, path),
        sliding_window=published.sliding_window,
        swiglu_limit=published.swiglu_limit,
        rms_norm_eps=published.rms_norm_eps,
        rope_theta=published.rope_theta,
        yarn=Yarn(
            factor=published.rope_scaling.factor,
            original_context=published.rope_scaling.original_max_position_embeddings,
            beta_fast=published.rope_scaling.beta_fast,
            beta_slow=published.rope_scaling.beta_slow,
            truncate=published.rope_scaling.truncate,
        ),
    )
    _require_consistent(config, path)
    return config


def _with_rope_type(body: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with `rope_type` where it has the older `type` alone."""
    scaling = body.get("rope_scaling")
    if isinstance(scaling, dict) and "type" in scaling:
        scaling = {"rope_type": scaling["type"], **scaling}
    return dict(body) if scaling is None else {**body, "rope_scaling": scaling}


def _refusal(fault: FaultError, path: Path) -> CheckpointError:
    *section, name = map(str, fault.at)
    record: type = {"rope_scaling": _Scaling, "quantization_config": _Quantization}.get("".join(section), _Published)
    if fault.kind == "missing":
        expected = words_of(record, name) or "an object"
        return CheckpointError(path, f'"{fault.where}" is missing', expected.removeprefix("must be "))
    if fault.kind == "unknown":
        expected = f"none but {', '.join(sorted(field.name for field in fields(record)))}"
    else:
        expected = fault.said.removeprefix("must be ")
    return CheckpointError(path, _is(fault.where, fault.value), expected)


def _layer_types(published: _Published, path: Path) -> tuple[LayerType, ...]:
    layers, found = published.num_hidden_layers, published.layer_types
    if not isinstance(found, list) or len(found) != layers or any(kind not in get_args(LayerType) for kind in found):
        expected = f'{layers} times "sliding_attention" or "full_attention"'
        raise CheckpointError(path, _is("layer_types", found), expected)
    return tuple(found)


def _is(name: str, value: object) -> str:
    return f'"{name}" is {json.dumps(value)[:_SHOWN_CHARS]}'


def _require_consistent(config: ModelConfig, path: Path) -> None:
    rules = (
        (config.heads % config.kv_heads == 0, "num_attention_heads", config.heads,
         f"a multiple of num_key_value_heads ({config.kv_heads})"),
        (config.head_dim % 8 == 0, "head_dim", config.head_dim, "a multiple of 8"),
        (config.hidden % MXFP4_BLOCK == 0, "hidden_size", config.hidden, f"a multiple of {MXFP4_BLOCK}"),
        (config.intermediate % MXFP4_BLOCK == 0, "intermediate_size", config.intermediate,
         f"a multiple of {MXFP4_BLOCK}"),
        (config.experts_per_token <= config.experts, "num_experts_per_tok", config.experts_per_token,
         f"at most num_local_experts ({config.experts})"),
        (config.context <= config.yarn.factor * config.yarn.original_context, "max_position_embeddings", config.context,
         "at most rope_scaling.factor times rope_scaling.original_max_position_embeddings"),
    )  # fmt: skip
    for holds, name, value, expected in rules:
        if not holds:
            raise CheckpointError(path, f'"{name}" is {value}', expected)
