"""The native operators (C++), and where the built library lies.

The package's build makes ``libgpt_oss_kernels.so`` from the sources beside this file. `appliance.engine.kernels` is its
Python side.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

LIBRARY_NAME = "libgpt_oss_kernels.so"


def library_path() -> Path:
    """The library this installation was built with.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    for folder in __path__:  # an editable installation has the sources in one place and the library in another
        path = Path(folder) / LIBRARY_NAME
        if path.is_file():
            return path
    raise FileNotFoundError(f"{LIBRARY_NAME} is missing beside {files(__name__)}: reinstall gpt-oss-appliance")
