"""What every loaded model can do: prefill one slot, decode several together.

The caches of all slots are bound once, in place, so nothing is ever copied into a step. A model does not know what its
slots hold, nor that they hold no more than they may; the caller does (slots.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.cache_memory import Caches
from appliance.engine.model import ModelError
from appliance.engine.model.runtime import first_line, runtime_errors
from appliance.engine.model.shape import ModelShape
from appliance.engine.sampling import TopLogits, row_of
from appliance.engine.snapshots import Snapshot
from appliance.engine.steps import Append, Chunk

_RESULTS = ("top_logits", "top_ids", "logsumexp", "logits")


class OnnxModel(ABC):
    """A loaded graph and its caches, an `appliance.engine.steps.Model`. Not thread-safe: one thread owns it."""

    accelerator: str
    mixes = False
    copies = False
    takes_drafts = False
    arithmetic: str

    def __init__(
        self, ort: ModuleType, session: Any, shape: ModelShape, *, slots: int, capacity: int, device: str,
        cache_bytes: int | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            device: whose memory the caches and results are in.
            cache_bytes: what the slots may take together; None: what they take when all are full.
        """
        self.shape = shape
        self.slots = slots
        self.capacity = capacity
        self.cache_bytes = slots * self.slot_bytes(capacity) if cache_bytes is None else cache_bytes
        self.threads: int = session.get_session_options().intra_op_num_threads
        self._device = device
        self._session = session
        self._errors = runtime_errors(ort)
        self._run_options = ort.RunOptions()
        self._binding = session.io_binding()
        self._bind_results()  # before the caches, so that these are the first outputs
        self._caches = Caches(ort, shape.cache, device=device, slots=slots, capacity=capacity)
        self.windows = self._caches.windows

    def slot_bytes(self, held: int) -> int:
        """What a slot takes at most that holds so many tokens."""
        return self.shape.cache.slot_bytes(self.capacity, held)

    def give_back(self, slot: int, kept: int) -> None:
        """Free the memory of a slot's positions from ``kept`` on. Only on a CPU."""
        self._caches.give_back(slot, kept)

    @abstractmethod
    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range:
        """The places of a prompt of ``length`` tokens that the next prefill step takes when ``past`` are held.

        Args:
            most: how many tokens to take at most. On CUDA it is ignored (see there).
        """

    @abstractmethod
    def prefill(
        self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool, as_decoded: bool = False
    ) -> TopLogits | None:
        """Append ``tokens`` to a slot that holds ``past``; the value is the last token's logits, if wanted.

        Args:
            as_decoded: on a CPU, compute them with the products of decoded tokens, which round less.
        Raises:
            ModelError: the runtime failed; what the slot holds is then unknown.
        """

    @abstractmethod
    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        """Append one token to each of some slots, or several where ``takes_drafts``; the values are their logits.

        ``all_logits`` of a value must be called before the next step.

        Raises:
            ModelError: the runtime failed; what the slots hold is then unknown.
        """

    def step(self, appends: Sequence[Append], chunk: Chunk | None = None) -> tuple[list[TopLogits], TopLogits | None]:
        """``decode`` and ``prefill`` in one run, of different slots. Only where ``mixes`` is true.

        Raises:
            ModelError: the runtime failed; what the chunk's slot holds is then unknown, the others hold what they held.
        """
        raise RuntimeError(f"internal error: a model on {self.accelerator} cannot prefill and decode in one run")

    def take_snapshot(self, slot: int, first: int, end: int) -> Snapshot:
        """See `Caches.take_snapshot`. Only where ``copies`` is true."""
        raise RuntimeError(f"internal error: caches on {self.accelerator} cannot be copied")

    def copy_prefix(self, source: int, target: int, length: int, snapshot: Snapshot | None) -> None:
        """See `Caches.copy_prefix`. Only where ``copies`` is true."""
        raise RuntimeError(f"internal error: caches on {self.accelerator} cannot be copied")

    def prefill_prompt(
        self, slot: int, prompt: Sequence[int], past: int = 0, *, most: int | None = None, as_decoded: bool = False
    ) -> TopLogits:
        """Append a prompt, of which the slot holds the first ``past`` tokens, chunk by chunk.

        The value is the last token's logits. Arguments and errors are those of ``plan_chunk`` and ``prefill``.
        """
        while True:
            chunk = self.plan_chunk(past, len(prompt), most)
            last = chunk.stop == len(prompt)
            tokens = prompt[chunk.start : chunk.stop]
            top = self.prefill(slot, tokens, chunk.start, want_logits=last, as_decoded=as_decoded)
            if top is not None:
                return top
            past = chunk.stop

    def end_profile(self) -> Path:
        """Write the profile that `load_model` was asked for: ONNX Runtime's, one JSON array of events."""
        return Path(self._session.end_profiling())

    def _require_room(self, total: int) -> None:
        if total > self.capacity:
            raise RuntimeError(f"internal error: {total} tokens for a capacity of {self.capacity}")

    def _run(self, inputs: Mapping[str, NDArray[Any]], rows: Sequence[int]) -> list[TopLogits]:
        """One run over the bound caches; the values are the logits of ``rows``, of the step's tokens."""
        binding = self._binding
        self._bind_results()
        for name, array in {**inputs, "logit_rows": np.array(rows, np.int64)}.items():
            binding.bind_cpu_input(name, array)
        try:
            self._session.run_with_iobinding(binding, self._run_options)
        except self._errors as exc:
            raise ModelError(f"the model could not be run: {first_line(exc)}") from exc
        *small, logits = binding.get_outputs()[: len(_RESULTS)]
        top_logits, top_ids, logsumexp = (output.numpy() for output in small)
        return [
            TopLogits(top_ids[i], top_logits[i], float(logsumexp[i]), self.shape.vocab, row_of(logits, i))
            for i in range(len(rows))
        ]

    def _bind_results(self) -> None:
        """Bound anew for each run, because their shapes change. All logits stay where they are computed."""
        for name in _RESULTS:
            self._binding.bind_output(name, self._device if name == "logits" else "cpu")
