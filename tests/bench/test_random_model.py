"""How many experts the tokens of a random model choose."""

from __future__ import annotations

import pytest

from bench.random_model import SHAPES, experts_drawn
from bundler.random_checkpoint import random_config, random_tensors


def test_a_single_token_chooses_as_many_experts_as_the_model_says() -> None:
    assert experts_drawn(32, 4, 1) == 4


def test_tokens_prefer_the_same_experts() -> None:
    independent = 32 * (1 - (1 - 4 / 32) ** 8)
    assert experts_drawn(32, 4, 4) < experts_drawn(32, 4, 8) < 0.7 * independent


def test_biases_of_a_random_checkpoint_vary_as_much_as_what_a_router_adds_to_them() -> None:
    """`experts_drawn` and the model that bench/llama.py writes for peers depend on it."""
    shape = {**SHAPES["tiny"], "hidden": 512, "experts": 128, "layers": 1}
    tensors = {name: tensor for name, tensor in random_tensors(random_config(**shape), seed=1) if "router" in name}
    (weight,) = (tensor for name, tensor in tensors.items() if name.endswith("weight"))
    (bias,) = (tensor for name, tensor in tensors.items() if name.endswith("bias"))
    assert weight.astype(float).std() * 512**0.5 == pytest.approx(1, abs=0.05)
    assert bias.astype(float).std() == pytest.approx(1, abs=0.25)
