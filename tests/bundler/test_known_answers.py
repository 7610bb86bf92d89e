"""Known answers: the release's own appliance records them, the file's bytes repeat, and wrong answers are noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler.checkpoint import open_checkpoint
from bundler.errors import KnownAnswersError
from bundler.export import export_graph
from bundler.known_answers import PROMPTS, encode_prompts, record_known_answers, rounded_answers
from bundler.random_checkpoint import random_config, write_random_checkpoint
from bundler.tokenizer import load_vocabulary
from installer.formats.known_answers import FILE

HARMONY_VOCABULARY = 201_088


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release tree with a real, very thin graph over the real vocabulary."""
    directory = tmp_path_factory.mktemp("answers")
    config = random_config(
        layers=1, hidden=32, intermediate=32, experts=4, experts_per_token=2, heads=2, kv_heads=1, head_dim=16,
        vocab=HARMONY_VOCABULARY, context=4096,
    )  # fmt: skip
    write_random_checkpoint(directory / "checkpoint", config, seed=5)
    checkpoint = open_checkpoint(directory / "checkpoint")
    release = directory / "release"
    (release / "model").mkdir(parents=True)
    (release / "tokenizer").mkdir()
    (release / "model" / "config.json").write_bytes(checkpoint.config_bytes)
    (release / "tokenizer" / "o200k_base.tiktoken").write_bytes(load_vocabulary(checkpoint.directory))
    export_graph(checkpoint, release / "model" / "cpu", accelerator="cpu")
    describe(release, known_answers=None)
    return release


def describe(release: Path, *, known_answers: str | None) -> None:
    body = {
        "format": 1, "name": "thin", "version": "1", "accelerators": ["cpu"], "graphs": {"cpu": "model/cpu/model.onnx"},
        "config": "model/config.json", "vocabulary": "tokenizer/o200k_base.tiktoken", "known_answers": known_answers,
        "target": {"python": "3.11", "platform": "manylinux_2_28_x86_64"},
        "model": {"id": "thin", "title": "Thin", "description": "A test model.", "context_tokens": 4096,
                  "example_prompts": ["a", "b", "c", "d"], "notice": None},
    }  # fmt: skip
    (release / "release.json").write_text(json.dumps(body))


def self_test(release: Path) -> int:
    command = [str(Path(sys.executable).with_name("appliance")), "selftest", "--release", str(release)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_a_recording_repeats_holds_and_a_wrong_one_does_not(tree: Path) -> None:
    describe(tree, known_answers=None)
    record_known_answers(tree, encode_prompts(HARMONY_VOCABULARY))
    first = (tree / FILE).read_bytes()
    record_known_answers(tree, encode_prompts(HARMONY_VOCABULARY))
    assert (tree / FILE).read_bytes() == first
    describe(tree, known_answers=FILE)
    assert self_test(tree) == 0
    body = json.loads(first)
    body["cases"][1]["top_logits"][0] *= 1 + 3 * body["tolerance"]
    (tree / FILE).write_text(json.dumps(body))
    assert self_test(tree) == 1


def test_a_release_that_cannot_be_served_is_an_error_of_one_line(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(KnownAnswersError) as refused:
        record_known_answers(tmp_path, encode_prompts(HARMONY_VOCABULARY))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / FILE).exists()


def test_the_prompts_are_harmony_and_always_the_same() -> None:
    prompts = encode_prompts(HARMONY_VOCABULARY)
    assert prompts == encode_prompts(HARMONY_VOCABULARY)
    assert len(prompts) == len(PROMPTS)
    start, assistant = 200_006, 173_781
    assert all(ids[0] == start and ids[-2:] == [start, assistant] for ids in prompts)


def test_a_vocabulary_too_small_for_harmony_is_refused() -> None:
    with pytest.raises(KnownAnswersError, match="300 tokens"):
        encode_prompts(300)


def recording(**change: Any) -> bytes:
    case = {"prompt_ids": [1, 2], "top_ids": [5, 4, 3, 2, 1], "top_logits": [1.00049, 0.5, 0.25, 0.1, -3]}
    return json.dumps({"format": 1, "tolerance": 0.01, "cases": [case | change]}).encode()


def test_logits_are_rounded_far_below_the_tolerance() -> None:
    assert rounded_answers(recording(), [[1, 2]]).cases[0].top_logits == [1.0, 0.5, 0.25, 0.1, -3.0]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", recording(top_ids=[1]), recording(top_logits=[1, 2, 3, 4, float("nan")]),
        recording(prompt_ids=[1]), recording(prompt_ids="x"), recording().replace(b'"format": 1', b'"format": 2'),
    ],
)  # fmt: skip
def test_anything_else_than_a_recording_of_the_prompts_is_refused(data: bytes) -> None:
    with pytest.raises(KnownAnswersError):
        rounded_answers(data, [[1, 2]])
