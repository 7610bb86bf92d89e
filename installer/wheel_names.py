"""Which wheel may write which names: its own packages and its own dist-info, and nothing that Python runs by itself.

A directory with an ``__init__.py`` that is not empty belongs to the wheel that brings this file, and so does everything
below it. A directory without one, or with an empty one, is a namespace that several wheels may share. So no wheel adds
a module to another's package: not to ours (`appliance`, `webui`), and not to numpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from installer.errors import WheelInstallError

_RUN_BY_PYTHON = frozenset({"sitecustomize", "usercustomize"})  # at its start, if they are found
_MODULE = re.compile(r"([^./]+)(?:\.[^/]*)?\.(?:py|so)")
_PACKAGE = "__init__.py"


def check_names(wheels: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse a wheel that writes what is another's, or what Python runs without being asked.

    Args:
        wheels: file name of each wheel -> path below the packages -> size in bytes.
    Raises:
        WheelInstallError: with the wheel and the path.
    """
    owners: dict[str, str] = {}  # package or module -> the wheel that brings it
    for wheel, files in wheels.items():
        for path, size in files.items():
            _check_name(wheel, path)
            for name in _brought(path, size):
                if owners.setdefault(name, wheel) != wheel:
                    raise WheelInstallError(f"{wheel} brings {name}, which {owners[name]} brings, too")
    for wheel, files in wheels.items():
        for path in files:
            for directory in (str(parent) for parent in PurePosixPath(path).parents):
                if owners.get(directory, wheel) != wheel:
                    raise WheelInstallError(f"{wheel} writes {path} into a package of {owners[directory]}")


def _check_name(wheel: str, path: str) -> None:
    top, _, below = path.partition("/")
    if not below and (top.endswith(".pth") or top.partition(".")[0] in _RUN_BY_PYTHON):
        raise WheelInstallError(f"{wheel} brings {path}, which Python runs at its start")
    if below and top in _RUN_BY_PYTHON:
        raise WheelInstallError(f"{wheel} brings {path}, which Python runs at its start")
    if top.endswith(".dist-info") and top != own_info(wheel):
        raise WheelInstallError(f"{wheel} writes {path}, which describes another package")


def _brought(path: str, size: int) -> Iterator[str]:
    """The package or top-level module that a file makes."""
    place = PurePosixPath(path)
    if place.name == _PACKAGE and size:
        yield str(place.parent)
    elif module := _MODULE.fullmatch(path):
        yield module[1]


def own_info(wheel: str) -> str:
    """The dist-info directory of a wheel with this file name."""
    return "-".join(wheel.split("-")[:2]) + ".dist-info"
