"""What CUDA needs beyond a session: refusals before one is made, and decode steps that are replayed as CUDA graphs.

A decode step launches some 500 kernels of a few microseconds each; one by one they take longer to launch than to run.
So the steps of each run of neighbouring slots are captured once and replayed from then on. A captured step reads and
writes the same addresses for ever: its inputs lie in one buffer, its small outputs in another, each copied in one go.

The driver is asked through its own library (libcuda, the CUDA driver API); nothing here imports onnxruntime.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.sampling import TopLogits, row_of
from appliance.engine.slots import Append

_DRIVER = "libcuda.so.1"
_PROCESSORS, _MAJOR, _MINOR = 16, 75, 76  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, _COMPUTE_CAPABILITY_*
# Machine code in the official builds of ONNX Runtime 1.31; its MXFP4 kernels begin with 8.0. Code for x.y runs on x.z,
# z >= y; there is no PTX for others.
_COMPILED_FOR = ((8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
_MXFP4_BUILD = "fp4-qmoe=1"
_ALIGNMENT = 256  # of what lies in the buffers

# No capture: what changes its shape with every call runs as it is.
NOT_CAPTURED = "-1"


class CudaError(Exception):
    """This machine or this installation cannot run the model on CUDA; the text says why and what to do."""


@dataclass(frozen=True)
class Device:
    """The first GPU: compute capability, streaming multiprocessors and free memory."""

    capability: tuple[int, int]
    processors: int
    free_bytes: int


def query_device() -> Device:
    """Ask the driver for its first device.

    Raises:
        CudaError: there is no driver, no device, or it does not answer.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as exc:
        raise CudaError(
            "no NVIDIA driver is installed (libcuda.so.1 is missing): install it, or set engine.accelerator to cpu"
        ) from exc
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    attributes = {attribute: ctypes.c_int() for attribute in (_PROCESSORS, _MAJOR, _MINOR)}
    for attribute, value in attributes.items():
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    # The primary context is the one ONNX Runtime uses; memory is counted within a context.
    _call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    _call(driver, "cuCtxSetCurrent", context)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call(driver, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return Device((attributes[_MAJOR].value, attributes[_MINOR].value), attributes[_PROCESSORS].value, free.value)


def _call(driver: ctypes.CDLL, name: str, *arguments: Any) -> None:
    status = getattr(driver, name)(*arguments)
    if status != 0:
        raise CudaError(
            f"the NVIDIA driver refuses {name} (error {status}): is a GPU there, and may this user open /dev/nvidia*?"
        )


def require_capable(build_info: str, capability: tuple[int, int]) -> None:
    """Refuse a build without MXFP4 kernels and a GPU that it has no machine code for.

    Args:
        build_info: what onnxruntime.get_build_info() says.
    Raises:
        CudaError: naming what is missing and what to do.
    """
    if _MXFP4_BUILD not in build_info:
        raise CudaError(
            f"this build of ONNX Runtime has no MXFP4 kernels for CUDA ({_MXFP4_BUILD} is not in its build info): "
            "install the official onnxruntime-gpu of this release, or set engine.accelerator to cpu"
        )
    if not any(capability[0] == major and capability[1] >= minor for major, minor in _COMPILED_FOR):
        names = ", ".join(f"{major}.{minor}" for major, minor in _COMPILED_FOR)
        raise CudaError(
            f"this GPU has compute capability {capability[0]}.{capability[1]}; ONNX Runtime is compiled for {names} "
            "and their minor successors: use such a GPU, or set engine.accelerator to cpu"
        )


def decode_widths(slots: int) -> tuple[int, ...]:
    """How many neighbouring slots a decode step may take, ascending: powers of two and all of them.

    Few widths, so that few graphs are captured.
    """
    return (*(1 << power for power in range((slots - 1).bit_length())), slots)


@dataclass(frozen=True)
class DecodeRun:
    """One decode step over the neighbouring slots ``first`` .. ``first + len(tokens) - 1``.

    ``tokens``: the one to append to each. ``lengths``: what each holds before. ``rows``: those whose logits are wanted,
    counted from ``first``; the others are idle slots in between, which get a garbage token at their length.
    """

    first: int
    tokens: list[int]
    lengths: list[int]
    rows: list[int]


def plan_decode(appends: Sequence[Append], held: Sequence[int], widths: Sequence[int]) -> DecodeRun:
    """The shortest run of slots that has every slot of ``appends``.

    Args:
        held: at least what every slot of the model holds; where its garbage goes.
        widths: what the run's length may be, ascending, the number of slots last.
    """
    lengths = list(held)
    for append in appends:
        lengths[append.slot] = append.length
    tokens = {append.slot: append.token for append in appends}
    first, last = min(tokens), max(tokens)
    width = next(width for width in widths if width > last - first)
    filler, first = tokens[first], min(first, len(held) - width)
    return DecodeRun(
        first=first,
        tokens=[tokens.get(slot, filler) for slot in range(first, first + width)],
        lengths=lengths[first : first + width],
        rows=[append.slot - first for append in appends],
    )


@dataclass(frozen=True)
class ChunkPlanner:
    """Cuts prompts so that attention never splits the keys of one query among multiprocessors.

    Where a chunk alone would leave multiprocessors idle, flash attention in ONNX Runtime 1.31 gives each query's keys
    to several of them in parts of 256, and each part adds the sink to its sum: the result is wrong by as much as 20 %
    (measured on an H200 against float64; every worst row lies behind key 256, and one-token steps, which run another
    kernel, are right). It does not where the heads and the queries, 64 at a time, fill four fifths of the
    multiprocessors; after a past it counts key/value heads. So a chunk too small for that begins earlier: what the
    cache holds there is computed again. Where even that is too small, tokens go one by one.
    """

    heads: int
    kv_heads: int
    processors: int
    chunk_tokens: int

    def plan(self, past: int, length: int) -> range:
        """The tokens of a prompt of ``length`` to compute next, ``past`` being held; ``stop`` is past ``past``."""
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


class _Buffer:
    """Arrays side by side in one allocation on the device, copied to or from the host in one go."""

    def __init__(
        self, ort: ModuleType, device: str, layout: Sequence[tuple[str, type[np.generic], tuple[int, ...]]]
    ) -> None:
        self.places: dict[str, tuple[int, type[np.generic], tuple[int, ...]]] = {}
        end = 0
        for name, dtype, shape in layout:
            self.places[name] = (end, dtype, shape)
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            end += size + -size % _ALIGNMENT
        self.host = np.zeros(end, np.uint8)
        self.device = ort.OrtValue.ortvalue_from_numpy(self.host, device, 0)

    def view(self, name: str) -> NDArray[Any]:
        """One array of the host's copy."""
        offset, dtype, shape = self.places[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.host[offset : offset + size].view(dtype).reshape(shape)

    def address(self, name: str) -> int:
        return int(self.device.data_ptr()) + self.places[name][0]

    def to_device(self) -> None:
        self.device.update_inplace(self.host)

    def to_host(self) -> None:
        self.host = self.device.numpy()


class _Step:
    """The decode step of one run of slots: bindings to fixed addresses, and the name of its captured graph."""

    def __init__(self, steps: ReplayedSteps, first: int, width: int, graph_id: int) -> None:
        ort, device, top, vocab = steps.ort, steps.device, steps.top, steps.vocab
        self.inputs = _Buffer(
            ort,
            device,
            [
                ("input_ids", np.int64, (width, 1)),
                ("logit_rows", np.int64, (width,)),
                ("seqlens_k", np.int32, (width,)),
            ],
        )
        self.outputs = _Buffer(
            ort,
            device,
            [
                ("top_ids", np.int64, (width, top)),
                ("top_logits", np.float32, (width, top)),
                ("logsumexp", np.float32, (width,)),
            ],
        )
        self.binding = steps.session.io_binding()
        for name, (_, dtype, shape) in self.inputs.places.items():
            self.binding.bind_input(name, device, 0, dtype, list(shape), self.inputs.address(name))
        for name, (_, dtype, shape) in self.outputs.places.items():
            self.binding.bind_output(name, device, 0, dtype, list(shape), self.outputs.address(name))
        # The longest any slot may become: a captured step must do for every length that is yet to come.
        self.total = np.array(steps.capacity, np.int32)
        self.binding.bind_cpu_input("total_sequence_length", self.total)
        address = int(steps.logits.data_ptr())
        self.binding.bind_output("logits", device, 0, np.float32, [width, vocab], address)
        steps.bind_caches(self.binding, first, width)
        self.options = ort.RunOptions()
        self.options.add_run_config_entry("gpu_graph_id", str(graph_id))


class ReplayedSteps:
    """Decode steps over runs of slots, each captured at its first use.

    ``bind_caches(binding, first, width)`` binds the caches of those slots. One step's ``all_logits`` are gone with the
    next step. ``device`` is where the session runs; on "cpu" nothing is captured.
    """

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        *,
        slots: int,
        capacity: int,
        vocab: int,
        top: int,
        bind_caches: Callable[[Any, int, int], None],
        device: str,
    ) -> None:
        self.ort, self.session, self.bind_caches, self.device = ort, session, bind_caches, device
        self.capacity, self.vocab, self.top = capacity, vocab, top
        self.logits = ort.OrtValue.ortvalue_from_numpy(np.zeros((slots, vocab), np.float32), device, 0)
        self._steps: dict[tuple[int, int], _Step] = {}

    def run(self, run: DecodeRun) -> list[TopLogits]:
        """Append one token to each slot of the run. Raises what the runtime raises."""
        width = len(run.tokens)
        step = self._steps.get((run.first, width))
        if step is None:
            step = self._steps[run.first, width] = _Step(self, run.first, width, len(self._steps) + 1)
        step.inputs.view("input_ids")[:, 0] = run.tokens
        step.inputs.view("logit_rows")[:] = np.arange(width)
        step.inputs.view("seqlens_k")[:] = run.lengths  # before this token: the total after it, minus one
        step.inputs.to_device()
        self.session.run_with_iobinding(step.binding, step.options)
        step.outputs.to_host()
        ids, logits, sums = (step.outputs.view(name) for name in ("top_ids", "top_logits", "logsumexp"))
        return [TopLogits(ids[i], logits[i], float(sums[i]), self.vocab, row_of(self.logits, i)) for i in run.rows]
