"""The native operators under AddressSanitizer and UndefinedBehaviorSanitizer. They pass the tests of every path, at
small sizes. A call that reads or writes beyond its memory, or has undefined behaviour, ends the program.

Leaks are not looked for: Python itself keeps memory to its end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
COMPILER = os.environ.get("CXX", "c++")
SMALL = "not (201088 or 20000 or 2880 or -1-Shape or agrees_with or prompt_is_cut or get_alone)"
SHORT_BUFFER = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
size = ctypes.c_size_t
library.gpt_oss_dense_bytes.restype = size
needed = library.gpt_oss_dense_bytes(0, size(32), size(32))
weight = np.zeros(32 * 32 + 1, np.uint16)
out = np.zeros(needed - int(sys.argv[2]), np.uint8)
library.gpt_oss_pack_dense(
    0, size(32), size(32), ctypes.c_void_p(weight.ctypes.data + int(sys.argv[3])), size(0), size(2),
    ctypes.c_void_p(out.ctypes.data),
)
print("nothing found")
"""


def runtime(name: str) -> str:
    """The compiler's own copy of a runtime library."""
    require(shutil.which(COMPILER) is not None, "a C++ compiler")
    found = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    require(os.path.isabs(path), f"{name}, a runtime of GCC's sanitizers")
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("sanitized")
    for arguments in (["-S", str(HERE / "sanitized"), "-B", str(build)], ["--build", str(build), "-j2"]):
        done = subprocess.run([sys.executable, "-m", "cmake", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "kernels" / "libgpt_oss_kernels.so"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """The sanitizers' runtimes come first in the process and take malloc's place. The C++ library must be there before
    AddressSanitizer looks for the function that throws.
    """
    preloaded = " ".join(runtime(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so"))
    options = {"LD_PRELOAD": preloaded, "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=5"}
    return os.environ | options | {"PYTHONPATH": str(ROOT)}


def test_the_operators_pass_their_tests_without_a_finding(
    library: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    plugins = ["-p", "tests.appliance.kernels.other_library", "-p", "tests.appliance.kernels.plain_memory"]
    files = [str(HERE / name) for name in ("test_kernels.py", "test_attention.py")]
    apart = ["-p", "no:cacheprovider", f"--basetemp={tmp_path / 'run'}"]  # pytest's own would shut this run's
    command = [sys.executable, "-m", "pytest", "-q", "-x", *plugins, *apart, *files, "-k", SMALL]
    environment = environment | {"OPERATOR_LIBRARY": str(library)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 60, done.stdout


@pytest.mark.parametrize(
    ("short_by", "shifted_by", "finding"),
    [
        (0, 0, None),
        (1, 0, "AddressSanitizer: heap-buffer-overflow"),
        (0, 1, "runtime error: load of misaligned address"),
    ],
)
def test_a_fault_ends_the_program(
    library: Path, environment: dict[str, str], short_by: int, shifted_by: int, finding: str | None
) -> None:
    command = [sys.executable, "-c", SHORT_BUFFER, str(library), str(short_by), str(shifted_by)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if finding is None:
        assert (done.returncode, done.stdout) == (0, "nothing found\n"), done.stderr
    else:
        assert done.returncode != 0
        assert finding in done.stderr
