"""Runs an exported CPU graph as the engine does: with caches bound in place, and for wanted rows only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.operators import load_operators

Ids = NDArray[np.int64]
Float32Array = NDArray[np.float32]


def _onnxruntime() -> Any:
    """Import it late, because the environment (conftest.py) must be set first."""
    import onnxruntime  # type: ignore[import-untyped]

    return onnxruntime


def open_session(model: Path, *, fold_limit_bytes: int = 0, optimised: Path | None = None) -> Any:
    """A CPU session as the engine makes it.

    Args:
        fold_limit_bytes: the largest result that is folded; 0 folds every result.
        optimised: where to write the graph as ONNX Runtime runs it.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(fold_limit_bytes))
    options.log_severity_level = 3
    options.register_custom_ops_library(load_operators().path)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class Cache:
    """The key and value buffers of some slots, updated in place."""

    def __init__(self, session: Any, *, slots: int, capacity: int) -> None:
        self.values = {}
        for item in session.get_inputs():
            if item.name.startswith("past_key_values."):
                _, heads, _, size = item.shape
                capacity += -capacity % 16  # the type that the CPU's attention needs
                # NaN reveals a read of a position that was never written. On a CPU the caches are bytes of float32.
                if item.type == "tensor(float16)":
                    buffer: NDArray[Any] = np.full((slots, heads, capacity, size), np.nan, np.float16)
                else:
                    size = int(session.get_modelmeta().custom_metadata_map["gpt_oss.head_dim"])
                    nan = np.full((slots, heads, capacity, size), np.nan, np.float32)
                    buffer = nan.view(np.uint8)
                self.values[item.name] = _onnxruntime().OrtValue.ortvalue_from_numpy(buffer)

    def copy_slot_from(self, other: Cache, slot: int) -> None:
        """Copy another cache's only slot, in whatever order its positions lie."""
        for name, value in self.values.items():
            merged = value.numpy().copy()
            merged[slot] = other.values[name].numpy()[0]
            value.update_inplace(merged)


class GraphRunner:
    """Prefill and decode with one session."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def step(self, ids: Ids, totals: list[int], rows: list[int], cache: Cache, output: str = "logits") -> Any:
        """One run; one token of each slot is decoding.

        Args:
            ids: (B, S) new tokens.
            totals: length of each slot after this step.
            rows: which of the flattened tokens need an output.
        """
        binding = self.session.io_binding()
        for name, array in self._inputs(ids, np.array(totals, np.int32)).items():
            binding.bind_cpu_input(name, np.asarray(array, order="C"))
        binding.bind_cpu_input("logit_rows", np.array(rows, np.int64))
        binding.bind_output(output)
        for name, value in cache.values.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        self.session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    def _inputs(self, ids: Ids, totals: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        slots, count = ids.shape
        if "seqlens_k" in {item.name for item in self.session.get_inputs()}:  # the graph for CUDA
            return {"input_ids": ids, "seqlens_k": totals - 1, "total_sequence_length": totals.max()}
        positions = totals[:, None] - count + np.arange(count, dtype=np.int32)
        return {
            "input_ids": ids.ravel(),
            "token_slots": np.repeat(np.arange(slots, dtype=np.int32), count),
            "token_positions": positions.astype(np.int32).ravel(),
            "decoded_tokens": np.array(slots if count == 1 else 0, np.int64),
        }

    def prefill(self, ids: Ids, *, chunk: int | None = None) -> Float32Array:
        """Logits (S, vocabulary) of every position. The prompt runs whole or in chunks."""
        return self._prefill(ids, Cache(self.session, slots=1, capacity=len(ids)), chunk or len(ids))

    def decode(self, ids: Ids, start: int) -> Float32Array:
        """Logits (S - start, vocabulary) of the tokens from ``start`` on, taken one by one."""
        cache = Cache(self.session, slots=1, capacity=len(ids))
        if start:
            self._prefill(ids[:start], cache, 256)
        rows = [self.step(ids[None, at : at + 1], [at + 1], [0], cache) for at in range(start, len(ids))]
        return np.concatenate(rows)

    def decode_together(self, slots: list[Ids], steps: int) -> list[Float32Array]:
        """Decode the last ``steps`` tokens of slots of different lengths; each run takes one token of each slot."""
        capacity = max(len(ids) for ids in slots)
        together = Cache(self.session, slots=len(slots), capacity=capacity)
        for slot, ids in enumerate(slots):
            alone = Cache(self.session, slots=1, capacity=capacity)
            self._prefill(ids[:-steps], alone, 256)
            together.copy_slot_from(alone, slot)
        produced = []
        for step in range(steps):
            tokens = np.array([[ids[len(ids) - steps + step]] for ids in slots])
            totals = [len(ids) - steps + step + 1 for ids in slots]
            produced.append(self.step(tokens, totals, list(range(len(slots))), together))
        return list(np.stack(produced, axis=1))

    def _prefill(self, ids: Ids, cache: Cache, chunk: int) -> Float32Array:
        rows = []
        for start in range(0, len(ids), chunk):
            part = ids[start : start + chunk]
            rows.append(self.step(part[None], [start + len(part)], list(range(len(part))), cache))
        return np.concatenate(rows)
