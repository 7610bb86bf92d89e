"""The only importer of onnxruntime: without its telemetry, and with the options that every session has."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from appliance.engine.host import physical_cores
from appliance.engine.model import ModelError


def import_onnxruntime() -> ModuleType:
    """onnxruntime without its telemetry, which official builds since 1.29 send unless this is set before the import."""
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        raise RuntimeError("internal error: onnxruntime was imported elsewhere, with its telemetry on")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # type: ignore[import-untyped]

    module: ModuleType = onnxruntime
    return module


def new_options(ort: ModuleType, profile: Path | None = None) -> Any:
    """The options of a session. ``profile``: see `load_model`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = physical_cores()
    options.log_severity_level = 3  # errors
    # Nodes over constants alone are computed once, at load, however large the result (bundler/graph relies on it).
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "0")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return options


def open_session(
    ort: ModuleType, graph: Path, options: Any, provider: str, provider_options: Mapping[str, str] | None = None
) -> Any:
    """A session that runs on this provider.

    Raises:
        ModelError: the graph cannot be loaded, or the provider does not work on this machine.
    """
    try:
        session = ort.InferenceSession(str(graph), options, providers=[(provider, dict(provider_options or {}))])
    except runtime_errors(ort) as exc:
        raise ModelError(f"{graph}: cannot be loaded: {first_line(exc)}") from exc
    if session.get_providers()[0] != provider:  # ONNX Runtime falls back to the CPU without a word
        raise ModelError(f"{provider} is installed but does not work on this machine (driver or GPU missing?)")
    return session


def runtime_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions; they have no common root of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0][:300]
