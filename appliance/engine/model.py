"""Runs the model's ONNX graph: prefill of one slot, decode of several together. The only importer of onnxruntime.

The graph's contract is docs/architecture.md, "The ONNX graph". Key/value caches are allocated once, for every slot, and
bound in place, so nothing is ever copied. On a CPU one step takes the next token of any slots and a part of another's
prompt together, so that weights are read once for all. On CUDA those are two steps; decode steps are captured and
replayed (cuda.py).

Not thread-safe: one thread owns the model. What each slot holds is the caller's to know (slots.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.cache_memory import CHUNK_TOKENS, Caches, CacheShape
from appliance.engine.cuda import (
    NOT_CAPTURED,
    ChunkPlanner,
    CudaError,
    ReplayedSteps,
    decode_widths,
    plan_decode,
    query_device,
    require_capable,
)
from appliance.engine.host import available_memory_bytes, physical_cores
from appliance.engine.memory_needs import ENGINE_BYTES, weights_bytes
from appliance.engine.operators import load_operators
from appliance.engine.packed_weights import PackedWeights, load_packing, open_packed
from appliance.engine.sampling import TopLogits, row_of
from appliance.engine.slots import Append, Chunk
from appliance.errors import ApplianceError
from installer.formats.fields import FormatError
from installer.formats.graph import parse_graph_facts

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# CUDA: graphs can be captured, which also refuses a session in which a node would run on the CPU; memory is taken as it
# is asked for, not in powers of two.
_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "cpu": {},
    "cuda": {"enable_cuda_graph": "1", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"},
}
_CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_RESULTS = ("top_logits", "top_ids", "logsumexp", "logits")
_RING = "W"  # the graph's name for the capacity of a windowed layer
_CUDA_HEADROOM_BYTES = 256 << 20  # activations of a decode step


class ModelError(ApplianceError):
    """The model cannot be loaded or run as asked."""


@dataclass(frozen=True)
class ModelShape:
    """What the graph's metadata and inputs say."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    cache: CacheShape


def import_onnxruntime() -> ModuleType:
    """onnxruntime without its telemetry, which official builds since 1.29 send unless this is set before the import."""
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        raise RuntimeError("internal error: onnxruntime was imported elsewhere, with its telemetry on")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # type: ignore[import-untyped]

    module: ModuleType = onnxruntime
    return module


def _require_cuda(ort: ModuleType) -> None:
    """Refuse a machine or an installation on which the graph would not run, or not as exported.

    Raises:
        ModelError: with what is missing and what to do.
    """
    if _PROVIDERS["cuda"] not in ort.get_available_providers():
        raise ModelError(
            "this installation of ONNX Runtime cannot run on cuda: install the release built with --accelerator cuda, "
            "or set engine.accelerator to cpu"
        )
    try:
        require_capable(ort.get_build_info(), query_device().capability)
    except CudaError as exc:
        raise ModelError(str(exc)) from exc
    ort.preload_dlls()  # CUDA and cuDNN from the packages installed beside it


def _cpu_chunk(past: int, length: int) -> range:
    return range(past, min(length, past + CHUNK_TOKENS["cpu"]))


def load_model(
    graph: Path, *, accelerator: str, slots: int, context_tokens: int, packed_dir: Path | None = None,
    profile: Path | None = None,
) -> OnnxModel:  # fmt: skip
    """Load a graph and allocate caches for ``slots`` conversations of ``context_tokens`` each.

    Args:
        packed_dir: where the CPU's packed weights are kept between starts; None: packed into memory of this process.
        profile: beginning of the name of a file of what each node takes, written by ``end_profile``.
    Raises:
        PackingError: the packed weights cannot be made or kept.
        ModelError: a file is missing or is not such a graph, the accelerator is not to be had, the context is longer
            than the model's, or memory will not do.
    """
    if not graph.is_file():
        raise ModelError(f"{graph}: no such graph")
    ort = import_onnxruntime()
    if accelerator == "cuda":
        _require_cuda(ort)
    needed, available = weights_bytes(graph, accelerator), free_memory_bytes(accelerator)
    _check_memory(needed, available, "the model's weights", "choose a smaller model")
    packed = None
    options = ort.SessionOptions()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if accelerator == "cpu":
        session, packed = _open_cpu_session(ort, graph, options, packed_dir)
    else:
        session = _open_session(ort, graph, accelerator, options)
    shape = _shape_of(session, graph, accelerator)
    if context_tokens > shape.context:
        raise ModelError(f"context_tokens is {context_tokens}, but the model reaches only {shape.context}")
    if accelerator == "cpu":  # the pages of mapped weights count as free; they are not
        needed += ENGINE_BYTES
    else:  # what the weights left
        needed, available = _CUDA_HEADROOM_BYTES, free_memory_bytes(accelerator)
    _check_memory(
        needed + slots * shape.cache.slot_bytes(context_tokens),
        available,
        f"{slots} conversations of {context_tokens} tokens",
        "set engine.slots or engine.context_tokens lower",
    )
    return OnnxModel(ort, session, shape, accelerator=accelerator, slots=slots, capacity=context_tokens, packed=packed)


def _open_cpu_session(
    ort: ModuleType, graph: Path, options: Any, packed_dir: Path | None
) -> tuple[Any, PackedWeights | None]:
    """A session with the native operators, and the packed weights that must outlive it."""
    operators = load_operators()
    threads = physical_cores()
    operators.set_threads(threads)
    packed = None
    if packed_dir is not None:
        packed = open_packed(load_packing(graph.parent), graph.parent, packed_dir, operators, threads=threads)
        packed.offer(operators)
    options.register_custom_ops_library(operators.path)
    try:
        return _open_session(ort, graph, "cpu", options), packed
    finally:
        operators.withdraw_offers()


def _open_session(ort: ModuleType, graph: Path, accelerator: str, options: Any) -> Any:
    provider = _PROVIDERS[accelerator]
    options.intra_op_num_threads = physical_cores()
    options.log_severity_level = 3  # errors
    # Nodes over constants alone are computed once, at load, however large the result (bundler/graph relies on it).
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "0")
    if accelerator == "cuda":  # so that expert weights are given back once the kernels have theirs
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    try:
        session = ort.InferenceSession(str(graph), options, providers=[(provider, _PROVIDER_OPTIONS[accelerator])])
    except _runtime_errors(ort) as exc:
        raise ModelError(f"{graph}: cannot be loaded: {_first_line(exc)}") from exc
    if session.get_providers()[0] != provider:  # ONNX Runtime falls back to the CPU without a word
        raise ModelError(f"{provider} is installed but does not work on this machine (driver or GPU missing?)")
    return session


def _shape_of(session: Any, graph: Path, accelerator: str) -> ModelShape:
    try:
        facts = parse_graph_facts(session.get_modelmeta().custom_metadata_map, accelerator)
    except FormatError as exc:
        raise ModelError(f"{graph}: {exc}") from exc
    try:
        inputs = {node.name: node for node in session.get_inputs()}
        keys = [inputs[f"past_key_values.{layer}.key"] for layer in range(facts.layers)]
        item: np.dtype[Any] = np.dtype(_CACHE_TYPES[keys[0].type])
    except (KeyError, ValueError, IndexError) as exc:
        raise ModelError(f"{graph}: its inputs are incomplete: {exc}") from exc
    windowed = frozenset(layer for layer, node in enumerate(keys) if node.shape[2] == _RING)
    chunk = CHUNK_TOKENS[accelerator]
    cache = CacheShape(facts.layers, facts.kv_heads, facts.head_dim, item, windowed, facts.window, chunk)
    return ModelShape(facts.layers, facts.heads, facts.kv_heads, facts.head_dim, facts.vocab, facts.context, cache)


def _free_device_bytes() -> int:
    return query_device().free_bytes


_MEMORY: dict[str, Callable[[], int]] = {"cpu": available_memory_bytes, "cuda": _free_device_bytes}


def free_memory_bytes(accelerator: str) -> int:
    """Memory that weights and caches can take: the host's, or the GPU's."""
    return _MEMORY[accelerator]()


def _check_memory(needed_bytes: int, available: int, what: str, advice: str) -> None:
    if needed_bytes > available:
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
        self, ort: ModuleType, session: Any, shape: ModelShape, *, accelerator: str, slots: int, capacity: int,
        packed: PackedWeights | None, device: str | None = None,
    ) -> None:  # fmt: skip
        """``device``: whose memory the caches and results are in; default: the accelerator's."""
        self.shape = shape
        self.accelerator = accelerator
        self.slots = slots
        self.capacity = capacity
        self.threads: int = session.get_session_options().intra_op_num_threads
        self._device = device or accelerator
        self._session = session
        self._packed = packed  # the session reads these pages
        self._errors = _runtime_errors(ort)
        self._binding = session.io_binding()
        self._bind_results()  # before the caches, so that these are the first outputs
        self._caches = Caches(ort, shape.cache, device=self._device, slots=slots, capacity=capacity)
        self.windows = self._caches.windows
        self.mixes = self.lends = accelerator == "cpu"
        self.set_aside = self._caches.set_aside  # a CPU's; see there
        self.take_over = self._caches.take_over
        self._bound_slots = range(0)
        self._run_options = ort.RunOptions()
        self._plan_chunk = _cpu_chunk
        self._replayed: ReplayedSteps | None = None
        if accelerator == "cuda":
            self._held = [0] * slots  # at least what each slot holds
            self._decode_widths = decode_widths(slots)
            processors = query_device().processors
            self._plan_chunk = ChunkPlanner(shape.heads, shape.kv_heads, processors, CHUNK_TOKENS["cuda"]).plan
            self._run_options.add_run_config_entry("gpu_graph_id", NOT_CAPTURED)
            top = next(node.shape[1] for node in session.get_outputs() if node.name == "top_ids")
            self._replayed = ReplayedSteps(
                ort, session, slots=slots, capacity=capacity, vocab=shape.vocab, top=top,
                bind_caches=self._caches.bind, device=self._device,
            )  # fmt: skip

    def end_profile(self) -> Path:
        """Write the profile asked for at loading: ONNX Runtime's, one JSON array of events."""
        return Path(self._session.end_profiling())

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range:
        """The places of a prompt of ``length`` that the next prefill step takes when ``past`` are held.

        It may begin before ``past``: those are computed again. On a CPU it takes ``most`` tokens at most: there a token
        gets the same bits however its prompt is cut. On CUDA, where it does not, the cut depends on nothing but the
        first two: a turn that has the machine to itself must give the same tokens again.
        """
        if self.accelerator == "cpu" and most is not None:
            return self._plan_chunk(past, min(length, past + most))
        return self._plan_chunk(past, length)

    def prefill(
        self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool, as_decoded: bool = False
    ) -> TopLogits | None:
        """Append ``tokens`` to a slot that holds ``past``; the value is the last token's logits, if wanted.

        ``as_decoded``: on a CPU with the products of decoded tokens, which round less.

        Raises:
            ModelError: the runtime failed; what the slot holds is then unknown.
        """
        if self.mixes:
            return self.step((), Chunk(slot, tokens, past, want_logits, as_decoded))[1]
        total = self._held[slot] = past + len(tokens)
        self._require_room(total)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.array([tokens], np.int64),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
        }
        # CUDA kernels are not asked for empty results: a row of logits takes 0.3 ms.
        (top,) = self._run(range(slot, slot + 1), inputs, [len(tokens) - 1])
        return top if want_logits else None

    def read(
        self, slot: int, prompt: Sequence[int], past: int = 0, *, most: int | None = None, as_decoded: bool = False
    ) -> TopLogits:
        """Append a prompt, of which the slot holds the first ``past``, chunk by chunk; the value is its last token's
        logits. Arguments and errors as ``prefill``'s."""
        while True:
            chunk = self.plan_chunk(past, len(prompt), most)
            last = chunk.stop == len(prompt)
            tokens = prompt[chunk.start : chunk.stop]
            top = self.prefill(slot, tokens, chunk.start, want_logits=last, as_decoded=as_decoded)
            if top is not None:
                return top
            past = chunk.stop

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        """Append one token to each of some slots; the values are their logits, in the same order.

        ``all_logits`` of a value must be called before the next step.

        Raises:
            ModelError: the runtime failed; what the slots hold is then unknown.
        """
        if self._replayed is None:
            return self.step(appends)[0]
        self._require_room(max(append.length for append in appends) + 1)
        run = plan_decode(appends, self._held, self._decode_widths)
        for append in appends:
            self._held[append.slot] = append.length + 1
        try:
            return self._replayed.run(run)
        except self._errors as exc:
            raise ModelError(f"the model could not be run: {_first_line(exc)}") from exc

    def step(self, appends: Sequence[Append], chunk: Chunk | None = None) -> tuple[list[TopLogits], TopLogits | None]:
        """On a CPU: ``decode`` and ``prefill`` at once, of different slots; each token gets the bits it gets there.

        Raises:
            ModelError: the runtime failed; what the chunk's slot holds is then unknown, the others as long as before.
        """
        tokens, slots = [append.token for append in appends], [append.slot for append in appends]
        positions, rows = [append.length for append in appends], list(range(len(appends)))
        decoded = len(appends)
        if chunk is not None:
            decoded += len(chunk.tokens) * chunk.as_decoded
            tokens += chunk.tokens
            slots += [chunk.slot] * len(chunk.tokens)
            positions += range(chunk.past, chunk.past + len(chunk.tokens))
            rows += [len(tokens) - 1] * chunk.want_logits
        self._require_room(max(positions) + 1)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.array(tokens, np.int64),
            "token_slots": np.array(slots, np.int32),
            "token_positions": np.array(positions, np.int32),
            "decoded_tokens": np.array(decoded, np.int64),
        }
        tops = self._run(range(self.slots), inputs, rows)
        return tops[: len(appends)], tops[-1] if chunk is not None and chunk.want_logits else None

    def _require_room(self, total: int) -> None:
        if total > self.capacity:
            raise RuntimeError(f"internal error: {total} tokens for a capacity of {self.capacity}")

    def _run(self, slots: range, inputs: dict[str, NDArray[Any]], rows: Sequence[int]) -> list[TopLogits]:
        """One run over the caches of these slots; the values are the logits of ``rows``, of the step's tokens."""
        binding = self._binding
        if self._bound_slots != slots:
            self._caches.bind(binding, slots.start, len(slots))
            self._bound_slots = slots
        self._bind_results()
        for name, array in {**inputs, "logit_rows": np.array(rows, np.int64)}.items():
            binding.bind_cpu_input(name, array)
        try:
            self._session.run_with_iobinding(binding, self._run_options)
        except self._errors as exc:
            raise ModelError(f"the model could not be run: {_first_line(exc)}") from exc
        *small, logits = binding.get_outputs()[: len(_RESULTS)]
        top_logits, top_ids, logsumexp = (output.numpy() for output in small)
        return [
            TopLogits(top_ids[i], top_logits[i], float(logsumexp[i]), self.shape.vocab, row_of(logits, i))
            for i in range(len(rows))
        ]

    def _bind_results(self) -> None:
        """Bound anew for each run, for their shapes change; all logits stay where they are computed."""
        for name in _RESULTS:
            self._binding.bind_output(name, self._device if name == "logits" else "cpu")
