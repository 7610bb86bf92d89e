"""Whether this host can take a release, checked before anything is written. Each refusal is one sentence that says what
to do."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from installer.errors import OtherPythonError, PlatformError, SpaceError
from installer.formats.release import Release

NEEDED_LIBRARIES = ("libstdc++.so.6",)  # that no wheel brings
MARGIN_BYTES = 64 << 20
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


def check_host_parts(proc: Path = Path("/proc"), libraries: tuple[str, ...] = NEEDED_LIBRARIES) -> None:
    """Refuse a host without what a release needs beside Python: every usual system has it, a bare chroot may not.

    Raises:
        PlatformError: /proc is not mounted, or a library is missing.
    """
    if not (proc / "self" / "status").exists():
        raise PlatformError(
            "/proc is not mounted here, and the appliance proves by it that it can open no connection: mount it "
            "(mount -t proc proc /proc), then run this again"
        )
    for library in libraries:
        try:
            ctypes.CDLL(library)
        except OSError as exc:
            raise PlatformError(
                f"this host lacks the library {library}, which numpy and ONNX Runtime need: install it (Debian and "
                "Ubuntu: libstdc++6; RHEL: libstdc++)"
            ) from exc


def check_space(prefix: Path, *, blob_bytes: int, wheel_bytes: int) -> None:
    """Refuse a disk on which the release will not fit.

    Args:
        blob_bytes: what has yet to be copied into the store.
        wheel_bytes: size of the release's wheels, which are unpacked beside it.
    Raises:
        SpaceError: with the missing amount.
    """
    needed = blob_bytes + WHEEL_GROWTH * wheel_bytes + MARGIN_BYTES
    free = shutil.disk_usage(prefix).free
    if free < needed:
        raise SpaceError(
            f"{os.fspath(prefix)} has {free >> 20} MiB free, the release needs about {needed >> 20} MiB: "
            f"free {((needed - free) >> 20) + 1} MiB or choose another prefix"
        )
