"""Known answers: the release's own appliance records them, the file's bytes repeat, and wrong answers are noticed."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bundler.checkpoint import open_checkpoint
from bundler.errors import KnownAnswersError
from bundler.export import export_graph
from bundler.known_answers import record_known_answers, verify_known_answers
from bundler.random_checkpoint import random_config, write_random_checkpoint
from installer.formats.known_answers import FILE


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release tree with a real, very thin graph."""
    directory = tmp_path_factory.mktemp("answers")
    config = random_config(
        layers=1, hidden=32, intermediate=32, experts=4, experts_per_token=2, heads=2, kv_heads=1, head_dim=16,
        vocab=300, context=4096,
    )  # fmt: skip
    write_random_checkpoint(directory / "checkpoint", config, seed=5)
    checkpoint = open_checkpoint(directory / "checkpoint")
    release = directory / "release"
    (release / "model").mkdir(parents=True)
    (release / "tokenizer").mkdir()
    (release / "model" / "config.json").write_bytes(checkpoint.config_bytes)
    (release / "tokenizer" / "o200k_base.tiktoken").write_bytes(b"")
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


def test_a_recording_repeats_holds_and_a_wrong_one_does_not(tree: Path) -> None:
    describe(tree, known_answers=None)
    record_known_answers(tree)
    first = (tree / FILE).read_bytes()
    record_known_answers(tree)
    assert (tree / FILE).read_bytes() == first
    describe(tree, known_answers=FILE)
    verify_known_answers(tree)
    body = json.loads(first)
    answer = np.frombuffer(base64.b64decode(body["parts"][3]["answer"]), "<f4").copy()
    answer[5] *= 1.01
    body["parts"][3]["answer"] = base64.b64encode(answer.tobytes()).decode()
    (tree / FILE).write_text(json.dumps(body))
    with pytest.raises(KnownAnswersError, match="is not signed: Error: layer 0: a norm") as refused:
        verify_known_answers(tree)
    assert "\n" not in str(refused.value)


def test_a_tree_whose_weights_changed_after_the_recording_is_not_signed(tree: Path) -> None:
    """The disk, or somebody, changed one byte of the weights while the release was assembled."""
    describe(tree, known_answers=None)
    record_known_answers(tree)
    describe(tree, known_answers=FILE)
    weights = tree / "model" / "cpu" / "weights-00001.bin"
    before = weights.read_bytes()
    try:
        with weights.open("r+b") as file:
            file.write(before[:3] + bytes([before[3] ^ 0x80]))  # the sign of the first number
        with pytest.raises(KnownAnswersError, match="fails its self-test and is not signed"):
            verify_known_answers(tree)
    finally:
        weights.write_bytes(before)


def test_a_release_that_cannot_be_served_is_an_error_of_one_line(tree: Path, tmp_path: Path) -> None:
    for attempt in (record_known_answers, verify_known_answers):
        with pytest.raises(KnownAnswersError) as refused:
            attempt(tmp_path)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / FILE).exists()


def test_anything_else_than_a_recording_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An `appliance` of another version beside this interpreter."""
    program = tmp_path / "appliance"
    program.write_text("#!/bin/sh\necho '{}' >\"$5\"\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(KnownAnswersError, match="something else than known answers"):
        record_known_answers(tree)
    program.unlink()
    with pytest.raises(KnownAnswersError, match="cannot be started"):
        record_known_answers(tree)
