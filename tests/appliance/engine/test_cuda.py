"""What CUDA needs, as far as a machine without a GPU can tell: refusals, chunks, widths, the replayed steps' buffers.

tests/gpu runs the rest.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from appliance.engine import cuda
from appliance.engine import model as model_module
from appliance.engine.cuda import ChunkPlanner, CudaError, ReplayedSteps, decode_widths, query_device, require_capable
from appliance.engine.kv_cache import DecodeRun, SlotTable, plan_decode
from appliance.engine.model import ModelError, OnnxModel, load_model

BUILD = "git-branch=HEAD, int4-kv-cache=1, fp4-qmoe=1, build type=Release"
GPT_OSS_ON_H200 = ChunkPlanner(heads=64, kv_heads=8, processors=132, chunk_tokens=2048)


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (12, 0), (12, 1)])
def test_a_gpu_with_machine_code_is_accepted(capability: tuple[int, int]) -> None:
    require_capable(BUILD, capability)


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (10, 0), (10, 3), (11, 0), (13, 0)])
def test_a_gpu_without_machine_code_is_refused_by_its_name(capability: tuple[int, int]) -> None:
    with pytest.raises(CudaError, match=rf"compute capability {capability[0]}\.{capability[1]};.*engine\.accelerator"):
        require_capable(BUILD, capability)


def test_a_build_without_mxfp4_is_refused_before_the_gpu_is_looked_at() -> None:
    with pytest.raises(CudaError, match=r"no MXFP4 kernels.*install the official onnxruntime-gpu"):
        require_capable(BUILD.replace("fp4-qmoe=1", "fp4-qmoe=0"), (7, 0))


def test_a_missing_driver_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_DRIVER", "libcuda-that-is-not-there.so.1")
    with pytest.raises(CudaError, match="no NVIDIA driver is installed"):
        query_device()


class _Driver:
    """A driver that answers every call with ``status`` and describes one device."""

    values = {16: 132, 75: 9, 76: 0}  # noqa: RUF012 (CU_DEVICE_ATTRIBUTE numbers)

    def __init__(self, status: int) -> None:
        self.status = status

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = self.values[arguments[1]]
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = 5 << 30, 8 << 30
            return self.status

        return call


def test_the_device_is_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: _Driver(0))
    assert query_device() == cuda.Device((9, 0), 132, 5 << 30)


def test_a_driver_without_a_device_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: _Driver(100))
    with pytest.raises(CudaError, match=r"refuses cuInit \(error 100\)"):
        query_device()


def test_loading_passes_the_refusal_on(small_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = model_module.import_onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda, "_DRIVER", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ModelError, match="no NVIDIA driver is installed"):
        load_model(small_graph, accelerator="cuda", slots=1, context_tokens=64)


@pytest.mark.parametrize(("slots", "widths"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 4, 5)), (8, (1, 2, 4, 8))])
def test_decode_steps_have_few_widths(slots: int, widths: tuple[int, ...]) -> None:
    assert decode_widths(slots) == widths


def test_a_run_of_slots_takes_the_next_width_and_stays_within_the_slots() -> None:
    table = SlotTable(8, 64)
    for slot in table.slots:
        slot.tokens = list(range(10 + slot.index))
    run = plan_decode(table.slots, {2: 7, 4: 9}, decode_widths(8))
    assert run == DecodeRun(2, [7, 7, 9, 7], [12, 13, 14, 15], [0, 2])
    run = plan_decode(table.slots, {5: 7, 7: 9}, decode_widths(8))
    assert run == DecodeRun(4, [7, 7, 7, 9], [14, 15, 16, 17], [1, 3])
    assert plan_decode(table.slots, {3: 1}, decode_widths(8)) == DecodeRun(3, [1], [13], [0])


def blocks(planner: ChunkPlanner, chunk: range) -> float:
    """How far heads and queries fill the multiprocessors, as the kernel's heuristic counts them."""
    heads = planner.heads if chunk.start == 0 else planner.kv_heads
    return heads * -(-len(chunk) // 64) / planner.processors


PLANNERS = [
    GPT_OSS_ON_H200,
    ChunkPlanner(heads=64, kv_heads=8, processors=108, chunk_tokens=2048),
    ChunkPlanner(heads=64, kv_heads=8, processors=170, chunk_tokens=2048),
    ChunkPlanner(heads=4, kv_heads=2, processors=132, chunk_tokens=2048),
]


@pytest.mark.parametrize("planner", PLANNERS, ids=str)
@pytest.mark.parametrize("past", [0, 1, 200, 255, 256, 300, 900, 5000])
@pytest.mark.parametrize("new", [1, 2, 56, 64, 300, 900, 3000])
def test_no_chunk_is_one_whose_keys_are_split(planner: ChunkPlanner, past: int, new: int) -> None:
    held, length = past, past + new
    while held < length:
        chunk = planner.plan(held, length)
        assert chunk.start <= held < chunk.stop <= length  # no gap, and each step goes on
        assert chunk.stop <= 256 or len(chunk) == 1 or blocks(planner, chunk) >= 0.8
        held = chunk.stop


def test_a_short_follow_up_computes_some_of_the_past_again() -> None:
    assert GPT_OSS_ON_H200.plan(4000, 4060) == range(4060 - 833, 4060)
    assert GPT_OSS_ON_H200.plan(400, 460) == range(460)  # 64 heads without a past: two blocks of queries are enough
    assert GPT_OSS_ON_H200.plan(4000, 4001) == range(4000, 4001)
    assert GPT_OSS_ON_H200.plan(100, 256) == range(100, 256)
    assert GPT_OSS_ON_H200.plan(0, 10_000) == range(2048)


def test_replayed_steps_give_what_ordinary_steps_give(new_model: Callable[..., OnnxModel]) -> None:
    """On a CPU nothing is captured; buffers, addresses and rows are the same."""
    model = new_model(slots=4)
    ort = model_module.import_onnxruntime()
    top = next(node.shape[1] for node in model._session.get_outputs() if node.name == "top_ids")
    steps = ReplayedSteps(
        ort, model._session, slots=4, capacity=model.capacity, vocab=model.shape.vocab, top=top,
        bind_caches=model._caches.bind, device="cpu",
    )  # fmt: skip
    rng = np.random.default_rng(4)
    lengths = [5, 40, 17, 30]
    for slot, length in enumerate(lengths):
        model.prefill(slot, [int(i) for i in rng.integers(0, 1000, length)], 0, want_logits=False)
    for first, width, rows in ((0, 4, [0, 2, 3]), (1, 2, [1]), (0, 4, [1]), (3, 1, [0])):
        for _ in range(3):
            tokens = [int(i) for i in rng.integers(0, 1000, width)]
            held = lengths[first : first + width]
            ordinary = model.decode(DecodeRun(first, tokens, held, rows))
            replayed = steps.run(first, tokens, held, rows)
            for one, other in zip(replayed, ordinary, strict=True):
                np.testing.assert_array_equal(one.ids, other.ids)
                np.testing.assert_array_equal(one.logits, other.logits)
                assert one.logsumexp == other.logsumexp
                np.testing.assert_array_equal(one.all_logits(), other.all_logits())
            lengths[first : first + width] = [length + 1 for length in held]
