"""A gpt-oss checkpoint's config.json as a checked record: every size comes from here, none is assumed.

Fields are those of the Hugging Face ``gpt_oss`` model type, as Transformers 4 and 5 write them. A field the graph
depends on must be present and must say something the graph can do; fields it does not depend on are left alone. A field
that a version of Transformers leaves out has the value that it computes with: layers take turns, ``swiglu_limit`` is 7.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from bundler.checkpoints.recognise import refuse_by_config, refuse_by_content
from bundler.errors import CheckpointError
from bundler.rope_config import LAYER_TYPES, Positive, RopeFields, chosen_theta, rope_section
from installer.formats.checks import FaultError, Must, check, words_of

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
    concentration: float  # multiplies cosines and sines


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
    states_vocabulary: bool  # its writer says that the model, which has no tokenizer, uses gpt-oss's


_Count = Annotated[int, Must("must be a whole number of at least 1", ge=1)]
HARMONY_VOCABULARY: Final = {"harmony_vocabulary": "o200k_harmony"}  # a field of ours; bundler/tokenizer.py asks for it
_ROPE: Final = "rope"
_OPTIONAL: Final = ("layer_types", "swiglu_limit", "swiglu_alpha", "attention_bias", "tie_word_embeddings")
_SHOWN_CHARS: Final = 80  # of a wrong value


@dataclass(frozen=True)
class _Published:
    """config.json as published, as far as the graph depends on it. Defaults are those of the published model type."""

    model_type: Annotated[Literal["gpt_oss"], Must('must be "gpt_oss"')]
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
    sliding_window: _Count
    rms_norm_eps: Positive
    rope: RopeFields  # from either field that may hold it
    rope_theta: Positive | None = None
    layer_types: Any = None
    swiglu_limit: Positive = 7.0
    swiglu_alpha: Annotated[float, Must("must be 1.702", ge=1.702, le=1.702)] = 1.702
    hidden_act: Annotated[Literal["silu"], Must('must be "silu"')] = "silu"
    attention_bias: Annotated[Literal[True], Must("must be true")] = True
    tie_word_embeddings: Annotated[Literal[False], Must("must be false")] = False
    harmony_vocabulary: Annotated[Literal["o200k_harmony"] | None, Must('must be "o200k_harmony"')] = None


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
        refuse_by_content(path)
        raise CheckpointError(path, exc.strerror or str(exc), expected) from exc
    except (ValueError, RecursionError) as exc:
        refuse_by_content(path)
        raise CheckpointError(path, f"not valid JSON ({exc})", expected) from exc
    if not isinstance(body, dict):
        raise CheckpointError(path, "not a JSON object", expected)
    return parse_model_config(body, path), text


def parse_model_config(body: Mapping[str, Any], path: Path = Path("config.json")) -> ModelConfig:
    """The record of a configuration.

    Args:
        path: where it was read, for messages only.
    Raises:
        CheckpointError: a field is missing or of the wrong kind, the architecture is not gpt-oss's, or the weights are
            quantised otherwise than in MXFP4.
    """
    refuse_by_config(body, path)
    section, rope = rope_section(body, path)
    given = {
        name: value for name, value in body.items() if not (name == _ROPE or (name in _OPTIONAL and value is None))
    }
    try:
        published = check(_Published, given if rope is None else {**given, _ROPE: rope})
    except FaultError as fault:
        raise _refusal(fault, path, section) from fault
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
        rope_theta=chosen_theta(published.rope.rope_theta, published.rope_theta, section, path),
        yarn=Yarn(
            factor=published.rope.factor,
            original_context=published.rope.original_max_position_embeddings,
            beta_fast=published.rope.beta_fast,
            beta_slow=published.rope.beta_slow,
            truncate=published.rope.truncate,
            concentration=published.rope.concentration,
        ),
        states_vocabulary=published.harmony_vocabulary is not None,
    )
    _require_consistent(config, path, section)
    return config


def _refusal(fault: FaultError, path: Path, section: str) -> CheckpointError:
    *above, name = map(str, fault.at)
    where = ".".join([section if part == _ROPE else part for part in map(str, fault.at)])
    record: type = RopeFields if above else _Published
    if fault.kind == "missing":
        expected = words_of(record, name) or "an object"
        return CheckpointError(path, f'"{where}" is missing', expected.removeprefix("must be "))
    if fault.kind == "unknown":
        expected = f"none but {', '.join(sorted(field.name for field in fields(record)))}"
    else:
        expected = fault.said.removeprefix("must be ")
    return CheckpointError(path, _is(where, fault.value), expected)


def _layer_types(published: _Published, path: Path) -> tuple[LayerType, ...]:
    layers, found = published.num_hidden_layers, published.layer_types
    if found is None:
        return tuple("full_attention" if layer % 2 else "sliding_attention" for layer in range(layers))
    if not isinstance(found, list) or len(found) != layers or any(kind not in LAYER_TYPES for kind in found):
        expected = f'{layers} times "sliding_attention" or "full_attention"'
        raise CheckpointError(path, _is("layer_types", found), expected)
    return tuple(found)


def _is(name: str, value: object) -> str:
    return f'"{name}" is {json.dumps(value)[:_SHOWN_CHARS]}'


def _require_consistent(config: ModelConfig, path: Path, section: str) -> None:
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
         f"at most {section}.factor times {section}.original_max_position_embeddings"),
    )  # fmt: skip
    for holds, name, value, expected in rules:
        if not holds:
            raise CheckpointError(path, f'"{name}" is {value}', expected)
