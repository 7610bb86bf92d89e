"""The wheels a release installs on the isolated side: exactly the locked ones, for one named target.

`locks/cp311-manylinux_2_28_x86_64-cpu.txt` names every distribution with its version and the SHA-256 of the one wheel
that is used; `bundler lock` writes it, a person reviews the change, `bundler build` follows it. Wheels come from a
cache addressed by digest; pip fetches the absent ones with --require-hashes from whatever index the user has
configured. The project's own wheel is built here from the source tree, with fixed times and modes, so that its bytes
repeat.

Not covered: whether a locked version is a good one. That is the review of the lock's diff.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from bundler.errors import WheelError

Accelerator = Literal["cpu", "cuda", "both"]
PROJECT = "gpt-oss-appliance"
PIP = "pip"  # locked and carried, but not installed: installers of before 2026-12 ran it out of its wheel
LOCKS = Path(__file__).parent / "locks"
SOURCE_DATE_EPOCH = "315532800"  # 1980-01-01, the earliest time a zip can say
_LINE = re.compile(r"([a-z0-9-]+)==([0-9A-Za-z.+!-]+) --hash=sha256:([0-9a-f]{64})")
_QUOTED_LINES = 3


@dataclass(frozen=True)
class WheelTarget:
    """The host that the wheels are for."""

    python: str  # "3.11"
    platform: str  # "manylinux_2_28_x86_64"
    accelerator: Accelerator

    @property
    def extra(self) -> Literal["cpu", "cuda"]:
        """The extra with the runtime. onnxruntime-gpu runs on the CPU too, and excludes the other."""
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
        fields = _LINE.fullmatch(line)
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
    """Ask pip which wheels satisfy the requirements on this target, and write that down as a lock.

    Raises:
        WheelError: pip found no solution, or this interpreter cannot evaluate the target's markers.
    """
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != target.python:
        raise WheelError(f"a lock for Python {target.python} must be made with Python {target.python}, not {running}")
    with tempfile.TemporaryDirectory(prefix="bundler-lock-") as scratch:
        report = Path(scratch, "report.json")
        _pip(
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
    """Require that the lock satisfies each requirement, so that a stale lock is found before anything is built.

    Raises:
        WheelError: naming the first requirement that is not locked, or locked to a version it does not allow.
    """
    locked = {wheel.name: wheel.version for wheel in lock}
    for text in [*requirements, PIP]:
        requirement = Requirement(text)
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            raise WheelError(f"the lock does not cover {text!r}; run `bundler lock` and review the change")


def fetch_wheels(lock: Sequence[LockedWheel], target: WheelTarget, cache: Path) -> list[Path]:
    """The locked wheels as files of the cache, fetched by pip where the cache lacks them.

    Raises:
        WheelError: a cached wheel is not the locked one, or pip cannot fetch one.
    """
    absent = [wheel for wheel in lock if not _cached(cache, wheel)]
    if absent:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
            requirements = Path(scratch, "requirements.txt")
            requirements.write_text("".join(f"{wheel}\n" for wheel in absent))
            _pip(
                "download", "--require-hashes", "--no-deps", "--quiet", f"--dest={scratch}/wheels",
                *target.pip_options(), f"--requirement={requirements}",
            )  # fmt: skip
            for path in sorted(Path(scratch, "wheels").glob("*.whl")):
                place = cache / sha256_file(path)
                place.mkdir(exist_ok=True)
                path.replace(place / path.name)
    return [_checked(cache, wheel) for wheel in lock]


def collect_wheelhouse(wheels: Path, paths: Sequence[Path], own: Path, lock: Sequence[LockedWheel]) -> None:
    """Put the wheels and requirements.lock into a release's wheels/ directory.

    Raises:
        WheelError: a file is not the locked wheel, whatever it was when it was fetched.
    """
    wheels.mkdir(parents=True)
    locked = {wheel.sha256: wheel for wheel in lock}
    for path in paths:
        copy = Path(shutil.copyfile(path, wheels / path.name))
        if sha256_file(copy) not in locked:
            raise WheelError(f"{path.name} is not in the lock")
    shutil.copyfile(own, wheels / own.name)
    name, version, _, _ = parse_wheel_filename(own.name)
    entries = [wheel for wheel in lock if wheel.name != PIP]
    entries.append(LockedWheel(name, str(version), sha256_file(wheels / own.name)))
    lines = sorted(str(entry) for entry in entries)
    (wheels / "requirements.lock").write_text("\n".join(lines) + "\n")


def project_root() -> Path:
    """The source tree this bundler runs from.

    Raises:
        WheelError: it is installed without its sources.
    """
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        raise WheelError("the bundler is not installed from a source tree: give the project's wheel with --own-wheel")
    return root


def project_requirements(target: WheelTarget) -> list[str]:
    """What pyproject.toml demands at run time on this target: dependencies and the accelerator's extra."""
    project = tomllib.loads((project_root() / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][target.extra]]


def build_own_wheel(directory: Path, environ: Mapping[str, str]) -> Path:
    """Build this project's wheel into `directory`, the same bytes for the same sources.

    The sources are copied first: a build in place would leave files there, and take in stale ones.
    Raises:
        WheelError: the build failed.
    """
    root = project_root()
    packages = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]["packages"]
    with tempfile.TemporaryDirectory(prefix="bundler-wheel-") as scratch:
        copy = Path(scratch, "source")
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(root / name, copy / name)
        for package in packages:
            shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        for path in copy.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        _pip(
            "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir", "--quiet",
            f"--wheel-dir={scratch}/out", str(copy),
            environ={**environ, "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH},
        )  # fmt: skip
        (built,) = Path(scratch, "out").glob("*.whl")
        return Path(shutil.copyfile(built, directory / built.name))


def sha256_file(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached(cache: Path, wheel: LockedWheel) -> bool:
    return any((cache / wheel.sha256).glob("*.whl"))


def _checked(cache: Path, wheel: LockedWheel) -> Path:
    """The cached file of a locked wheel, hashed again."""
    found = sorted((cache / wheel.sha256).glob("*.whl"))
    if len(found) != 1:
        raise WheelError(f"the wheel cache does not hold exactly one file for {wheel.name} {wheel.version}")
    name, version, _, _ = parse_wheel_filename(found[0].name)
    if sha256_file(found[0]) != wheel.sha256 or (name, str(version)) != (wheel.name, wheel.version):
        raise WheelError(f"{found[0]} is not the locked wheel {wheel.name} {wheel.version}; remove it and build again")
    return found[0]


def _pip(*arguments: str, environ: Mapping[str, str] | None = None) -> None:
    """Run this interpreter's pip, in this process's environment unless another is given; its errors become ours."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("ERROR")]
        lines = lines or [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise WheelError(f"pip {arguments[0]} failed: {' | '.join(lines[-_QUOTED_LINES:]) or 'no output'}")
