"""Fixtures of the bundler's tests: what they need installed, and small checkpoints.

ONNX Runtime reads its environment when it is imported and when a session is created, so the tests set what the engine
sets.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.engine.operators import load_operators
from bundler.random_checkpoint import random_config, write_random_checkpoint
from tests.conftest import require

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["ORT_QMOE_CPU_QNBIT_GEMM"] = "fp32"  # test_graph.py runs the CUDA graph with CPU experts


@pytest.fixture(scope="module")
def exact_operators() -> Iterator[None]:
    """Tests of the graph use the operators' path that rounds nothing."""
    load_operators().use_path("portable")
    yield
    load_operators().use_path(load_operators().paths()[0])


@pytest.fixture(scope="session")
def parity_extra() -> None:
    """The packages of the extra `parity`."""
    for module in ("torch", "transformers", "optimum.exporters.onnx", "peft"):
        root = module.split(".")[0]
        present = importlib.util.find_spec(root) is not None and importlib.util.find_spec(module) is not None
        require(present, f"the Python module {module} (extra `parity`)")


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in one file: 3 layers, 4 experts, vocabulary 300. Tests must not write to it."""
    directory = tmp_path_factory.mktemp("small") / "checkpoint"
    config = random_config(
        layers=3, hidden=64, intermediate=128, experts=4, experts_per_token=2,
        heads=4, kv_heads=2, head_dim=16, vocab=300, sliding_window=8, context=512,
    )  # fmt: skip
    write_random_checkpoint(directory, config, seed=1)
    return directory
