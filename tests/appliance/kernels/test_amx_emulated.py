"""The AMX path on processors without AMX: its machine code runs, and each tile instruction is emulated
(amx/emulator.cc).

This says whether results are right, nothing about speed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.engine.operators import load_operators

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
TESTS = [
    HERE / "test_kernels.py",
    HERE / "test_attention.py",
    HERE.parent / "engine" / "test_engine_model.py",
    ROOT / "tests" / "bundler" / "test_graph.py",
]
PATHS = load_operators().paths()
BESIDE = {"avx512_bf16", "avx512vbmi"}  # what the AMX path uses besides, and the emulator does not emulate

pytestmark = pytest.mark.skipif(
    not BESIDE.issubset(Path("/proc/cpuinfo").read_text().split()),
    reason="a processor without AVX-512's bfloat16 and VBMI has no AMX path at all",
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operators, built with the emulator in them."""
    build = tmp_path_factory.mktemp("amx")
    for arguments in (["-S", str(HERE / "amx"), "-B", str(build)], ["--build", str(build), "-j2"]):
        done = subprocess.run([sys.executable, "-m", "cmake", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "kernels" / "libgpt_oss_kernels.so"


def run_tests(
    library: Path, directory: Path, *arguments: Path | str, without_a_row: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OPERATOR_LIBRARY": str(library), "PYTHONPATH": str(ROOT)}
    if without_a_row:
        environment["AMX_WITHOUT_A_ROW"] = "1"
    plugins = ["-p", "tests.appliance.kernels.other_library", "-p", "tests.appliance.kernels.amx.emulated"]
    apart = ["-p", "no:cacheprovider", f"--basetemp={directory / 'run'}"]  # pytest's own would shut this run's
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *apart, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def test_the_amx_path_passes_the_tests_of_every_path(library: Path, tmp_path: Path) -> None:
    done = run_tests(library, tmp_path, *TESTS, "-k", "amx")
    assert done.returncode == 0, done.stdout
    passed = re.search(r"^(\d+) passed, \d+ deselected", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 100, done.stdout
    emulated = re.search(r"emulated tile instructions: (\d+)", done.stdout)
    assert emulated is not None, done.stdout
    assert (int(emulated[1]) > 10_000) == ("amx" not in PATHS), done.stdout


def test_products_that_leave_out_a_row_fail_them(library: Path, tmp_path: Path) -> None:
    done = run_tests(library, tmp_path, HERE / "test_kernels.py", "-k", "amx and exact_but_for", without_a_row=True)
    assert done.returncode == 1, done.stdout
    assert re.search(r"^\d+ failed", done.stdout, re.MULTILINE), done.stdout
