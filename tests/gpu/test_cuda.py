"""A real GPU: the exported graph computes the model, alone and together, captured and not. Run by `pytest -m gpu`.

CUDA computes in float16, so the tolerances are those of 11 bits, not of float32. Where two experts' router logits lie
closer than that, another expert may be taken than in float64 and a row differs at large; so the checkpoint that is held
to the tolerance in every row routes each token to all of its experts, and one that chooses is held to the median row.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from appliance.engine.harmony import Vocabulary
from appliance.engine.jobs import Job
from appliance.engine.model import ModelError, device
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import Scheduler
from appliance.engine.steps import Append
from appliance.turns.events import EngineEvent
from appliance.turns.request import Message, TurnRequest
from bundler.checkpoint import open_checkpoint
from bundler.export import export_graph
from bundler.random_checkpoint import random_config, write_random_checkpoint
from tests.reference.gpt_oss import Float64Array, ReferenceModel

pytestmark = pytest.mark.gpu
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_VOCAB, _CAPACITY, _SLOTS = 1000, 640, 8
_EVERY_ROW, _MEDIAN_ROW = 1e-2, 5e-3


class Case:
    """One random checkpoint: its reference, and its model on the GPU."""

    def __init__(self, directory: Path, experts: int, experts_per_token: int) -> None:
        config = random_config(
            layers=4, hidden=256, intermediate=128, experts=experts, experts_per_token=experts_per_token,
            heads=8, kv_heads=2, head_dim=64, vocab=_VOCAB, sliding_window=128,
        )  # fmt: skip
        write_random_checkpoint(directory / "checkpoint", config, seed=2)
        graph = export_graph(open_checkpoint(directory / "checkpoint"), directory / "cuda", accelerator="cuda")
        self.graph = graph.model
        self.model = load_model(graph.model, accelerator="cuda", slots=_SLOTS, context_tokens=_CAPACITY)
        self.ids = [int(i) for i in np.random.default_rng(3).integers(0, _VOCAB, 600)]
        self.expected: Float64Array = ReferenceModel(directory / "checkpoint").logits(np.array(self.ids))


@pytest.fixture(scope="module")
def all_experts(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("all"), experts=4, experts_per_token=4)


@pytest.fixture(scope="module")
def top_4_of_32(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("top"), experts=32, experts_per_token=4)


def logits_of(top: TopLogits | None) -> NDArray[np.float32]:
    assert top is not None
    return top.all_logits()


def error(ours: NDArray[np.float32], theirs: NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def prefill(model: OnnxModel, slot: int, ids: list[int], held: int = 0) -> NDArray[np.float32]:
    """The last token's logits of a prompt of which the slot holds the first ``held``, cut as the model says."""
    return logits_of(model.prefill_prompt(slot, ids, held))


def step(model: OnnxModel, slots: list[int], ids: list[int], lengths: list[int]) -> list[TopLogits]:
    """One token for each of some neighbouring slots."""
    return model.decode([Append(slot, ids[length], length) for slot, length in zip(slots, lengths, strict=True)])


@pytest.mark.parametrize("length", [1, 5, 127, 128, 129, 255, 256, 257, 263, 367, 545, 600])
def test_prefill_agrees_with_the_reference(all_experts: Case, length: int) -> None:
    ours = prefill(all_experts.model, 0, all_experts.ids[:length])
    assert error(ours, all_experts.expected[length - 1]) < _EVERY_ROW


@pytest.mark.parametrize("held", [1, 100, 256, 300, 540])
def test_a_follow_up_agrees_with_the_reference(all_experts: Case, held: int) -> None:
    prefill(all_experts.model, 1, all_experts.ids[:held])
    for length in (held + 1, held + 5, 600):
        ours = prefill(all_experts.model, 1, all_experts.ids[:length], held)
        assert error(ours, all_experts.expected[length - 1]) < _EVERY_ROW


def test_a_chunk_that_the_plan_avoids_is_wrong(all_experts: Case) -> None:
    """Why there is a plan (ChunkPlanner). When this fails, ONNX Runtime no longer adds sinks twice: drop it."""
    top = all_experts.model.prefill(2, all_experts.ids[:263], 0, want_logits=True)
    assert error(logits_of(top), all_experts.expected[262]) > 2 * _EVERY_ROW


@pytest.mark.parametrize("start", [1, 120, 500])
def test_a_captured_step_serves_every_later_length(all_experts: Case, start: int) -> None:
    """One graph, captured at its first use, replayed at 100 lengths; the same weights and caches as prefill."""
    prefill(all_experts.model, 4, all_experts.ids[:start])
    for length in range(start, start + 100):
        (top,) = step(all_experts.model, [4], all_experts.ids, [length])
        assert error(logits_of(top), all_experts.expected[length]) < _EVERY_ROW, length


@pytest.mark.parametrize("count", [2, 4, 8])
def test_slots_decoded_together_agree_with_the_reference(all_experts: Case, count: int) -> None:
    slots = list(range(count))
    lengths = [30 + 70 * slot for slot in slots]
    for slot, length in zip(slots, lengths, strict=True):
        prefill(all_experts.model, slot, all_experts.ids[:length])
    for _ in range(20):
        tops = step(all_experts.model, slots, all_experts.ids, lengths)
        for top, length in zip(tops, lengths, strict=True):
            assert error(logits_of(top), all_experts.expected[length]) < _EVERY_ROW
        lengths = [length + 1 for length in lengths]


def test_chosen_experts_agree_with_the_reference(top_4_of_32: Case) -> None:
    prefill(top_4_of_32.model, 0, top_4_of_32.ids[:100])
    errors, same = [], []
    for length in range(100, 500):
        (top,) = step(top_4_of_32.model, [0], top_4_of_32.ids, [length])
        ours, theirs = logits_of(top), top_4_of_32.expected[length]
        errors.append(error(ours, theirs))
        same.append(ours.argmax() == theirs.argmax())
    assert np.median(errors) < _MEDIAN_ROW
    assert np.mean(same) > 0.97


def test_top_logits_and_normaliser_are_those_of_all_logits(all_experts: Case) -> None:
    prefill(all_experts.model, 0, all_experts.ids[:10])
    (top,) = step(all_experts.model, [0], all_experts.ids, [10])
    every = logits_of(top)
    assert every.shape == (_VOCAB,)
    assert sorted(top.logits.tolist(), reverse=True) == top.logits.tolist()
    np.testing.assert_array_equal(every[top.ids], top.logits)
    assert top.logits[-1] >= np.partition(every, -len(top.ids))[-len(top.ids)]
    assert top.logsumexp == pytest.approx(float(np.log(np.exp(every.astype(np.float64)).sum())), abs=1e-5)


def test_the_same_conversation_gives_the_same_numbers_again(all_experts: Case) -> None:
    """An audited answer is replayed on an empty machine: no sum may depend on chance."""
    runs = []
    for _ in range(3):
        first = prefill(all_experts.model, 5, all_experts.ids[:200])
        (top,) = step(all_experts.model, [5], all_experts.ids, [200])
        runs.append((first, logits_of(top)))
    for again in runs[1:]:
        np.testing.assert_array_equal(again[0], runs[0][0])
        np.testing.assert_array_equal(again[1], runs[0][1])


def test_steps_leave_memory_as_it_is(all_experts: Case) -> None:
    lengths = [100 for _ in range(_SLOTS)]
    for slot in range(_SLOTS):
        prefill(all_experts.model, slot, all_experts.ids[:100])
    step(all_experts.model, list(range(_SLOTS)), all_experts.ids, lengths)
    before = device.query_device().free_bytes
    for _ in range(200):
        step(all_experts.model, list(range(_SLOTS)), all_experts.ids, lengths)
    assert device.query_device().free_bytes >= before - (8 << 20)


def test_a_context_that_cannot_fit_is_refused_with_the_numbers(all_experts: Case) -> None:
    slots = device.query_device().free_bytes // (131_072 * 4 * 2 * 64 * 2 * 2) + 1
    with pytest.raises(ModelError, match=r"not enough memory for .* GB are needed, .* GB are free"):
        load_model(all_experts.graph, accelerator="cuda", slots=slots, context_tokens=131_072)


def test_a_cancelled_turn_frees_its_slot_within_one_step(all_experts: Case) -> None:
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    scheduler = Scheduler(all_experts.model, Vocabulary(encoding), queue_limit=50)
    turns: list[Job] = []
    events: list[EngineEvent] = []
    for number in range(3):
        request = TurnRequest(id=f"t{number}", user=f"u{number}", messages=(Message("user", "x"),), seed=number)
        turns.append(Job(request, all_experts.ids[:50], events.append))
        scheduler.submit(turns[-1])
    for _ in range(5):
        scheduler.step()
    assert scheduler.load().active == 3
    scheduler.cancel(turns[1])
    scheduler.step()
    assert scheduler.load().active == 2
