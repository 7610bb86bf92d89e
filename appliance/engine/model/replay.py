"""Decode steps on CUDA, captured as CUDA graphs at their first use and replayed from then on.

A decode step launches some 500 kernels of a few microseconds each; one by one they take longer to launch than to run.
A captured step reads and writes the same addresses for ever. So its inputs are in one buffer and its small outputs in
another, each copied at once, and each run of neighbouring slots is a step of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.sampling import TopLogits, row_of
from appliance.engine.steps import Append

_ALIGNMENT = 256  # of the arrays in a buffer

# Names no graph to capture: a run whose shapes change with every call runs as it is.
NOT_CAPTURED = "-1"


def decode_widths(slots: int) -> tuple[int, ...]:
    """How many neighbouring slots a decode step may take, ascending: the powers of two, and all slots.

    There are few widths, so that few graphs are captured.
    """
    return (*(1 << power for power in range((slots - 1).bit_length())), slots)


@dataclass(frozen=True)
class DecodeRun:
    """One decode step over the neighbouring slots ``first`` .. ``first + len(tokens) - 1``.

    Attributes:
        tokens: the token to append to each slot.
        lengths: how many tokens each slot holds before.
        rows: the slots whose logits are wanted, counted from ``first``. The others are idle slots in between; they get
            a garbage token at their length.
    """

    first: int
    tokens: list[int]
    lengths: list[int]
    rows: list[int]


def plan_decode(appends: Sequence[Append], held: Sequence[int], widths: Sequence[int]) -> DecodeRun:
    """The shortest run of slots that contains every slot of ``appends``.

    Args:
        held: for each slot of the model, at least how many tokens it holds; an idle slot's garbage goes there.
        widths: the lengths that a run may have, ascending; the last is the number of slots.
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


class _Buffer:
    """Arrays side by side in one allocation on the device, copied to or from the host together."""

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
    """The decode step of one run of slots: its bindings to fixed addresses, and the name of its captured graph."""

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
        # The capacity, because a captured step must serve every length that a slot can reach.
        self.total = np.array(steps.capacity, np.int32)
        self.binding.bind_cpu_input("total_sequence_length", self.total)
        address = int(steps.logits.data_ptr())
        self.binding.bind_output("logits", device, 0, np.float32, [width, vocab], address)
        steps.bind_caches(self.binding, first, width)
        self.options = ort.RunOptions()
        self.options.add_run_config_entry("gpu_graph_id", str(graph_id))


class ReplayedSteps:
    """Decode steps over runs of slots, each captured at its first use.

    ``bind_caches(binding, first, width)`` binds the caches of those slots. The next step overwrites the ``all_logits``
    of this one. ``device`` is where the session runs; on "cpu" nothing is captured.
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
        """Append one token to each slot of the run. The runtime's own exceptions are not translated."""
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
