"""The locks of a release's wheels: every distribution with its version and the SHA-256 of the one wheel that is used.

`bundler lock` writes `locks/cp311-manylinux_2_28_x86_64-cpu.txt` and the like, one for each Python of the hosts.
`bundler lock --kit` writes `locks/kit.txt`, the packages of `installer.pyz`. A person reviews the change, and `bundler
build` follows it.

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
LOCKS = Path(__file__).parent / "locks"
_PLATFORM = re.compile(r"manylinux_2_([0-9]+)_(\w+)")
KIT_LOCK = "kit.txt"
KIT_PYTHON = "3.9"  # the oldest that the kit runs on
# All of them are named, also what others need: pip evaluates the conditions of dependencies for its own Python, which
# is newer. The kit's versions are older than ours where current ones do not support Python 3.9. Left out: what rich
# needs only to draw source code and Markdown; urllib3, which tuf needs only to download; cryptography, without which
# securesystemslib checks Ed25519 in Python.
KIT_REQUIREMENTS = ("click>=8.1", "rich>=14", "securesystemslib>=1", "tuf>=6")


@dataclass(frozen=True)
class WheelTarget:
    """The kind of host that the wheels are for."""

    python: str  # "3.11"
    platform: str  # "manylinux_2_28_x86_64"
    accelerator: Runtime

    def __post_init__(self) -> None:
        if not (_PLATFORM.fullmatch(self.platform) and re.fullmatch(r"3\.[0-9]{1,2}", self.python)):
            raise WheelError(f"{self.platform} with Python {self.python} is not a target such as manylinux_2_28_x86_64")

    @property
    def extra(self) -> Literal["cpu", "cuda"]:
        """The extra that holds the runtime. onnxruntime-gpu also runs on CPUs, and excludes onnxruntime."""
        return "cpu" if self.accelerator == "cpu" else "cuda"

    @property
    def lock_path(self) -> Path:
        return LOCKS / f"cp{self.python.replace('.', '')}-{self.platform}-{self.extra}.txt"

    def pip_options(self) -> list[str]:
        """Options that make pip choose wheels for this target instead of the running interpreter."""
        newest, machine = _PLATFORM.sub(r"\1 \2", self.platform).split()
        platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(int(newest), 4, -1)]
        platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
        abis = [f"cp{self.python.replace('.', '')}", "abi3", "none"]
        return [
            "--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}",
            *(f"--platform={p}" for p in platforms), *(f"--abi={abi}" for abi in abis),
        ]  # fmt: skip


@dataclass(frozen=True)
class KitTarget:
    """Any host with the oldest Python of the kit or a newer one."""

    def pip_options(self) -> list[str]:
        """Options that make pip choose pure Python wheels."""
        return [
            "--only-binary=:all:", "--implementation=py", f"--python-version={KIT_PYTHON}", "--platform=any",
            "--abi=none",
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
    command = f"bundler lock --python {target.python} --accelerator {target.extra}"
    return _load(target.lock_path, f"Python {target.python}, {target.platform} and {target.extra}", command)


def load_kit_lock() -> tuple[LockedWheel, ...]:
    """The committed lock of the kit.

    Raises:
        WheelError: there is none.
    """
    return _load(LOCKS / KIT_LOCK, "the kit", "bundler lock --kit")


def _load(path: Path, purpose: str, command: str) -> tuple[LockedWheel, ...]:
    if not path.is_file():
        raise WheelError(f"there is no lock for {purpose}; make it with `{command}`")
    return parse_lock(path.read_text(), path.name)


def resolve_kit_lock() -> str:
    """Ask pip for the newest versions that the kit can use, and return its answer as a lock.

    Raises:
        WheelError: pip found no solution.
    """
    head = f"# installer.pyz, for CPython {KIT_PYTHON} and newer. Made by `bundler lock --kit`.\n"
    return head + _resolved("--no-deps", *KitTarget().pip_options(), *KIT_REQUIREMENTS)


def resolve_lock(target: WheelTarget, requirements: Sequence[str], *, like: Sequence[LockedWheel] = ()) -> str:
    """Ask pip which wheels satisfy the requirements on this target, and return its answer as a lock.

    Args:
        like: the lock of another Python, whose versions this one shall have, so that a release carries the wheels that
            fit both once.
    Raises:
        WheelError: pip found no solution, or this interpreter cannot evaluate the target's markers.
    """
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != target.python:
        raise WheelError(f"a lock for Python {target.python} must be made with Python {target.python}, not {running}")
    head = f"# {PROJECT}[{target.extra}] on CPython {target.python}, {target.platform}. Made by `bundler lock`.\n"
    return head + _resolved(*target.pip_options(), *requirements, versions=like)


def _resolved(*arguments: str, versions: Sequence[LockedWheel] = ()) -> str:
    """The lines of a lock, by name, for what pip would install with these arguments."""
    with tempfile.TemporaryDirectory(prefix="bundler-lock-") as scratch:
        report, constraints = Path(scratch, "report.json"), Path(scratch, "constraints.txt")
        constraints.write_text("".join(f"{wheel.name}=={wheel.version}\n" for wheel in versions))
        run_pip(
            "install", "--dry-run", "--ignore-installed", "--quiet", f"--report={report}",
            f"--target={scratch}/unused", f"--constraint={constraints}", *arguments,
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
    return "".join(f"{wheel}\n" for wheel in sorted(wheels, key=lambda w: w.name))


def check_coverage(lock: Sequence[LockedWheel], requirements: Sequence[str]) -> None:
    """Require that the lock satisfies each requirement, so that a stale lock fails before anything is built.

    Raises:
        WheelError: a requirement is not locked, or is locked to a version that it does not allow.
    """
    locked = {wheel.name: wheel.version for wheel in lock}
    for text in requirements:
        requirement = Requirement(text)
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            raise WheelError(f"the lock does not cover {text!r}; run `bundler lock` and review the change")
