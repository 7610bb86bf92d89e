"""The model: its ONNX graph in a session of ONNX Runtime, and the memory of its KV cache.

`load.py` loads it. `base.py` says what every model can do; `cpu.py` and `cuda.py` have what differs. Only `runtime.py`
imports onnxruntime. The graph's contract is docs/architecture.md, "The ONNX graph".
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class ModelError(ApplianceError):
    """The model cannot be loaded or run as asked."""
