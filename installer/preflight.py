"""Whether this host can take a release, checked before anything is written. Each refusal is one sentence that says what
to do."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from installer.archive import root_name
from installer.errors import ClockError, OtherPythonError, PlatformError, ProductError, PublisherError, SpaceError
from installer.formats.clock import SET_IT, signed_at
from installer.formats.release import Release
from installer.site import Site
from installer.targets import Target

NEEDED_LIBRARIES = ("libstdc++.so.6",)  # that no wheel brings
NEEDED_MODULES = ("ctypes", "sqlite3", "ssl")  # that a Python built by hand, or packaged in parts, may lack
MARGIN_BYTES = 64 << 20
_CLOCKS_DIFFER = timedelta(days=1)
WHEEL_GROWTH = 5  # installed bytes per wheel byte, with compiled modules; measured 3.9 for the CPU wheels of 0.1.0


@dataclass(frozen=True)
class Host:
    """What a release's wheels depend on."""

    python: str  # "3.11"
    implementation: str  # "CPython"
    machine: str  # "x86_64"
    glibc: tuple[int, int] | None  # None: another C library


def this_host() -> Host:
    """The interpreter and C library that this process runs on."""
    library, version = platform.libc_ver()
    numbers = re.match(r"(\d+)\.(\d+)", version)
    glibc = (int(numbers[1]), int(numbers[2])) if library == "glibc" and numbers else None
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Host(python, platform.python_implementation(), platform.machine(), glibc)


def check_platform(release: Release, host: Host) -> None:
    """Refuse a host on which the release's wheels cannot be installed.

    Raises:
        PlatformError: another machine or C library than the release was built for.
        OtherPythonError: another Python; the last check, because the installer may continue in another one.
    """
    wanted = re.fullmatch(r"manylinux_(\d+)_(\d+)_(\w+)", release.target.platform)
    if wanted is None:
        raise PlatformError(f"the release is for {release.target.platform}, which this installer does not know")
    glibc = (int(wanted[1]), int(wanted[2]))
    if host.machine != wanted[3]:
        raise PlatformError(f"the release is for {wanted[3]} machines, this is {host.machine}")
    if host.glibc is None or host.glibc < glibc:
        have = "another C library" if host.glibc is None else "glibc {}.{}".format(*host.glibc)
        raise PlatformError(f"the release needs glibc {glibc[0]}.{glibc[1]} or newer, this host has {have}")
    if host.implementation != "CPython" or host.python not in release.target.pythons:
        raise OtherPythonError(release.target.pythons, f"{host.implementation} {host.python}")


def check_modules(modules: Sequence[str] = NEEDED_MODULES) -> None:
    """Refuse a Python without a part of its standard library that the appliance imports.

    Raises:
        PlatformError: with the first that is missing.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as exc:
            raise PlatformError(
                f"{sys.executable} lacks the module {name} of the standard library: install the whole package python3 "
                "from your distribution's medium, or name another Python with --interpreter"
            ) from exc


def check_proc(proc: Path = Path("/proc")) -> None:
    """Refuse a host without /proc: every usual system has it, a bare chroot or container may not.

    Raises:
        PlatformError: it is not mounted.
    """
    if not (proc / "self" / "status").exists():
        raise PlatformError(
            "/proc is not mounted here, and the appliance proves by it that it can open no connection: mount it "
            "(mount -t proc proc /proc), then run this again"
        )


def check_libraries(libraries: Sequence[str] = NEEDED_LIBRARIES) -> None:
    """Refuse a host without a library that compiled packages need and do not bring.

    Raises:
        PlatformError: with the first that is missing.
    """
    for library in libraries:
        try:
            ctypes.CDLL(library)
        except OSError as exc:
            if "No such file" not in str(exc):
                raise PlatformError(f"the library {library} cannot be loaded ({exc}): mend this on the host") from exc
            raise PlatformError(
                f"this host lacks the library {library}, which numpy and ONNX Runtime need: install the package "
                "libstdc++6 (RHEL: libstdc++) from your distribution's medium"
            ) from exc


def check_space(prefix: Path, needed: int) -> None:
    """Refuse a disk on which the release will not fit.

    Args:
        needed: bytes; see `needed_bytes`.
    Raises:
        SpaceError: with the missing amount.
    """
    free = shutil.disk_usage(prefix).free
    if free < needed:
        raise SpaceError(
            f"{os.fspath(prefix)} has {free >> 20} MiB free, the release needs about {needed >> 20} MiB: "
            f"free {((needed - free) >> 20) + 1} MiB or choose another prefix"
        )


def needed_bytes(targets: Sequence[Target], blob_bytes: int) -> int:
    """Bytes that an installation takes, of which ``blob_bytes`` have yet to be copied into the store."""
    wheels = sum(target.size_bytes for target in targets if target.path.startswith("wheels/"))
    return blob_bytes + WHEEL_GROWTH * wheels + MARGIN_BYTES


def packed_bytes(targets: Sequence[Target]) -> int:
    """Bytes that the appliance takes in `state/packed` at its first start on a CPU."""
    return sum(t.size_bytes for t in targets if t.path.startswith("model/cpu/") and t.path.endswith(".bin"))


def check_clock(now: datetime, version: int, expires: str, installed_at: Iterable[str]) -> None:
    """Refuse a clock that shows a time before the archive was signed or a release of the site was installed.

    By such a clock nothing has expired. The clocks of two sites may differ by a day.

    Args:
        version: of the archive's metadata; tells when it was signed.
        expires: when the metadata expires; a version after that is no time.
        installed_at: from the receipts of the site.
    Raises:
        ClockError: with the time that the clock is behind.
    """
    mistake = "; if the clock was wrong on that day, `installer uninstall` keeps state/ and forgets it"
    known = [("a release was installed here", _time(text), mistake) for text in installed_at]
    signed = signed_at(version)
    if signed is not None and signed < datetime.fromisoformat(expires):
        known.append(("the archive was signed", signed, ""))
    late = [(time, what, more) for what, time, more in known if time is not None and now < time - _CLOCKS_DIFFER]
    if late:
        time, what, more = max(late)
        raise ClockError(
            f"this host's clock says {now:%Y-%m-%d %H:%M} UTC, but {what} on {time:%Y-%m-%d}, so nobody can tell what "
            f"has expired: {SET_IT}{more}"
        )


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


def publisher_of(members: Mapping[str, bytes]) -> str:
    """Who signs the chain of roots: SHA-256 of its first root, which no rotation of keys changes."""
    return hashlib.sha256(members[root_name(1)]).hexdigest()


def check_product(site: Site, name: str, publisher: str, *, switch_product: bool) -> None:
    """Refuse another product than the site serves, unless the operator wants it, and any other publisher.

    Raises:
        ProductError, PublisherError: with both names.
    """
    known = site.installed()
    current = site.pointed("current")
    pinned = next((r for r in known if r.version == current), max(known, key=lambda r: r.installed_at, default=None))
    if pinned is None:
        return
    if any(receipt.publisher not in ("", publisher) for receipt in known):
        raise PublisherError(
            "the archive comes from another publisher than the releases of this site: install it into a prefix of its "
            "own"
        )
    if pinned.name != name and not switch_product:
        raise ProductError(
            f"this site serves {pinned.name}, the archive holds {name}: give --switch-product if that is what you want"
        )
