"""The wheels that a release carries: exactly the locked ones (`bundler.lock`) and our own (`bundler.own_wheel`).

A release for several Pythons has a lock for each. A wheel that several locks name lies in the release once.

Wheels come from a cache addressed by digest. pip fetches the absent ones with --require-hashes from whatever index the
user has configured.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import parse_wheel_filename

from bundler.errors import WheelError
from bundler.lock import KitTarget, LockedWheel, WheelTarget
from bundler.pip import run_pip
from installer.environment import environment_files
from installer.errors import WheelInstallError
from installer.wheels import environment_members


def fetch_wheels(lock: Sequence[LockedWheel], target: WheelTarget | KitTarget, cache: Path) -> list[Path]:
    """The locked wheels as files of the cache. pip fetches those that the cache lacks.

    Raises:
        WheelError: a cached wheel is not the locked one, or pip cannot fetch one.
    """
    absent = [wheel for wheel in lock if not _cached(cache, wheel)]
    if absent:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
            requirements = Path(scratch, "requirements.txt")
            requirements.write_text("".join(f"{wheel}\n" for wheel in absent))
            run_pip(
                "download", "--require-hashes", "--no-deps", "--quiet", f"--dest={scratch}/wheels",
                *target.pip_options(), f"--requirement={requirements}",
            )  # fmt: skip
            for path in sorted(Path(scratch, "wheels").glob("*.whl")):
                place = cache / sha256_file(path)
                place.mkdir(exist_ok=True)
                path.replace(place / path.name)
    return [_checked(cache, wheel) for wheel in lock]


def collect_wheelhouse(
    wheels: Path, paths: Sequence[Path], own: Path, lock: Sequence[LockedWheel], *, name: str = "requirements.lock"
) -> None:
    """Put the wheels and the lock of one Python into a release's wheels/ directory, which may hold those of another.

    Args:
        name: of the lock's file.
    Raises:
        WheelError: a file is not a locked wheel, even if it was one when it was fetched, or the release has another
            wheel of that name.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    locked = {wheel.sha256: wheel for wheel in lock}
    for path in paths:
        if _added(wheels, path) not in locked:
            raise WheelError(f"{path.name} is not in the lock")
    project, version, _, _ = parse_wheel_filename(own.name)
    entries = [*lock, LockedWheel(project, str(version), _added(wheels, own))]
    lines = sorted(str(entry) for entry in entries)
    (wheels / name).write_text("\n".join(lines) + "\n")


def check_unpacking(wheels: Path, lock: str, python: str) -> None:
    """Require that an installer can unpack the wheels for this Python, with its own code, and writes nothing.

    Args:
        lock: name of the lock's file.
    Raises:
        WheelError: a wheel brings names that are another's, or differs from its RECORD.
    """
    by_digest = {sha256_file(path): path for path in sorted(wheels.glob("*.whl"))}
    try:
        members = environment_members(by_digest, (wheels / lock).read_text(), python)
        environment_files(members, "/usr/bin/python3", python, with_compiled=False)
    except WheelInstallError as exc:
        raise WheelError(f"no installer would take the wheels for Python {python}: {exc}") from exc


def _added(wheels: Path, path: Path) -> str:
    """Copy a wheel into the directory, unless the same one is there; its digest."""
    copy = wheels / path.name
    if not copy.exists():
        shutil.copyfile(path, copy)
    elif sha256_file(copy) != sha256_file(path):
        raise WheelError(f"two different wheels are called {path.name}")
    return sha256_file(copy)


def sha256_file(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached(cache: Path, wheel: LockedWheel) -> bool:
    return any((cache / wheel.sha256).glob("*.whl"))


def _checked(cache: Path, wheel: LockedWheel) -> Path:
    """The cached file of a locked wheel, after hashing it again."""
    found = sorted((cache / wheel.sha256).glob("*.whl"))
    if len(found) != 1:
        raise WheelError(f"the wheel cache does not hold exactly one file for {wheel.name} {wheel.version}")
    name, version, _, _ = parse_wheel_filename(found[0].name)
    if sha256_file(found[0]) != wheel.sha256 or (name, str(version)) != (wheel.name, wheel.version):
        raise WheelError(f"{found[0]} is not the locked wheel {wheel.name} {wheel.version}; remove it and build again")
    return found[0]
