"""Runs the model's ONNX graph: prefill of one slot, decode of several together. The only importer of onnxruntime.

The graph's contract is docs/architecture.md, "The ONNX graph". Key/value caches are allocated once, for every slot, and
bound in place: a step of slots lo..hi-1 binds the addresses of those rows, so nothing is ever copied.

Not thread-safe: one thread owns the model. What each slot holds is the caller's to know (kv_cache.py).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.host import available_memory_bytes, physical_cores
from appliance.engine.kv_cache import DecodeRun
from appliance.engine.sampling import TopLogits
from appliance.errors import ApplianceError

GRAPH_FORMAT = "1"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# The router stays float32 on CUDA too: TF32 would round what it multiplies to 10 bits.
_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
_CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_RESULTS = ("top_logits", "top_ids", "logsumexp", "logits")
# Prompt tokens a step takes. On a CPU 128 keep the others' streams from standing still for long, and already use each
# expert's weights several times; a GPU is done with 1,024 as soon.
_CPU_CHUNK_TOKENS, _CUDA_CHUNK_TOKENS = 128, 1024
# The CPU's attention keeps chunk x total scores per head: 64 heads x 2^18 x 4 B = 64 MB. A 512-token chunk at past
# 3,584 takes 0.45 GB (measured).
_MAX_CHUNK_SCORES = 1 << 18
_MIN_CHUNK_TOKENS = 16
_HEADROOM_BYTES = 256 << 20  # activations and the runtime itself


class ModelError(ApplianceError):
    """The model cannot be loaded or run as asked."""


@dataclass(frozen=True)
class ModelShape:
    """What the graph's metadata says. ``cache_bytes`` is one token's keys and values over all layers."""

    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    cache_bytes: int


def import_onnxruntime() -> ModuleType:
    """onnxruntime, never without the settings that must stand before its import.

    ORT_DISABLE_TELEMETRY: official builds since 1.29 send telemetry by default. ORT_QMOE_CPU_QNBIT_GEMM=fp32: the CPU's
    8-bit expert layer is exact only so.
    """
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        raise RuntimeError("internal error: onnxruntime was imported elsewhere, with its telemetry on")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ["ORT_QMOE_CPU_QNBIT_GEMM"] = "fp32"
    import onnxruntime  # type: ignore[import-untyped]

    module: ModuleType = onnxruntime
    return module


def chunk_tokens(accelerator: str, past: int) -> int:
    """How many prompt tokens one prefill step takes after ``past`` tokens.

    Of nothing else, the load least of all: where a prompt is cut decides the last bits of its logits, and a turn that
    has the machine to itself must give the same tokens again.
    """
    if accelerator == "cuda":
        return _CUDA_CHUNK_TOKENS
    largest = (math.isqrt(past * past + 4 * _MAX_CHUNK_SCORES) - past) // 2  # chunk * (past + chunk) = the limit
    return max(_MIN_CHUNK_TOKENS, min(_CPU_CHUNK_TOKENS, largest))


def load_model(graph: Path, *, accelerator: str, slots: int, context_tokens: int) -> OnnxModel:
    """Load a graph and allocate caches for ``slots`` conversations of ``context_tokens`` each.

    Raises:
        ModelError: a file is missing or is not such a graph, the accelerator is not to be had, the context is longer
            than the model's, or memory will not do.
    """
    if not graph.is_file():
        raise ModelError(f"{graph}: no such graph")
    ort = import_onnxruntime()
    provider = _PROVIDERS.get(accelerator, "such provider")
    if provider not in ort.get_available_providers():
        raise ModelError(f"this installation of ONNX Runtime cannot run on {accelerator}: no {provider}")
    weights_bytes = sum(file.stat().st_size for file in graph.parent.iterdir() if file.is_file())
    if accelerator == "cpu":
        # Dense weights widen from bfloat16 to float32 and experts from 4 to 8 bits as they are loaded.
        _check_memory(2 * weights_bytes, "the model's weights", "choose a smaller model")
    session = _open_session(ort, graph, provider, _PROVIDER_OPTIONS[accelerator])
    shape = _shape_of(session, graph, accelerator)
    if context_tokens > shape.context:
        raise ModelError(f"context_tokens is {context_tokens}, but the model reaches only {shape.context}")
    if accelerator == "cpu":
        _check_memory(
            slots * context_tokens * shape.cache_bytes,
            f"{slots} conversations of {context_tokens} tokens",
            "set engine.slots or engine.context_tokens lower",
        )
    return OnnxModel(ort, session, shape, accelerator=accelerator, slots=slots, capacity=context_tokens)


def _open_session(ort: ModuleType, graph: Path, provider: str, provider_options: dict[str, str]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = physical_cores()
    options.log_severity_level = 3  # errors
    # Nodes over constants alone are computed once, at load, however large the result (bundler/graph.py relies on it).
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "0")
    try:
        session = ort.InferenceSession(str(graph), options, providers=[(provider, provider_options)])
    except _runtime_errors(ort) as exc:
        raise ModelError(f"{graph}: cannot be loaded: {_first_line(exc)}") from exc
    if session.get_providers()[0] != provider:  # ONNX Runtime falls back to the CPU without a word
        raise ModelError(f"{provider} is installed but does not work on this machine (driver or GPU missing?)")
    return session


def _shape_of(session: Any, graph: Path, accelerator: str) -> ModelShape:
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    if metadata.get("gpt_oss.format") != GRAPH_FORMAT or metadata.get("gpt_oss.accelerator") != accelerator:
        raise ModelError(f"{graph}: is not a gpt-oss graph of format {GRAPH_FORMAT} for {accelerator}")
    try:
        layers, kv_heads, head_dim, vocab, context = (
            int(metadata[f"gpt_oss.{name}"]) for name in ("layers", "kv_heads", "head_dim", "vocab", "context")
        )
        types = {node.name: node.type for node in session.get_inputs()}
        item_bytes = np.dtype(_CACHE_TYPES[types["past_key_values.0.key"]]).itemsize
    except (KeyError, ValueError) as exc:
        raise ModelError(f"{graph}: its metadata or inputs are incomplete: {exc}") from exc
    return ModelShape(layers, kv_heads, head_dim, vocab, context, 2 * layers * kv_heads * head_dim * item_bytes)


def _check_memory(needed_bytes: int, what: str, advice: str) -> None:
    available = available_memory_bytes()
    if needed_bytes + _HEADROOM_BYTES > available:
        raise ModelError(
            f"not enough memory for {what}: {needed_bytes / 1e9:.1f} GB are needed, {available / 1e9:.1f} GB are free; "
            f"free some, or {advice}"
        )


def _runtime_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions; they have no common root of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0][:300]


class OnnxModel:
    """A loaded graph and its caches."""

    def __init__(
        self, ort: ModuleType, session: Any, shape: ModelShape, *, accelerator: str, slots: int, capacity: int
    ) -> None:
        self.shape = shape
        self.accelerator = accelerator
        self.slots = slots
        self.capacity = capacity
        self.threads: int = session.get_session_options().intra_op_num_threads
        self._session = session
        self._errors = _runtime_errors(ort)
        self._binding = session.io_binding()
        self._bind_results()  # before the caches, so that these are the first outputs
        cache_type = next(n.type for n in session.get_inputs() if n.name == "past_key_values.0.key")
        self._dtype = np.dtype(_CACHE_TYPES[cache_type])
        row = (shape.kv_heads, capacity, shape.head_dim)
        self._row_shape = row
        self._row_bytes = math.prod(row) * self._dtype.itemsize
        # Zeroed: whatever is read before it was written must at least be a number. On CPU the pages come with use.
        self._caches = {
            f"{layer}.{part}": ort.OrtValue.ortvalue_from_numpy(np.zeros((slots, *row), self._dtype), accelerator, 0)
            for layer in range(shape.layers)
            for part in ("key", "value")
        }
        self._bound_rows: tuple[int, int] | None = None

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None:
        """Append ``tokens`` to a slot that holds ``past``; the value is the last token's logits, if wanted.

        Raises:
            ModelError: the runtime failed; what the slot holds is then unknown.
        """
        rows = [len(tokens) - 1] if want_logits else []
        results = self._run(slot, np.array([tokens], np.int64), [past + len(tokens)], rows)
        return results[0] if want_logits else None

    def decode(self, run: DecodeRun) -> list[TopLogits]:
        """Append one token to each slot of the run; the values are the logits of its ``rows``, in their order.

        Raises:
            ModelError: the runtime failed; what the run's slots hold is then unknown.
        """
        tokens = np.array(run.tokens, np.int64)[:, np.newaxis]
        return self._run(run.first, tokens, [length + 1 for length in run.lengths], run.rows)

    def _run(
        self, first: int, tokens: NDArray[np.int64], totals: Sequence[int], rows: Sequence[int]
    ) -> list[TopLogits]:
        if max(totals) > self.capacity:
            raise RuntimeError(f"internal error: {max(totals)} tokens for a capacity of {self.capacity}")
        binding = self._binding
        self._bind_caches(first, len(tokens))
        self._bind_results()
        inputs = {
            "input_ids": tokens,
            "seqlens_k": np.array(totals, np.int32) - np.int32(1),
            "total_sequence_length": np.array(max(totals), np.int32),
            "logit_rows": np.array(rows, np.int64),
        }
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        try:
            self._session.run_with_iobinding(binding)
        except self._errors as exc:
            raise ModelError(f"the model could not be run: {_first_line(exc)}") from exc
        *small, logits = binding.get_outputs()[: len(_RESULTS)]
        top_logits, top_ids, logsumexp = (output.numpy() for output in small)
        return [
            TopLogits(top_ids[i], top_logits[i], float(logsumexp[i]), self.shape.vocab, _row_of(logits, i))
            for i in range(len(rows))
        ]

    def _bind_results(self) -> None:
        """Bound anew for each run, for their shapes change; all logits stay where they are computed."""
        for name in _RESULTS:
            self._binding.bind_output(name, self.accelerator if name == "logits" else "cpu")

    def _bind_caches(self, first: int, count: int) -> None:
        if self._bound_rows == (first, count):
            return
        shape = [count, *self._row_shape]
        for name, cache in self._caches.items():
            address = cache.data_ptr() + first * self._row_bytes
            place = (self.accelerator, 0, self._dtype.type, shape, address)
            self._binding.bind_input(f"past_key_values.{name}", *place)
            self._binding.bind_output(f"present.{name}", *place)
        self._bound_rows = (first, count)


def _row_of(logits: Any, row: int) -> Callable[[], NDArray[np.float32]]:
    """Fetches one row of an output that stays where it was computed."""

    def fetch() -> NDArray[np.float32]:
        one: NDArray[np.float32] = logits.numpy()[row]
        return one

    return fetch
