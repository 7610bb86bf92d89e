"""The model on CUDA. A step prefills a chunk of one slot's prompt or decodes. Decode steps are replayed (replay.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.cache_memory import CHUNK_TOKENS
from appliance.engine.model import ModelError
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.device import query_device, require_capable
from appliance.engine.model.replay import NOT_CAPTURED, ReplayedSteps, decode_widths, plan_decode
from appliance.engine.model.runtime import first_line, open_session
from appliance.engine.model.shape import ModelShape
from appliance.engine.sampling import TopLogits
from appliance.engine.steps import Append

_PROVIDER = "CUDAExecutionProvider"
# With graph capture a session in which a node would run on the CPU is refused, too. Memory is taken as it is asked for,
# not in powers of two.
_PROVIDER_OPTIONS = {"enable_cuda_graph": "1", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}


def require_cuda(ort: ModuleType) -> None:
    """Refuse a machine or an installation on which the graph would not run, or not as exported.

    Raises:
        ModelError: it names what is missing and what to do.
    """
    if _PROVIDER not in ort.get_available_providers():
        raise ModelError(
            "this installation of ONNX Runtime cannot run on cuda: install the release built with --accelerator cuda, "
            "or set engine.accelerator to cpu"
        )
    require_capable(ort.get_build_info(), query_device().capability)
    ort.preload_dlls()  # CUDA and cuDNN from the packages installed beside it


def open_cuda_session(ort: ModuleType, graph: Path, options: Any) -> Any:
    """A session on the first GPU.

    Raises:
        ModelError: the graph cannot be loaded, or CUDA does not work.
    """
    # Expert weights are given back once ONNX Runtime's kernels have their own form of them.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return open_session(ort, graph, options, _PROVIDER, _PROVIDER_OPTIONS)


@dataclass(frozen=True)
class ChunkPlanner:
    """Cuts prompts so that attention never splits the keys of one query among multiprocessors.

    Where a chunk alone would leave multiprocessors idle, flash attention in ONNX Runtime 1.31 gives each query's keys
    to several of them in parts of 256, and each part adds the sink to its sum. The result is wrong by as much as 20 %
    (measured on an H200 against float64; every worst row is behind key 256, and one-token steps, which run another
    kernel, are right). Keys are not split where the heads and the queries, 64 at a time, fill four fifths of the
    multiprocessors; after a past, key/value heads count instead of heads. So a chunk that is too small begins earlier,
    and what the cache holds there is computed again. Where even that is too small, tokens are computed one by one.
    """

    heads: int
    kv_heads: int
    processors: int
    chunk_tokens: int

    def plan(self, past: int, length: int) -> range:
        """The tokens of a prompt of ``length`` to compute next when ``past`` are held; at least one is new."""
        end = min(length, past + self.chunk_tokens)
        if self._is_whole(past, end):
            return range(past, end)
        queries = 64 * (math.ceil(self._blocks_needed() / self.kv_heads) - 1) + 1
        start = max(0, end - queries)
        return range(start, end) if self._is_whole(start, end) else range(past, past + 1)

    def _is_whole(self, start: int, end: int) -> bool:
        if end <= 256 or end - start == 1:
            return True
        return (self.kv_heads if start else self.heads) * math.ceil((end - start) / 64) >= self._blocks_needed()

    def _blocks_needed(self) -> float:
        return 0.8 * self.processors


class CudaModel(OnnxModel):
    """A graph for CUDA. The caches of the slot that is prefilled are bound when it changes."""

    accelerator = "cuda"
    arithmetic = "cuda"

    def __init__(
        self, ort: ModuleType, session: Any, shape: ModelShape, *, slots: int, capacity: int, processors: int,
        device: str = "cuda",
    ) -> None:  # fmt: skip
        """``processors``: the GPU's multiprocessors. ``device``: where the session runs; "cpu" captures nothing."""
        super().__init__(ort, session, shape, slots=slots, capacity=capacity, device=device)
        self._run_options.add_run_config_entry("gpu_graph_id", NOT_CAPTURED)
        self._planner = ChunkPlanner(shape.heads, shape.kv_heads, processors, CHUNK_TOKENS["cuda"])
        self._held = [0] * slots  # at least what each slot holds
        self._widths = decode_widths(slots)
        self._bound_slot: int | None = None
        top = next(node.shape[1] for node in session.get_outputs() if node.name == "top_ids")
        self._replayed = ReplayedSteps(
            ort, session, slots=slots, capacity=capacity, vocab=shape.vocab, top=top, bind_caches=self._caches.bind,
            device=device,
        )  # fmt: skip

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range:
        """The chunk may begin before ``past``: those tokens are computed again.

        ``most`` is ignored. On CUDA a token's bits depend on how its prompt is cut, and a turn that has the machine to
        itself must give the same tokens again. So the cut depends on nothing but ``past`` and ``length``.
        """
        return self._planner.plan(past, length)

    def prefill(
        self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool, as_decoded: bool = False
    ) -> TopLogits | None:
        total = self._held[slot] = past + len(tokens)
        self._require_room(total)
        if self._bound_slot != slot:
            self._caches.bind(self._binding, slot, 1)
            self._bound_slot = slot
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.array([tokens], np.int64),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
        }
        # A row of logits is always computed (0.3 ms), so that no kernel is asked for an empty result.
        (top,) = self._run(inputs, [len(tokens) - 1])
        return top if want_logits else None

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        self._require_room(max(append.length for append in appends) + 1)
        run = plan_decode(appends, self._held, self._widths)
        for append in appends:
            self._held[append.slot] = append.length + 1
        try:
            return self._replayed.run(run)
        except self._errors as exc:
            raise ModelError(f"the model could not be run: {first_line(exc)}") from exc
