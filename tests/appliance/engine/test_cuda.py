"""What CUDA needs, as far as a machine without a GPU can tell: refusals, chunks, runs of slots, replayed steps.

tests/gpu runs the rest.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.config import Config
from appliance.engine.model import ModelError, device
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.cuda import ChunkPlanner, CudaModel
from appliance.engine.model.device import CudaError, query_device, require_capable
from appliance.engine.model.load import load_model
from appliance.engine.model.replay import DecodeRun, decode_widths, plan_decode
from appliance.engine.model.runtime import import_onnxruntime
from appliance.engine.model.shape import shape_of
from appliance.engine.sampling import TopLogits
from appliance.engine.startup import plan_engine
from appliance.engine.steps import Append
from appliance.errors import ApplianceError
from appliance.installed_release import InstalledRelease
from bundler.checkpoint import open_checkpoint
from bundler.export import export_graph
from bundler.random_checkpoint import random_config, write_random_checkpoint
from tests.bundler.cuda_on_cpu import with_8_bit_experts
from tests.bundler.onnx_model import open_session

Logits = NDArray[np.float32]
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
    monkeypatch.setattr(device, "_DRIVER", "libcuda-that-is-not-there.so.1")
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
    assert query_device() == device.Device((9, 0), 132, 5 << 30)


def test_a_driver_without_a_device_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: _Driver(100))
    with pytest.raises(CudaError, match=r"refuses cuInit \(error 100\)"):
        query_device()


def test_loading_passes_the_refusal_on(small_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = import_onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(device, "_DRIVER", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ModelError, match="no NVIDIA driver is installed"):
        load_model(small_graph, accelerator="cuda", slots=1, context_tokens=64)


def test_an_engine_without_a_driver_is_refused_in_words_before_it_loads(
    release: InstalledRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of memory asks the driver first; its refusal was a traceback, and the engine was started again."""
    monkeypatch.setattr(device, "_DRIVER", "libcuda-that-is-not-there.so.1")
    config = Config(home=tmp_path, release_dir=release.path, database_url="sqlite://", accelerator="cuda")
    with pytest.raises(ApplianceError, match="no NVIDIA driver is installed"):
        plan_engine(config, replace(release, graphs={"cuda": release.graphs["cpu"]}))


@pytest.mark.parametrize(("slots", "widths"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 4, 5)), (8, (1, 2, 4, 8))])
def test_decode_steps_have_few_widths(slots: int, widths: tuple[int, ...]) -> None:
    assert decode_widths(slots) == widths


def test_a_run_of_slots_takes_the_next_width_and_stays_within_the_slots() -> None:
    held = [10, 11, 12, 13, 14, 15, 16, 17]
    run = plan_decode([Append(4, 9, 14), Append(2, 7, 8)], held, decode_widths(8))
    assert run == DecodeRun(2, [7, 7, 9, 7], [8, 13, 14, 15], [2, 0])  # in the order asked for
    run = plan_decode([Append(5, 7, 15), Append(7, 9, 17)], held, decode_widths(8))
    assert run == DecodeRun(4, [7, 7, 7, 9], [14, 15, 16, 17], [1, 3])
    assert plan_decode([Append(3, 1, 13)], held, decode_widths(8)) == DecodeRun(3, [1], [13], [0])


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


@pytest.fixture
def half(tmp_path: Path) -> OnnxModel:
    """The model exported for CUDA, on a CPU: nothing is captured; buffers, addresses, runs and rows are the same."""
    config = random_config(
        layers=3, hidden=64, intermediate=64, experts=4, experts_per_token=4, heads=4, kv_heads=2, head_dim=16,
        vocab=1000, sliding_window=8, context=512,
    )  # fmt: skip
    write_random_checkpoint(tmp_path / "checkpoint", config, seed=2)
    graph = export_graph(open_checkpoint(tmp_path / "checkpoint"), tmp_path / "cuda", accelerator="cuda")
    session = open_session(with_8_bit_experts(graph, tmp_path / "model.onnx"))
    shape = shape_of(session, graph.model, "cuda", "float16")
    ort = import_onnxruntime()
    return CudaModel(ort, session, shape, slots=5, capacity=128, processors=132, device="cpu")


def test_conversations_that_come_and_go_are_decoded_in_runs_as_each_is_alone(half: OnnxModel) -> None:
    """Idle slots within a run get garbage where it does no harm, also while a prompt is being read into them."""
    rng = np.random.default_rng(4)
    texts = [[int(i) for i in rng.integers(0, 1000, 40)] for _ in range(5)]
    alone: list[list[Logits]] = []
    for text in texts:
        half.prefill_prompt(0, text[:10])
        alone.append([logits_of(half.decode([Append(0, text[at], at)])[0]) for at in range(10, 40)])
    held, compared = [0] * 5, 0
    for step in range(80):
        if step < 5 or rng.random() < 0.1:
            held[step % 5] = 0  # a slot begins its conversation anew, part by part
        decoding = [slot for slot in (3, 1, 4, 0, 2) if 10 <= held[slot] < 40 and rng.random() < 0.7]
        if decoding:
            tops = half.decode([Append(slot, texts[slot][held[slot]], held[slot]) for slot in decoding])
            for slot, logits in zip(decoding, [logits_of(top) for top in tops], strict=True):
                expected = alone[slot][held[slot] - 10]
                assert np.abs(logits - expected).max() < 1e-2 * np.abs(expected).max()
                held[slot] += 1
                compared += 1
        for slot in [slot for slot in range(5) if held[slot] < 10]:
            part = texts[slot][held[slot] : held[slot] + 4][: 10 - held[slot]]
            half.prefill(slot, part, held[slot], want_logits=False)
            held[slot] += len(part)
    assert compared > 100


def logits_of(top: TopLogits) -> Logits:
    return top.all_logits().copy()  # on a CPU a view of what the next step overwrites


def test_what_a_step_replayed_gives_is_the_top_of_all_its_logits(half: OnnxModel) -> None:
    for slot in range(5):
        half.prefill(slot, list(range(slot, slot + 20)), 0, want_logits=False)
    for top in half.decode([Append(slot, 7, 20) for slot in (4, 0, 2)]):
        every = top.all_logits()
        np.testing.assert_array_equal(every[top.ids], top.logits)
        assert top.logits[0] == every.max()
        assert top.logsumexp == pytest.approx(float(np.log(np.exp(every.astype(np.float64)).sum())), abs=1e-5)
