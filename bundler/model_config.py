"""A gpt-oss checkpoint's config.json as a checked record: every size comes from here, none is assumed.

Fields are those of the Hugging Face ``gpt_oss`` model type. A field the graph depends on must be present and must say
something the graph can do; fields it does not depend on are left alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from bundler.errors import CheckpointError

MXFP4_BLOCK = 32  # weights that share one scale (OCP Microscaling Formats v1.0)

LayerType = Literal["sliding_attention", "full_attention"]
_ROPE_FIELDS = {
    "rope_type", "type", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate",
}  # fmt: skip


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
    except ValueError as exc:
        raise CheckpointError(path, f"not valid JSON ({exc})", expected) from exc
    if not isinstance(body, dict):
        raise CheckpointError(path, "not a JSON object", expected)
    return parse_model_config(body, path), text


def parse_model_config(body: dict[str, Any], path: Path = Path("config.json")) -> ModelConfig:
    """The record of a configuration.

    Args:
        path: where it was read, for messages only.
    Raises:
        CheckpointError: a field is missing or of the wrong kind, or the architecture is not gpt-oss's.
    """
    fields = _Fields(body, path, "")
    _require_gpt_oss(fields)
    config = ModelConfig(
        layers=fields.count("num_hidden_layers"),
        hidden=fields.count("hidden_size"),
        intermediate=fields.count("intermediate_size"),
        experts=fields.count("num_local_experts"),
        experts_per_token=fields.count("num_experts_per_tok"),
        heads=fields.count("num_attention_heads"),
        kv_heads=fields.count("num_key_value_heads"),
        head_dim=fields.count("head_dim"),
        vocab=fields.count("vocab_size"),
        context=fields.count("max_position_embeddings"),
        layer_types=_layer_types(fields),
        sliding_window=fields.count("sliding_window"),
        swiglu_limit=fields.number("swiglu_limit"),
        rms_norm_eps=fields.number("rms_norm_eps"),
        rope_theta=fields.number("rope_theta"),
        yarn=_yarn(fields.section("rope_scaling")),
    )
    _require_consistent(config, path)
    return config


class _Fields:
    """Typed access to a JSON object; a wrong field is named with its value."""

    def __init__(self, body: dict[str, Any], path: Path, prefix: str) -> None:
        self.body = body
        self.path = path
        self.prefix = prefix

    def refuse(self, name: str, expected: str) -> CheckpointError:
        found = f"is {json.dumps(self.body[name])[:80]}" if name in self.body else "is missing"
        return CheckpointError(self.path, f'"{self.prefix}{name}" {found}', expected)

    def count(self, name: str) -> int:
        value = self.body.get(name)
        if type(value) is not int or value < 1:
            raise self.refuse(name, "a whole number of at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.body.get(name, default)
        if type(value) not in (int, float) or not 0 < cast(float, value) < float("inf"):
            raise self.refuse(name, "a number greater than 0")
        return float(cast(float, value))

    def fixed(self, name: str, wanted: object, *, default: object = None) -> None:
        if self.body.get(name, default) != wanted:
            raise self.refuse(name, json.dumps(wanted))

    def section(self, name: str) -> _Fields:
        value = self.body.get(name)
        if not isinstance(value, dict):
            raise self.refuse(name, "a JSON object")
        return _Fields(value, self.path, f"{self.prefix}{name}.")


def _require_gpt_oss(fields: _Fields) -> None:
    """Refuse what the graph does not compute. Defaults are those of the published model type."""
    fields.fixed("model_type", "gpt_oss")
    fields.fixed("hidden_act", "silu", default="silu")
    fields.fixed("attention_bias", True, default=True)
    fields.fixed("tie_word_embeddings", False, default=False)
    fields.section("quantization_config").fixed("quant_method", "mxfp4")


def _layer_types(fields: _Fields) -> tuple[LayerType, ...]:
    layers = fields.count("num_hidden_layers")
    value = fields.body.get("layer_types")
    known = ("sliding_attention", "full_attention")
    if not isinstance(value, list) or len(value) != layers or any(item not in known for item in value):
        raise fields.refuse("layer_types", f'{layers} times "sliding_attention" or "full_attention"')
    return tuple(value)


def _yarn(fields: _Fields) -> Yarn:
    kind = "type" if "type" in fields.body and "rope_type" not in fields.body else "rope_type"
    fields.fixed(kind, "yarn")
    unknown = sorted(set(fields.body) - _ROPE_FIELDS)
    if unknown:
        raise fields.refuse(unknown[0], f"none but {', '.join(sorted(_ROPE_FIELDS))}")
    truncate = fields.body.get("truncate", True)
    if not isinstance(truncate, bool):
        raise fields.refuse("truncate", "true or false")
    factor = fields.number("factor")
    if factor < 1:
        raise fields.refuse("factor", "a number of at least 1")
    return Yarn(
        factor=factor,
        original_context=fields.count("original_max_position_embeddings"),
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        truncate=truncate,
    )


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
