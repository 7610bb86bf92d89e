"""Known answers that one release recorded are accepted from it and refused from another model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.model import ModelError
from appliance.engine.model.base import OnnxModel
from appliance.engine.operators import load_operators
from appliance.engine.sampling import TopLogits
from appliance.engine.selftest import KnownAnswerError, check_known_answers, load_prompts, record_known_answers
from appliance.installed_release import InstalledRelease, ReleaseError
from tests.appliance.engine.conftest import export_random

PROMPTS = [[1, 2, 3], list(range(600)), [7]]


@pytest.fixture
def small_release(release: InstalledRelease, small_graph: Path) -> InstalledRelease:
    """The release, with the small graph instead of its own."""
    return replace(release, graphs={"cpu": small_graph})


@pytest.fixture
def answers(small_release: InstalledRelease, tmp_path: Path) -> Path:
    record_known_answers(small_release, PROMPTS, tmp_path / "known_answers.json")
    return tmp_path / "known_answers.json"


def edit(answers: Path, change: Callable[[dict[str, Any]], None]) -> None:
    body = json.loads(answers.read_text())
    change(body)
    answers.write_text(json.dumps(body))


def test_a_recording_has_five_falling_logits_for_each_prompt(answers: Path) -> None:
    body = json.loads(answers.read_text())
    assert (body["format"], body["tolerance"]) == (1, 0.01)
    assert [case["prompt_ids"] for case in body["cases"]] == PROMPTS
    for case in body["cases"]:
        assert len(case["top_ids"]) == 5
        assert case["top_logits"] == sorted(case["top_logits"], reverse=True)


def test_the_same_release_passes(small_release: InstalledRelease, answers: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = check_known_answers(
        replace(small_release, known_answers=answers), progress=lambda done, total: seen.append((done, total))
    )
    assert result.cases == 3
    assert result.worst < 1e-4
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("path", load_operators().paths())
def test_answers_recorded_on_one_kind_of_processor_are_given_on_every_other(
    small_release: InstalledRelease, answers: Path, path: str
) -> None:
    operators = load_operators()
    operators.use_path(path)
    try:
        result = check_known_answers(replace(small_release, known_answers=answers))
    finally:
        operators.use_path(operators.paths()[0])
    assert result.worst < 1e-3
    assert result.prompt_distance is not None
    assert (result.prompt_distance > 0) == (path != "portable")


def test_a_processor_that_misreads_prompts_fails(
    small_release: InstalledRelease, answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = OnnxModel.prefill_prompt

    def misread(model: OnnxModel, slot: int, prompt: list[int], *, as_decoded: bool = False) -> TopLogits:
        return read(model, slot, prompt if as_decoded else prompt[::-1], as_decoded=as_decoded)

    monkeypatch.setattr(OnnxModel, "prefill_prompt", misread)
    with pytest.raises(KnownAnswerError, match="known answer 1 differs when it is read as a prompt"):
        check_known_answers(replace(small_release, known_answers=answers))


def test_other_weights_fail(small_release: InstalledRelease, answers: Path, tmp_path: Path) -> None:
    other = replace(small_release, known_answers=answers, graphs={"cpu": export_random(tmp_path, vocab=1000, seed=9)})
    with pytest.raises(KnownAnswerError, match="known answer 1 differs"):
        check_known_answers(other)


def test_a_logit_beyond_the_tolerance_fails(small_release: InstalledRelease, answers: Path) -> None:
    def shift(body: dict[str, Any]) -> None:
        body["cases"][2]["top_logits"][4] *= 1.02

    edit(answers, shift)
    with pytest.raises(KnownAnswerError, match="known answer 3 differs"):
        check_known_answers(replace(small_release, known_answers=answers))


def test_two_tokens_may_change_places_within_the_tolerance_only(small_release: InstalledRelease, answers: Path) -> None:
    def swap(body: dict[str, Any]) -> None:
        ids, logits = body["cases"][0]["top_ids"], body["cases"][0]["top_logits"]
        ids[0], ids[1], logits[0], logits[1] = ids[1], ids[0], logits[1], logits[0]

    edit(answers, swap)
    known = replace(small_release, known_answers=answers)
    with pytest.raises(KnownAnswerError):
        check_known_answers(known)
    edit(answers, lambda body: body.update(tolerance=0.5))
    assert check_known_answers(known).cases == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(format=2),
        lambda body: body.update(cases=[]),
        lambda body: body.update(tolerance=0),
        lambda body: body.update(tolerance=float("nan")),
        lambda body: body.pop("cases"),
        lambda body: body["cases"][0].update(prompt_ids=[]),
        lambda body: body["cases"][0].update(top_ids=[1]),
        lambda body: body["cases"][0].update(top_logits=["a"] * 5),
    ],
)
def test_refuses_a_malformed_file(
    small_release: InstalledRelease, answers: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    edit(answers, change)
    with pytest.raises(ReleaseError, match="not a file of known answers"):
        check_known_answers(replace(small_release, known_answers=answers))


def test_refuses_a_release_without_known_answers(small_release: InstalledRelease) -> None:
    with pytest.raises(ReleaseError, match="no known answers"):
        check_known_answers(replace(small_release, known_answers=None))


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_refuses_to_record_nothing(small_release: InstalledRelease, tmp_path: Path, prompts: list[list[int]]) -> None:
    with pytest.raises(ReleaseError, match="at least one prompt"):
        record_known_answers(small_release, prompts, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("token", [-1, 1000])
def test_refuses_tokens_the_model_does_not_have(small_release: InstalledRelease, tmp_path: Path, token: int) -> None:
    with pytest.raises(ModelError, match=f"token {token}"):
        record_known_answers(small_release, [[token]], tmp_path / "out.json")


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '["ab"]', "[[1.5]]", "[[true]]"])
def test_refuses_prompts_that_are_not_lists_of_ids(tmp_path: Path, text: str) -> None:
    (tmp_path / "prompts.json").write_text(text)
    with pytest.raises(ReleaseError, match="lists of token ids"):
        load_prompts(tmp_path / "prompts.json")
