"""Loads a graph: refuses what cannot run here or does not fit into memory, before it takes time or memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appliance.config import CacheItem, Config
from appliance.engine.host import available_memory_bytes
from appliance.engine.memory_needs import ENGINE_BYTES, weights_bytes
from appliance.engine.model import ModelError
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.cpu import CpuModel, open_cpu_session
from appliance.engine.model.cuda import CudaModel, open_cuda_session, require_cuda
from appliance.engine.model.device import query_device
from appliance.engine.model.runtime import import_onnxruntime, new_options
from appliance.engine.model.shape import ModelShape, shape_of

_CUDA_HEADROOM_BYTES = 256 << 20  # activations of a decode step


def load_model(
    graph: Path, *, accelerator: str, slots: int, context_tokens: int, cache_bytes: int | None = None,
    packed_dir: Path | None = None, cache: CacheItem = Config.cache, profile: Path | None = None,
) -> OnnxModel:  # fmt: skip
    """Load a graph, with caches for ``slots`` conversations of up to ``context_tokens`` each.

    Args:
        cache_bytes: on a CPU, what the caches may take together; None: what they take when all are full.
        packed_dir: where the CPU's packed weights are kept between starts; None: packed into this process's memory.
        cache: the type of the numbers in a CPU's caches; CUDA's hold float16.
        profile: how the name of the file begins that ``end_profile`` writes, with the time of each node.
    Raises:
        PackingError: the packed weights cannot be made or kept.
        ModelError: a file is missing or is not such a graph, the accelerator does not work here, the context is longer
            than the model's, or there is too little memory.
    """
    if not graph.is_file():
        raise ModelError(f"{graph}: no such graph")
    ort = import_onnxruntime()
    if accelerator == "cuda":
        require_cuda(ort)
    weights, free = weights_bytes(graph, accelerator), free_memory_bytes(accelerator)
    _check_memory(weights, free, "the model's weights", "choose a smaller model")
    options = new_options(ort, profile)
    if accelerator == "cuda":
        session = open_cuda_session(ort, graph, options)
        shape = shape_of(session, graph, accelerator, "float16")
        _check_room(shape, slots, context_tokens, _CUDA_HEADROOM_BYTES, free_memory_bytes(accelerator))
        processors = query_device().processors
        return CudaModel(ort, session, shape, slots=slots, capacity=context_tokens, processors=processors)
    session, packed = open_cpu_session(ort, graph, options, packed_dir)
    shape = shape_of(session, graph, accelerator, cache)
    # The pages of mapped weights count as free memory, but must stay.
    _check_room(shape, slots, context_tokens, weights + ENGINE_BYTES, free, cache_bytes)
    return CpuModel(ort, session, shape, slots=slots, capacity=context_tokens, packed=packed, cache_bytes=cache_bytes)


def _free_device_bytes() -> int:
    return query_device().free_bytes


_MEMORY: dict[str, Callable[[], int]] = {"cpu": available_memory_bytes, "cuda": _free_device_bytes}


def free_memory_bytes(accelerator: str) -> int:
    """Memory that weights and caches can take: the host's, or the GPU's.

    Raises:
        ModelError: no GPU answers.
    """
    return _MEMORY[accelerator]()


def _check_room(
    shape: ModelShape, slots: int, context_tokens: int, beside_bytes: int, available_bytes: int,
    cache_bytes: int | None = None,
) -> None:  # fmt: skip
    """Refuse conversations longer than the model's context, and caches that do not fit beside the rest."""
    if context_tokens > shape.context:
        raise ModelError(f"context_tokens is {context_tokens}, but the model reaches only {shape.context}")
    _check_memory(
        beside_bytes + (slots * shape.cache.slot_bytes(context_tokens) if cache_bytes is None else cache_bytes),
        available_bytes,
        f"{slots} conversations of {context_tokens} tokens",
        "set engine.slots or engine.context_tokens lower",
    )


def _check_memory(needed_bytes: int, available: int, what: str, advice: str) -> None:
    if needed_bytes > available:
        raise ModelError(
            f"not enough memory for {what}: {needed_bytes / 1e9:.1f} GB are needed, {available / 1e9:.1f} GB are free; "
            f"free some, or {advice}"
        )
