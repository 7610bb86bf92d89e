"""This project's own wheel, as a release carries it: built from the source tree with fixed times and modes, so that its
bytes repeat, and without `bundler/`, which the isolated side never runs.

Nothing of the builder's environment reaches the compiler (`CXXFLAGS`, `CXX`, `CPATH`, `CMAKE_..`, `SKBUILD_..`) or pip
(its variables and configuration files): the build gets only the variables that `_PASSED` names.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from bundler.errors import WheelError
from bundler.lock import WheelTarget
from bundler.pip import run_pip

SOURCE_DATE_EPOCH = "315532800"  # 1980-01-01, the earliest time a zip can say
_PASSED = ("PATH", "HOME", "TMPDIR")  # where programs are, and where they may write
_NOT_CARRIED = "bundler"


def project_root() -> Path:
    """The source tree that this bundler runs from.

    Raises:
        WheelError: the bundler is installed without its sources.
    """
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        raise WheelError("the bundler is not installed from a source tree: give the project's wheel with --own-wheel")
    return root


def source_packages() -> list[str]:
    """The directories of the source tree that the wheel is built from."""
    project = tomllib.loads((project_root() / "pyproject.toml").read_text())
    return list(project["tool"]["scikit-build"]["wheel"]["packages"])


def project_requirements(target: WheelTarget) -> list[str]:
    """What pyproject.toml requires at run time on this target: the dependencies and the extra with the runtime."""
    project = tomllib.loads((project_root() / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][target.extra]]


def build_own_wheel(directory: Path, environ: Mapping[str, str]) -> Path:
    """Build this project's wheel into `directory`. The same sources give the same bytes.

    It copies the sources first, because a build in place would leave files there and include stale ones.
    Raises:
        WheelError: the build failed.
    """
    root = project_root()
    packages = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]["packages"]
    packages.remove(_NOT_CARRIED)
    with tempfile.TemporaryDirectory(prefix="bundler-wheel-") as scratch:
        copy = Path(scratch, "source")
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(root / name, copy / name)
        for package in packages:
            shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        for path in copy.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        run_pip(
            "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir", "--quiet",
            f"--config-settings=wheel.packages={';'.join(packages)}", f"--wheel-dir={scratch}/out", str(copy),
            environ=_build_environment(environ),
        )  # fmt: skip
        (built,) = Path(scratch, "out").glob("*.whl")
        return Path(shutil.copyfile(built, directory / built.name))


def _build_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the build. pip reads no configuration file: one could name settings for the build, too."""
    kept = {name: environ[name] for name in _PASSED if name in environ}
    fixed = {"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH, "PIP_CONFIG_FILE": os.devnull, "LC_ALL": "C.UTF-8"}
    parallel = {"CMAKE_BUILD_PARALLEL_LEVEL": str(len(os.sched_getaffinity(0)))}  # CMake compiles one file at a time
    return kept | fixed | parallel
