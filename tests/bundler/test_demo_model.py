"""The embedded demo model, through its expanded checkpoint, the exported graph and the appliance's own engine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from appliance.engine.harmony import render_prompt
from appliance.engine.jobs import Job
from appliance.engine.scheduler import Scheduler
from appliance.turns.events import Done, EngineEvent
from bench.demo_model_eval import Examinee, open_examinee, turn_request
from bundler.checkpoint import open_checkpoint
from bundler.demo_model import expand
from bundler.demo_model.corpus import load_corpus
from bundler.demo_model.dialogues import Call, Dialogue
from bundler.demo_model.evaluate import MINIMUM, Given, Judge, Result, right_share, table
from bundler.demo_model.examination import held_out_dialogues
from bundler.demo_model.expand import expand_demo_checkpoint
from bundler.demo_model.network import CONFIG, Attention, round_mxfp4
from bundler.demo_model.prompts import encode_answer
from bundler.demo_model.weights import TOKEN_IDS, WEIGHTS, load_weights
from bundler.errors import CheckpointError
from bundler.model_config import parse_model_config
from bundler.mxfp4 import dequantise, quantise
from bundler.rotary import rotary_caches
from tests.appliance.engine.parsed_turn import headers, unsound
from tests.installer.recorded_progress import RecordedProgress

MAX_WEIGHTS_BYTES = 16 * 1024 * 1024


CARD = Path(__file__).parents[2] / "docs" / "demo-model.md"


@pytest.fixture(scope="module")
def examinee(tmp_path_factory: pytest.TempPathFactory) -> Examinee:
    return open_examinee(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    """Every second question of the examination, to save time; `make demo-model-eval` asks all of them."""
    return held_out_dialogues(load_corpus())[::2]


@pytest.fixture(scope="module")
def given(examinee: Examinee, dialogues: list[Dialogue]) -> list[Given]:
    return examinee.answer(dialogues, temperature=0.0)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(load_corpus())


def results(judge: Judge, dialogues: Sequence[Dialogue], given: Sequence[Given]) -> list[Result]:
    return [Result(d, g, judge.is_right(d, g)) for d, g in zip(dialogues, given, strict=True)]


def perfect_answers(dialogues: Sequence[Dialogue]) -> list[Given]:
    answers = [dialogue.answer for dialogue in dialogues]
    return [Given(a.reasoning, a.text, (a.call,) if a.call else (), sound=True) for a in answers]


def test_answers_enough_wordings_it_never_saw(judge: Judge, dialogues: list[Dialogue], given: list[Given]) -> None:
    marked = results(judge, dialogues, given)
    assert right_share(marked) >= MINIMUM, table(marked)


def test_its_card_says_what_the_examination_asks() -> None:
    count, right = re.findall(r"\| all \| \d+ \| (\d+) \| ([0-9.]+)% \|", CARD.read_text())[0]
    assert int(count) == len(held_out_dialogues(load_corpus()))
    assert float(right) / 100 >= MINIMUM


def test_reasons_longer_with_more_effort(dialogues: list[Dialogue], given: list[Given]) -> None:
    words = {
        effort: float(
            np.mean([len(g.reasoning.split()) for d, g in zip(dialogues, given, strict=True) if d.effort == effort])
        )
        for effort in ("low", "medium", "high")
    }
    assert words["low"] * 1.5 < words["medium"]
    assert words["medium"] * 1.5 < words["high"]


def test_its_own_example_prompts_work(examinee: Examinee, judge: Judge, dialogues: list[Dialogue]) -> None:
    card = json.loads(resources.files(expand.__package__).joinpath(expand.MODEL_CARD).read_text("utf-8"))
    asked = [replace(dialogues[0], said=(replace(dialogues[0].said[0], text=t),)) for t in card["example_prompts"]]
    keys = ("verify", "audit-log", "mxfp4", "limits")
    answers = examinee.answer(asked, temperature=0.0)
    assert len(asked) == 4
    for dialogue, key, answer in zip(asked, keys, answers, strict=True):
        assert judge.is_right(replace(dialogue, key=key, must=()), answer), answer


def test_unused_tokens_have_next_to_no_probability(examinee: Examinee, dialogues: list[Dialogue]) -> None:
    used = np.zeros(examinee.model.shape.vocab, bool)
    used[load_weights(Path(expand.__file__).with_name(WEIGHTS))[TOKEN_IDS]] = True
    masses = []
    for dialogue in dialogues[::10]:
        request = turn_request(dialogue, seed=0, temperature=1.0)
        prompt = render_prompt(examinee.vocabulary, request, today=date.fromisoformat(dialogue.date))
        answer = encode_answer(dialogue.answer)
        for written in (0, 8, len(answer) // 2, len(answer) - 1):
            top = examinee.model.prefill(0, prompt + answer[:written], 0, want_logits=True)
            assert top is not None
            logits = top.all_logits().astype(np.float64)
            masses.append(float(np.exp(logits[~used] - top.logsumexp).sum()))
            assert np.all(logits[~used] == 0)
    figures = f"mean {np.mean(masses):.1e}, largest {max(masses):.1e}"
    print(f"unused tokens: {figures}")
    assert np.mean(masses) < 1e-3, figures
    assert max(masses) < 2e-2, figures


def test_the_judge_refuses_right_answers_to_other_questions(judge: Judge, dialogues: list[Dialogue]) -> None:
    perfect = perfect_answers(dialogues)
    assert right_share(results(judge, dialogues, perfect)) == 1.0
    shifted = perfect[31:] + perfect[:31]
    assert right_share(results(judge, dialogues, shifted)) < 0.2


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda given: replace(given, sound=False),
        lambda given: replace(given, text="", calls=()),
        lambda given: replace(given, text="the of and to", calls=()),
        lambda given: replace(given, calls=(*given.calls, Call("get_weather", "{}"))),
        lambda given: replace(given, text=given.text[: len(given.text) // 3], calls=given.calls[:0]),
    ],
)
def test_the_judge_refuses_spoilt_answers(judge: Judge, dialogues: list[Dialogue], spoilt: object) -> None:
    assert callable(spoilt)
    perfect = perfect_answers(dialogues)
    assert right_share(results(judge, dialogues, [spoilt(g) for g in perfect])) == 0.0


def test_expands_to_the_official_layout_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    progress = RecordedProgress()
    expand_demo_checkpoint(tmp_path / "one", progress)
    checkpoint = open_checkpoint(tmp_path / "one")
    size_bytes = sum(spec.size_bytes for spec in checkpoint.specs.values())
    assert progress.stages == [("Writing the demo checkpoint", size_bytes, size_bytes)]
    expand_demo_checkpoint(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(CheckpointError, match="already exists"):
        expand_demo_checkpoint(tmp_path / "two")


def test_leaves_nothing_behind_when_the_weights_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expand, "WEIGHTS", "config.json")
    with pytest.raises(CheckpointError, match="damaged"):
        expand_demo_checkpoint(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_weights_fit_into_the_repository() -> None:
    with resources.as_file(resources.files(expand.__package__).joinpath(WEIGHTS)) as path:
        assert path.stat().st_size <= MAX_WEIGHTS_BYTES


@pytest.mark.parametrize("layer", [0, 1])
def test_training_attends_as_the_published_architecture_does(layer: int) -> None:
    torch.manual_seed(layer)
    config = parse_model_config(CONFIG)
    attention = Attention(config, layer)
    torch.nn.init.normal_(attention.sinks)
    cos, sin = (torch.from_numpy(cache[:200]) for cache in rotary_caches(config))
    x = torch.randn(1, 200, config.hidden)
    with torch.no_grad():
        given = attention(x, cos, sin)[0].float().numpy()
        wanted = _attend(attention, x[0], cos.numpy(), sin.numpy(), config.sliding_window if layer == 0 else 200)
    assert np.abs(given - wanted).max() < 0.02 * np.abs(wanted).max()  # training computes in bfloat16


def _attend(
    attention: Attention, x: torch.Tensor, cos: NDArray[np.float32], sin: NDArray[np.float32], window: int
) -> NDArray[np.float64]:
    """Attention with sinks, position by position and head by head, in float64."""
    config = attention.config
    q, k, v = (
        linear(x).double().numpy().reshape(len(x), -1, config.head_dim)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    half = config.head_dim // 2
    for heads in (q, k):
        first, second = heads[..., :half].copy(), heads[..., half:].copy()
        heads[..., :half] = first * cos[:, None] - second * sin[:, None]
        heads[..., half:] = second * cos[:, None] + first * sin[:, None]
    mixed = np.zeros((len(x), config.heads, config.head_dim))
    for position in range(len(x)):
        seen = slice(max(0, position - window + 1), position + 1)
        for head in range(config.heads):
            shared = head // (config.heads // config.kv_heads)
            scores = k[seen, shared] @ q[position, head] / np.sqrt(config.head_dim)
            weights = np.exp(scores - scores.max())
            sink = np.exp(attention.sinks[head].item() - scores.max())
            mixed[position, head] = weights @ v[seen, shared] / (weights.sum() + sink)
    weight, bias = attention.o_proj.weight.double().numpy(), attention.o_proj.bias.double().numpy()
    result: NDArray[np.float64] = mixed.reshape(len(x), -1) @ weight.T + bias
    return result


def test_training_rounds_experts_exactly_as_the_quantiser_does() -> None:
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((4, 64, 96)) * np.exp2(rng.integers(-8, 8, (4, 64, 1)))).astype(np.float32)
    weights[0, 0] = 0
    weights[1] = np.round(weights[1] * 4) / 4  # many ties
    rounded = round_mxfp4(torch.from_numpy(weights)).numpy()
    np.testing.assert_array_equal(rounded, dequantise(*quantise(weights)))


def test_a_hundred_turns_at_temperature_one_have_no_malformed_header(
    examinee: Examinee, dialogues: list[Dialogue]
) -> None:
    with_functions = [dialogue for dialogue in dialogues if dialogue.functions]
    asked = [*with_functions[:25], *(dialogue for dialogue in dialogues if not dialogue.functions)][:100]
    sent: list[list[EngineEvent]] = [[] for _ in asked]
    scheduler = Scheduler(examinee.model, examinee.vocabulary, queue_limit=len(asked))
    for seed, dialogue in enumerate(asked):
        request = replace(turn_request(dialogue, seed=seed, temperature=1.0, grammar=True), max_tokens=60)
        prompt = render_prompt(examinee.vocabulary, request, today=date.fromisoformat(dialogue.date))
        scheduler.submit(Job(request, prompt, sent[seed].append))
    while scheduler.step():
        pass
    turns = [event for events in sent for event in events if isinstance(event, Done)]
    assert len(turns) == 100
    for turn, dialogue in zip(turns, asked, strict=True):
        written = headers(examinee.vocabulary, turn.token_ids)
        assert written
        assert unsound(written, [function.name for function in dialogue.functions]) == []
