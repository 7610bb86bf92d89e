"""Runs pip, on the connected side alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from bundler.errors import WheelError

_QUOTED_LINES = 3


def run_pip(*arguments: str, environ: Mapping[str, str] | None = None) -> None:
    """Run this interpreter's pip.

    Args:
        environ: its environment; None: this process's.
    Raises:
        WheelError: with the last lines that pip wrote.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("ERROR")]
        lines = lines or [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise WheelError(f"pip {arguments[0]} failed: {' | '.join(lines[-_QUOTED_LINES:]) or 'no output'}")
