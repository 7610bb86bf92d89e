"""The native operators (C++), and where the built library lies.

The package's build makes ``libgpt_oss_kernels.so`` from the sources beside this file.
`appliance.engine.operators` is its Python side.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

LIBRARY_NAME = "libgpt_oss_kernels.so"
_DISTRIBUTION = "gpt-oss-appliance"


def library_path() -> Path:
    """The library this installation was built with.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    for path in _places():
        if path.is_file():
            return path
    raise FileNotFoundError(f"{LIBRARY_NAME} is missing: install {_DISTRIBUTION} anew, with a C++ compiler at hand")


def _places() -> Iterator[Path]:
    """Beside this file; an editable installation has the sources here and the library where packages are."""
    for folder in __path__:
        yield Path(folder) / LIBRARY_NAME
    for installed in distributions(name=_DISTRIBUTION):
        yield Path(str(installed.locate_file(Path("appliance", "kernels", LIBRARY_NAME))))
