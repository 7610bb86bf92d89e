"""A pytest plugin: every test of the run uses the operator library that OPERATOR_LIBRARY names."""

from __future__ import annotations

import os
from pathlib import Path

import appliance.kernels

LIBRARY = Path(os.environ["OPERATOR_LIBRARY"])


def _other() -> Path:
    return LIBRARY


appliance.kernels.library_path = _other
