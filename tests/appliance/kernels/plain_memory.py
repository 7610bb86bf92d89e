"""A pytest plugin: ONNX Runtime takes each tensor from malloc instead of an arena of its own, so that AddressSanitizer
knows where a tensor ends."""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # type: ignore[import-untyped]


class _PlainMemory(onnxruntime.SessionOptions):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.enable_cpu_mem_arena = False


onnxruntime.SessionOptions = _PlainMemory
