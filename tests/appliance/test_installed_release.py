"""A release directory is read as docs/architecture.md describes it, and otherwise refused with one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.installed_release import ReleaseError, load_release, verify_vocabulary

GRAPH = "model/cpu/model.onnx"
MODEL = {
    "id": "gpt-oss-demo", "title": "Demo", "description": "Small.", "context_tokens": 2048,
    "example_prompts": ["a", "b", "c", "d"], "notice": None,
}  # fmt: skip


@pytest.fixture
def described(tmp_path: Path) -> dict[str, Any]:
    """A description, with all of its files under tmp_path."""
    for name in (GRAPH, "model/config.json", "tokenizer/o200k_base.tiktoken", "known_answers.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return {
        "format": 1, "name": "gpt-oss-demo", "version": "0.1.0", "accelerators": ["cpu"], "graphs": {"cpu": GRAPH},
        "config": "model/config.json", "vocabulary": "tokenizer/o200k_base.tiktoken",
        "known_answers": "known_answers.json", "target": {"python": "3.11", "platform": "any"}, "model": MODEL,
    }  # fmt: skip


def write(directory: Path, body: object) -> Path:
    (directory / "release.json").write_text(json.dumps(body))
    return directory


def test_reads_what_the_release_is(tmp_path: Path, described: dict[str, Any]) -> None:
    write(tmp_path, described)
    os.utime(tmp_path / "release.json", (0, 1_790_000_000.5))
    release = load_release(tmp_path)
    assert (release.name, release.version) == ("gpt-oss-demo", "0.1.0")
    assert release.installed_s == 1_790_000_000
    assert release.graphs == {"cpu": tmp_path / GRAPH}
    assert release.known_answers == tmp_path / "known_answers.json"
    assert release.model.context_tokens == 2048
    assert release.model.example_prompts == ("a", "b", "c", "d")
    assert release.model.notice is None


def test_what_was_signed_says_when_it_was_created(tmp_path: Path, described: dict[str, Any]) -> None:
    """The bundler's version of contents is their time of signing; it is the same wherever they are installed."""
    write(tmp_path, described)
    os.utime(tmp_path / "release.json", (0, 1_790_000_000))
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "targets.json").write_text(
        json.dumps({"signed": {"version": 20261130174500}, "signatures": []})
    )
    assert load_release(tmp_path).created_s == 1_796_060_700


@pytest.mark.parametrize(
    "targets",
    [None, "", "[]", "{", '{"signed": {}}', '{"signed": {"version": 7}}', '{"signed": {"version": true}}',
     '{"signed": {"version": 20269930174500}}', '{"signed": {"version": "20261130174500"}}', "[" * 100_000],
    ids=lambda text: str(text)[:40],
)  # fmt: skip
def test_without_a_time_of_signing_that_of_the_installation_counts(
    tmp_path: Path, described: dict[str, Any], targets: str | None
) -> None:
    write(tmp_path, described)
    os.utime(tmp_path / "release.json", (0, 1_790_000_000))
    (tmp_path / "metadata").mkdir()
    if targets is not None:
        (tmp_path / "metadata" / "targets.json").write_text(targets)
    assert load_release(tmp_path).created_s == 1_790_000_000


def test_known_answers_may_be_missing(tmp_path: Path, described: dict[str, Any]) -> None:
    assert load_release(write(tmp_path, {**described, "known_answers": None})).known_answers is None


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "model/../../x", "", 5, ["a"]])
@pytest.mark.parametrize("field", ["config", "vocabulary", "known_answers", "graph"])
def test_refuses_paths_that_do_not_stay_inside(
    tmp_path: Path, described: dict[str, Any], field: str, path: object
) -> None:
    body = {**described, "graphs": {"cpu": path}} if field == "graph" else {**described, field: path}
    with pytest.raises(ReleaseError, match=r"release\.json"):
        load_release(write(tmp_path, body))


@pytest.mark.parametrize("name", [GRAPH, "model/config.json", "tokenizer/o200k_base.tiktoken", "known_answers.json"])
def test_names_the_file_that_is_missing(tmp_path: Path, described: dict[str, Any], name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(ReleaseError, match=f"{name}: is missing"):
        load_release(write(tmp_path, described))


@pytest.mark.parametrize(
    "field", ["format", "name", "version", "graphs", "config", "vocabulary", "known_answers", "model"]
)
def test_refuses_a_missing_field(tmp_path: Path, described: dict[str, Any], field: str) -> None:
    del described[field]
    with pytest.raises(ReleaseError, match=r"release\.json"):
        load_release(write(tmp_path, described))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2}, {"name": ""}, {"version": 1}, {"graphs": []}, {"model": []},
        {"model": {**MODEL, "context_tokens": 0}}, {"model": {**MODEL, "context_tokens": "2048"}},
        {"model": {**MODEL, "example_prompts": 4}}, {"model": {**MODEL, "notice": 4}},
    ],
)  # fmt: skip
def test_refuses_fields_of_another_kind(tmp_path: Path, described: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match=r"release\.json"):
        load_release(write(tmp_path, {**described, **changes}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\u00e4"])
def test_refuses_what_is_no_description(tmp_path: Path, text: str) -> None:
    (tmp_path / "release.json").write_text(text)
    with pytest.raises(ReleaseError, match=r"release\.json"):
        load_release(tmp_path)


def test_refuses_a_directory_without_one(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"release\.json: cannot be read"):
        load_release(tmp_path)


def test_refuses_another_vocabulary(tmp_path: Path, described: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match="SHA-256"):
        verify_vocabulary(load_release(write(tmp_path, described)).vocabulary)
