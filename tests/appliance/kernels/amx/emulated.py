"""A pytest plugin beside other_library, for a library that holds the emulator: the report ends with how many
instructions were emulated."""

from __future__ import annotations

import ctypes

import pytest

from tests.appliance.kernels.other_library import LIBRARY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    count = ctypes.CDLL(str(LIBRARY)).amx_emulated_instructions
    count.restype = ctypes.c_uint64
    terminalreporter.write_line(f"emulated tile instructions: {count()}")
