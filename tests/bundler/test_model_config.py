"""config.json in every form that Transformers has written for gpt-oss gives the same model; others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import CheckpointError
from bundler.graph.plan import plan_graph
from bundler.model_config import load_model_config, parse_model_config
from bundler.random_checkpoint import random_config
from bundler.rotary import rotary_caches

PUBLISHED = random_config(
    layers=3, hidden=64, intermediate=64, experts=4, experts_per_token=2, heads=4, kv_heads=2, head_dim=16, vocab=300,
    context=512,
)  # fmt: skip

Config = dict[str, Any]


def _rope(**changes: Any) -> Config:
    """`rope_parameters` as Transformers 5 writes it for this model."""
    return {**PUBLISHED["rope_scaling"], "rope_theta": 150000.0, **changes}


def _without(*names: str, **more: Any) -> Config:
    return {**{name: value for name, value in PUBLISHED.items() if name not in names}, **more}


FORMS: dict[str, Config] = {
    "parameters": _without("rope_theta", "rope_scaling", rope_parameters=_rope()),
    "parameters-by-layer": _without(
        "rope_theta", "rope_scaling", rope_parameters={"full_attention": _rope(), "sliding_attention": _rope()}
    ),
    "parameters-by-layer-one-null": _without(
        "rope_theta", "rope_scaling", rope_parameters={"full_attention": _rope(), "sliding_attention": None}
    ),
    "theta-above-layers": _without(
        "rope_theta",
        "rope_scaling",
        rope_parameters={"rope_theta": 150000, "full_attention": PUBLISHED["rope_scaling"]},
    ),
    "theta-in-scaling": _without("rope_theta", rope_scaling=_rope()),
    "theta-twice": {**PUBLISHED, "rope_scaling": _rope()},
    "theta-left-out": _without("rope_theta"),
    "theta-null": {**PUBLISHED, "rope_theta": None},
    "both-forms": {**PUBLISHED, "rope_parameters": _rope()},
    "scaling-null": {**PUBLISHED, "rope_scaling": None, "rope_parameters": _rope()},
    "type": {**PUBLISHED, "rope_scaling": {"type": "yarn", **_rope(rope_type="yarn")}},
    "attention-factor-null": {**PUBLISHED, "rope_scaling": _rope(attention_factor=None, mscale=None)},
    "attention-factor-said": {**PUBLISHED, "rope_scaling": _rope(attention_factor=1.3465735902799727)},
    "partial-rotary-one": {**PUBLISHED, "rope_scaling": _rope(partial_rotary_factor=1.0)},
    "betas-null": {**PUBLISHED, "rope_scaling": _rope(beta_fast=None, beta_slow=None)},
    "dtype": {**PUBLISHED, "dtype": "bfloat16"},
    "torch-dtype": {**PUBLISHED, "torch_dtype": "bfloat16"},
    "no-layer-types": _without("layer_types"),
    "null-layer-types": {**PUBLISHED, "layer_types": None},
    "no-swiglu-limit": _without("swiglu_limit"),
    "swiglu-alpha": {**PUBLISHED, "swiglu_alpha": 1.702},
    "not-converted": {
        **PUBLISHED,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    },
    "dequantize-said": {**PUBLISHED, "quantization_config": {"quant_method": "mxfp4", "dequantize": True}},
    "no-quantization": _without("quantization_config"),
    "empty-quantization": {**PUBLISHED, "quantization_config": {}},
    "null-quantization": {**PUBLISHED, "quantization_config": None},
    "written-by-5.24": _without(  # as save_pretrained of Transformers 5.24 wrote it
        "rope_theta",
        "rope_scaling",
        "quantization_config",
        rope_parameters=_rope(rope_theta=150000),
        dtype="bfloat16",
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.02,
        pad_token_id=None,
        output_router_logits=False,
        router_aux_loss_coef=0.001,
        swiglu_alpha=1.702,
        transformers_version="5.24.0",
        use_cache=True,
    ),
    "unknown-fields": {**PUBLISHED, "unsloth_version": "2026.11.1", "transformers_version": "5.24.0", "rope": 7},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_model(form: str) -> None:
    assert parse_model_config(json.loads(json.dumps(FORMS[form]))) == parse_model_config(PUBLISHED)


def test_the_newer_form_gives_the_same_graph() -> None:
    old, new = parse_model_config(PUBLISHED), parse_model_config(FORMS["parameters"])
    plans = [plan_graph(config, "cpu").graph.SerializeToString(deterministic=True) for config in (old, new)]
    assert plans[0] == plans[1]
    for ours, theirs in zip(rotary_caches(old), rotary_caches(new), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_another_attention_factor_is_taken() -> None:
    plain = parse_model_config(PUBLISHED)
    doubled = parse_model_config({**PUBLISHED, "rope_scaling": _rope(attention_factor=2 * plain.yarn.concentration)})
    assert rotary_caches(doubled)[0][0, 0] == pytest.approx(2 * rotary_caches(plain)[0][0, 0])


REFUSED: dict[str, tuple[Config, str, str]] = {
    "layers-differ": (
        _without("rope_scaling", rope_parameters={"full_attention": _rope(), "sliding_attention": _rope(factor=1.0)}),
        '"rope_parameters" differs between types of layers', "the same rotary settings for every layer",
    ),
    "forms-differ": (
        {**PUBLISHED, "rope_parameters": _rope(factor=16.0)},
        '"rope_parameters" and "rope_scaling" contradict each other', "one of them",
    ),
    "thetas-differ": (
        {**PUBLISHED, "rope_scaling": _rope(rope_theta=10000.0)},
        '"rope_scaling.rope_theta" is 10000 and "rope_theta" is 150000', "one value",
    ),
    "plain-rope": (
        _without("rope_scaling", rope_parameters={"rope_type": "default", "rope_theta": 150000.0}),
        '"rope_parameters.rope_type" is "default"', '"yarn"',
    ),
    "no-factor": (
        _without("rope_scaling", rope_parameters={k: v for k, v in _rope().items() if k != "factor"}),
        '"rope_parameters.factor" is missing', "a number of at least 1",
    ),
    "half-turned": (
        {**PUBLISHED, "rope_scaling": _rope(partial_rotary_factor=0.5)},
        '"rope_scaling.partial_rotary_factor" is 0.5', "1: every dimension of a head turns",
    ),
    "unknown-rope-field": (
        _without("rope_scaling", rope_parameters=_rope(mscale=0.7)),
        '"rope_parameters.mscale" is 0.7', "none but attention_factor, beta_fast",
    ),
    "bnb-4bit": (
        {**PUBLISHED, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "quantised with bitsandbytes (nf4, 4 bits)", "the checkpoint that this one was quantised from",
    ),
    "bnb-8bit": (
        {**PUBLISHED, "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "quantised with bitsandbytes (8 bits)", "the checkpoint that this one was quantised from",
    ),
    "awq": (
        {**PUBLISHED, "quantization_config": {"quant_method": "awq", "bits": 4}},
        "quantised with AWQ", "MXFP4 as published, or 16 bits",
    ),
    "gptq": (
        {**PUBLISHED, "quantization_config": {"quant_method": "gptq", "bits": 4}},
        "quantised with GPTQ", "MXFP4 as published, or 16 bits",
    ),
    "fp8": (
        {**PUBLISHED, "quantization_config": {"quant_method": "fp8"}},
        "quantised with FP8", "MXFP4 as published, or 16 bits",
    ),
    "unknown-quantisation": (
        {**PUBLISHED, "quantization_config": {"quant_method": "wavelets"}},
        "quantised with 'wavelets'", "MXFP4 as published, or 16 bits",
    ),
    "mlx": (
        {**PUBLISHED, "quantization_config": {"group_size": 64, "bits": 4}, "quantization": {"bits": 4}},
        "quantised for MLX (4 bits)", "MXFP4 as published, or 16 bits",
    ),
    "another-vocabulary": (
        {**PUBLISHED, "harmony_vocabulary": "o200k_base"}, '"harmony_vocabulary" is "o200k_base"', '"o200k_harmony"',
    ),
    "original": (
        {"num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4, "swiglu_limit": 7.0, "vocab_size": 201088},
        "OpenAI's own layout", "the directory above it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_another_configuration_is_refused_with_what_to_do(case: str) -> None:
    config, fault, expected = REFUSED[case]
    with pytest.raises(CheckpointError) as refusal:
        parse_model_config(json.loads(json.dumps(config)))
    assert fault in refusal.value.fault
    assert expected in refusal.value.expected


def _link(path: Path) -> None:
    path.symlink_to("../../blobs/0123abcd")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (
            lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"),
            "Git LFS pointer",
        ),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>\n<html>"), "a web page"),
        (_link, "is a link to ../../blobs/0123abcd, which is absent"),
    ],
    ids=["lfs", "html", "dangling"],
)
def test_a_file_in_its_place_is_named(make: Callable[[Path], object], fault: str, tmp_path: Path) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=fault):
        load_model_config(tmp_path / "config.json")
