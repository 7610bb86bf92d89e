"""Real, tiny models for the engine's tests, and the vocabulary file."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from appliance.config import CacheItem, Config
from appliance.engine.harmony import ORDINARY_TOKENS, Vocabulary, load_vocabulary
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.operators import load_operators
from appliance.installed_release import InstalledRelease, load_release
from bundler.checkpoint import open_checkpoint
from bundler.export import export_graph
from bundler.random_checkpoint import random_config, write_random_checkpoint

# Other tests of this run may import onnxruntime first, and it reads its environment then.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="module", autouse=True)
def exact_operators() -> Iterator[None]:
    """The operators' path that rounds nothing: what is tested is what surrounds them."""
    load_operators().use_path("portable")
    yield
    load_operators().use_path(load_operators().paths()[0])


@pytest.fixture(scope="session")
def vocabulary_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """o200k_base.tiktoken, written out from the copy inside oss-harmony."""
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    path = tmp_path_factory.mktemp("vocabulary") / "o200k_base.tiktoken"
    with path.open("wb") as out:
        for rank in range(ORDINARY_TOKENS):
            out.write(base64.b64encode(bytes(encoding._inner.decode_bytes([rank]))) + b" %d\n" % rank)
    return path


@pytest.fixture(scope="session")
def vocabulary(vocabulary_file: Path) -> Vocabulary:
    return load_vocabulary(vocabulary_file)


def export_random(directory: Path, *, vocab: int, seed: int, context: int = 1024) -> Path:
    """The CPU graph of a random checkpoint: 3 layers, hidden 32, window 16. Returns its path."""
    config = random_config(
        layers=3, hidden=32, intermediate=32, experts=4, experts_per_token=2,
        heads=4, kv_heads=2, head_dim=16, vocab=vocab, sliding_window=16, context=context,
    )  # fmt: skip
    write_random_checkpoint(directory / "checkpoint", config, seed=seed)
    return export_graph(open_checkpoint(directory / "checkpoint"), directory / "cpu", accelerator="cpu").model


@pytest.fixture(scope="session")
def small_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with a vocabulary of 1,000: not fit for Harmony, quick."""
    return export_random(tmp_path_factory.mktemp("small"), vocab=1000, seed=1)


@pytest.fixture
def new_model(small_graph: Path) -> Callable[..., OnnxModel]:
    """Makes models of the small graph."""

    def make(slots: int = 4, context_tokens: int = 512, cache: CacheItem = Config.cache) -> OnnxModel:
        return load_model(small_graph, accelerator="cpu", slots=slots, context_tokens=context_tokens, cache=cache)

    return make


@pytest.fixture(scope="session")
def release_dir(tmp_path_factory: pytest.TempPathFactory, vocabulary_file: Path) -> Path:
    """An installed release with a random model over the whole vocabulary. Not to be written to."""
    release = tmp_path_factory.mktemp("release") / "0.1.0"
    work = tmp_path_factory.mktemp("release-work")
    graph = export_random(work, vocab=201_088, seed=2)
    (release / "tokenizer").mkdir(parents=True)
    (release / "model").mkdir()
    graph.parent.rename(release / "model" / "cpu")
    (work / "checkpoint" / "config.json").rename(release / "model" / "config.json")
    os.link(vocabulary_file, release / "tokenizer" / vocabulary_file.name)
    (release / "release.json").write_text(json.dumps(release_json()))
    return release


def release_json(**changes: Any) -> dict[str, Any]:
    """The description of ``release_dir``."""
    return {
        "format": 1,
        "name": "gpt-oss-random",
        "version": "0.1.0",
        "accelerators": ["cpu"],
        "graphs": {"cpu": "model/cpu/model.onnx"},
        "config": "model/config.json",
        "vocabulary": "tokenizer/o200k_base.tiktoken",
        "known_answers": None,
        "target": {"python": "3.11", "platform": "manylinux_2_28_x86_64"},
        "model": {
            "id": "gpt-oss-random",
            "title": "Random",
            "description": "Random weights, for tests.",
            "context_tokens": 512,
            "example_prompts": ["a", "b", "c", "d"],
            "notice": None,
        },
        **changes,
    }


@pytest.fixture
def release(release_dir: Path) -> InstalledRelease:
    return load_release(release_dir)
