"""A pytest plugin beside other_library, for a library with the emulator: the report ends with the number of emulated
instructions.
"""

from __future__ import annotations

import ctypes

import pytest

from tests.appliance.kernels.other_library import LIBRARY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    count = ctypes.CDLL(str(LIBRARY)).amx_emulated_instructions
    count.restype = ctypes.c_uint64
    terminalreporter.write_line(f"emulated tile instructions: {count()}")
