"""Runs a program of the attacks in a network namespace of its own, so that nothing it tries can leave this host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

from tests.conftest import require
from tests.unprivileged import PROJECT


def in_its_own_network(module: str, *arguments: str) -> dict[str, Any]:
    """What the module prints as JSON."""
    require(shutil.which("ip") is not None and shutil.which("unshare") is not None, "iproute2 and util-linux")
    own = [] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"]
    script = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(["unshare", *own, "--net", *script], cwd=PROJECT, capture_output=True, text=True, timeout=180)
    require("unshare failed" not in done.stderr, f"a network namespace for the test ({done.stderr.strip()})")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
