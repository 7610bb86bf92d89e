"""The lock of a release's wheels: every distribution with its version and the SHA-256 of the one wheel that is used.

`bundler lock` writes `locks/cp311-manylinux_2_28_x86_64-cpu.txt` and the like, a person reviews the change, and
`bundler build` follows it.

Not covered: whether a locked version is a good one. That is the review of the lock's diff.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bundler.errors import WheelError
from bundler.pip import run_pip
from installer.wheels import LOCKED_WHEEL

Runtime = Literal["cpu", "cuda", "both"]  # "both": both graphs, with the CUDA runtime
PROJECT = "gpt-oss-appliance"
PIP = "pip"  # locked and carried, but not installed: installers from before 2026-12 run it from its wheel
LOCKS = Path(__file__).parent / "locks"


@dataclass(frozen=True)
class WheelTarget:
    """The kind of host that the wheels are for."""

    python: str  # "3.11"
    platform: str  # "manylinux_2_28_x86_64"
    accelerator: Runtime

    @property
    def extra(self) -> Literal["cpu", "cuda"]:
        """The extra that holds the runtime. onnxruntime-gpu also runs on CPUs, and excludes onnxruntime."""
        return "cpu" if self.accelerator == "cpu" else "cuda"

    @property
    def lock_path(self) -> Path:
        return LOCKS / f"cp{self.python.replace('.', '')}-{self.platform}-{self.extra}.txt"

    def pip_options(self) -> list[str]:
        """Options that make pip choose wheels for this target instead of the running interpreter."""
        wanted = re.fullmatch(r"manylinux_2_([0-9]+)_(\w+)", self.platform)
        if wanted is None or not re.fullmatch(r"3\.[0-9]+", self.python):
            raise WheelError(f"{self.platform} with Python {self.python} is not a target such as manylinux_2_28_x86_64")
        machine = wanted[2]
        platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(int(wanted[1]), 4, -1)]
        platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
        abis = [f"cp{self.python.replace('.', '')}", "abi3", "none"]
        return [
            "--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}",
            *(f"--platform={p}" for p in platforms), *(f"--abi={abi}" for abi in abis),
        ]  # fmt: skip


@dataclass(frozen=True)
class LockedWheel:
    """One line of a lock."""

    name: str  # canonical
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def parse_lock(text: str, origin: str) -> tuple[LockedWheel, ...]:
    """The wheels of a lock.

    Raises:
        WheelError: a line is not `name==version --hash=sha256:..`, or names a distribution twice.
    """
    wheels: dict[str, LockedWheel] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        fields = LOCKED_WHEEL.fullmatch(line)
        if fields is None or fields[1] in wheels:
            raise WheelError(f"{origin}, line {number}: not one locked wheel with its SHA-256, or named before")
        wheels[fields[1]] = LockedWheel(fields[1], fields[2], fields[3])
    return tuple(wheels.values())


def load_lock(target: WheelTarget) -> tuple[LockedWheel, ...]:
    """The committed lock for this target.

    Raises:
        WheelError: there is none.
    """
    path = target.lock_path
    if not path.is_file():
        raise WheelError(f"there is no lock for this target; make it with `bundler lock --accelerator {target.extra}`")
    return parse_lock(path.read_text(), path.name)


def resolve_lock(target: WheelTarget, requirements: Sequence[str]) -> str:
    """Ask pip which wheels satisfy the requirements on this target, and return its answer as a lock.

    Raises:
        WheelError: pip found no solution, or this interpreter cannot evaluate the target's markers.
    """
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != target.python:
        raise WheelError(f"a lock for Python {target.python} must be made with Python {target.python}, not {running}")
    with tempfile.TemporaryDirectory(prefix="bundler-lock-") as scratch:
        report = Path(scratch, "report.json")
        run_pip(
            "install", "--dry-run", "--ignore-installed", "--quiet", f"--report={report}",
            f"--target={scratch}/unused", *target.pip_options(), *requirements, PIP,
        )  # fmt: skip
        items = json.loads(report.read_bytes())["install"]
    wheels = [
        LockedWheel(
            canonicalize_name(item["metadata"]["name"]),
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in items
    ]
    head = f"# {PROJECT}[{target.extra}] on CPython {target.python}, {target.platform}. Made by `bundler lock`.\n"
    return head + "".join(f"{wheel}\n" for wheel in sorted(wheels, key=lambda w: w.name))


def check_coverage(lock: Sequence[LockedWheel], requirements: Sequence[str]) -> None:
    """Require that the lock satisfies each requirement, so that a stale lock fails before anything is built.

    Raises:
        WheelError: a requirement is not locked, or is locked to a version that it does not allow.
    """
    locked = {wheel.name: wheel.version for wheel in lock}
    for text in [*requirements, PIP]:
        requirement = Requirement(text)
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            raise WheelError(f"the lock does not cover {text!r}; run `bundler lock` and review the change")
