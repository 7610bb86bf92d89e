"""How threads share an operator's work (phases.h), in a C++ program of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

KERNELS = Path(__file__).parents[3] / "appliance" / "kernels"


def test_units_run_once_phases_in_order_and_failures_reach_the_caller(tmp_path: Path) -> None:
    program = tmp_path / "phases_check"
    sources = [Path(__file__).with_name("phases_check.cc"), KERNELS / "phases.cc"]
    compiler = os.environ.get("CXX", "c++")
    flags = ["-std=c++17", "-O1", "-Wall", "-Werror", "-pthread", f"-I{KERNELS}"]
    subprocess.run([compiler, *flags, *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
