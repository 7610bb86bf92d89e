"""A pytest plugin: every test of the run takes the operator library that AMX_EMULATED_LIBRARY names; its report ends
with how many instructions were emulated."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

import appliance.kernels

LIBRARY = Path(os.environ["AMX_EMULATED_LIBRARY"])


def _emulated() -> Path:
    return LIBRARY


appliance.kernels.library_path = _emulated


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    count = ctypes.CDLL(str(LIBRARY)).amx_emulated_instructions
    count.restype = ctypes.c_uint64
    terminalreporter.write_line(f"emulated tile instructions: {count()}")
