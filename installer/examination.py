"""Whether a host and a site can take a release: one check for each thing that it needs. Nothing is written.

`installer preflight` and `install --dry-run` print every check; `installer verify` prints what is not well. A FAIL is
what `installer install` refuses, or what would keep the appliance from serving; a warning is what costs speed or
protection, or what an operator can still change.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from installer.errors import ClockError, InstallerError, OtherPythonError
from installer.formats.release import Release
from installer.host import PORTABLE, HostFacts
from installer.interpreters import find_interpreter
from installer.prefix import check_kind, check_name, check_place
from installer.preflight import (
    NEEDED_LIBRARIES,
    check_clock,
    check_libraries,
    check_modules,
    check_platform,
    check_proc,
    check_product,
    needed_bytes,
    packed_bytes,
    publisher_of,
    this_host,
)
from installer.site import OURS, PASSING, Site
from installer.store import missing_bytes
from installer.targets import Target
from installer.trust import VerifiedMetadata

Outcome = Literal["ok", "warn", "FAIL"]
SERVES_ON = 8080  # as `listen.port` in docs/settings.md
_LEAST_DRIVER = 580  # the first that runs CUDA 13, which onnxruntime-gpu needs
_TCP_LANDLOCK = 4
# Beside the weights: engine, recorder, supervisor and two web workers (appliance/engine/memory_needs.py).
_BESIDE_BYTES = 900 << 20
_PACKED_SHARE = 0.80  # of the stored weights stays in memory at least: not the embedding, and 8 bits for dense layers


@dataclass(frozen=True)
class Check:
    """The result of one check. ``remedy`` is None if there is nothing to do."""

    subject: str
    outcome: Outcome
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Question:
    """What is examined for whom."""

    release: Release
    metadata: VerifiedMetadata
    facts: HostFacts
    now: datetime
    environ: Mapping[str, str]
    port: int | None = SERVES_ON  # None: nobody will serve here now
    switch_product: bool = False


def examine_host(question: Question) -> list[Check]:
    """What the host alone can tell. Without /proc it does not tell processor, memory, driver and namespaces."""
    proc = _outcome("/proc", _examine_proc)
    told = [] if proc.outcome == "FAIL" else [
        _processor(question),
        _memory(question),
        *_gpu(question),
        *_silence(question.facts),
    ]  # fmt: skip
    port = [] if question.port is None else [_port(question.port)]
    return [_platform(question), proc, _outcome("libraries", _examine_libraries), *told, *port]


def examine_site(question: Question, prefix: Path | None) -> list[Check]:
    """What the prefix can tell, which need not exist. Its receipts set the clock's floor, too."""
    if prefix is None:
        return [_clock(question, [])]
    site = Site(Path(os.path.abspath(prefix)))
    installed = site.installed()
    return [
        _outcome("prefix", lambda: _examine_prefix(site.prefix)),
        _space(question, site),
        _outcome("product", lambda: _examine_product(question, site)),
        _clock(question, [receipt.installed_at for receipt in installed]),
    ]


def is_well(checks: Sequence[Check]) -> bool:
    return all(check.outcome != "FAIL" for check in checks)


def _outcome(subject: str, look: Callable[[], str]) -> Check:
    """The check of something that is refused in a sentence of its own."""
    try:
        return Check(subject, "ok", look())
    except InstallerError as exc:
        return _refused(subject, exc)


def _refused(subject: str, exc: InstallerError) -> Check:
    """A refusal says what is wrong, a colon, and what to do."""
    detail, _, remedy = str(exc).partition(": ")
    return Check(subject, "FAIL", detail, remedy or None)


def _examine_proc() -> str:
    check_proc()
    return "it is mounted"


def _examine_libraries() -> str:
    check_libraries()
    return f"{', '.join(NEEDED_LIBRARIES)} can be loaded"


def _platform(question: Question) -> Check:
    target, host = question.release.target, this_host()
    try:
        check_platform(question.release, host)
        check_modules()
    except OtherPythonError as exc:
        found = find_interpreter(target.pythons, question.environ)
        if found is None:
            return _refused("platform", exc)
        return Check("platform", "ok", f"{found.path} (Python {found.python}) will run the release")
    except InstallerError as exc:
        return _refused("platform", exc)
    library = "glibc {}.{}".format(*host.glibc) if host.glibc else "another C library"
    return Check("platform", "ok", f"{host.machine}, {library}, Python {host.python}")


def _processor(question: Question) -> Check:
    path = question.facts.path
    if "cpu" not in question.release.accelerators:
        return Check("processor", "ok", "the release computes on a GPU")
    if path == PORTABLE:
        return Check("processor", "warn", "it has no AVX2, so answers are slow", "use another machine")
    return Check("processor", "ok", f"CPU answers will use {path}")


def _memory(question: Question) -> Check:
    """On a CPU the weights must stay in memory. On a GPU they do not."""
    facts = question.facts
    known = [size for size in (facts.memory_bytes, facts.limit_bytes) if size is not None]
    if not known:
        return Check("memory", "warn", "this host does not tell how much memory it has")
    available, weights = min(known), _weights_bytes(question.metadata.targets, "cpu")
    where = "its control group allows" if facts.limit_bytes == available else "this host has"
    if "cpu" not in question.release.accelerators:
        weights = 0
    least, usual = int(_PACKED_SHARE * weights) + _BESIDE_BYTES, weights + _BESIDE_BYTES
    said = f"{where} {available / 1e9:.1f} GB"
    remedy = "give the machine or its control group more memory, or install a smaller model"
    if available < least:
        outcome: Outcome = "FAIL" if not _has_cuda(question) else "warn"
        return Check("memory", outcome, f"{said}, the engine needs at least {least / 1e9:.1f} GB on a CPU", remedy)
    if available < usual:
        return Check("memory", "warn", f"{said}, the engine may need {usual / 1e9:.1f} GB on a CPU", remedy)
    return Check("memory", "ok", f"{said}, the engine needs {usual / 1e9:.1f} GB")


def _weights_bytes(targets: Sequence[Target], accelerator: str) -> int:
    return sum(t.size_bytes for t in targets if t.path.startswith(f"model/{accelerator}/") and t.path.endswith(".bin"))


def _has_cuda(question: Question) -> bool:
    return "cuda" in question.release.accelerators and question.facts.has_gpu


def _gpu(question: Question) -> Iterator[Check]:
    if "cuda" not in question.release.accelerators:
        return
    facts, is_needed = question.facts, "cpu" not in question.release.accelerators
    bad: Outcome = "FAIL" if is_needed else "warn"
    instead = "" if is_needed else ", so the release computes on the CPU"
    if not facts.has_gpu or facts.gpu_driver is None:
        yield Check("GPU", bad, f"there is no GPU with NVIDIA's driver{instead}", "install a GPU and its driver")
    elif int(facts.gpu_driver.split(".")[0]) < _LEAST_DRIVER:
        yield Check(
            "GPU", bad, f"its driver is {facts.gpu_driver}, CUDA 13 needs {_LEAST_DRIVER}{instead}",
            f"install driver {_LEAST_DRIVER} or newer",
        )  # fmt: skip
    else:
        yield Check("GPU", "ok", f"driver {facts.gpu_driver}")


def _silence(facts: HostFacts) -> Iterator[Check]:
    if facts.has_seccomp:
        yield Check("silence", "ok", "the kernel has seccomp filters, which shut every way out")
    else:
        yield Check("silence", "FAIL", "the kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER")
    if facts.landlock_abi == 0:
        yield Check("Landlock", "warn", "the kernel has none", "enable it (lsm=landlock,..) to confine files, too")
    elif facts.landlock_abi < _TCP_LANDLOCK:
        yield Check("Landlock", "warn", f"ABI {facts.landlock_abi} confines files, not TCP", "Linux 6.7 adds TCP")
    else:
        yield Check("Landlock", "ok", f"ABI {facts.landlock_abi} confines files and TCP")
    if facts.has_user_namespaces or os.geteuid() == 0:
        yield Check("network namespace", "ok", "the appliance can have one of its own")
    else:
        yield Check(
            "network namespace", "warn", "this user may make no user namespace, so the seccomp filter stands alone",
            "allow user namespaces, or install as root",
        )  # fmt: skip


def _clock(question: Question, installed_at: Sequence[str]) -> Check:
    try:
        check_clock(question.now, question.metadata.version, question.metadata.expires, installed_at)
    except ClockError as exc:
        return Check("clock", "FAIL", str(exc))
    return Check("clock", "ok", f"{question.now:%Y-%m-%d %H:%M} UTC")


def _port(port: int) -> Check:
    """Whether somebody listens there already. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - for this moment, and it does not listen
        except OSError as exc:
            return Check("port", "warn", f"port {port} cannot be used: {exc.strerror}", "set listen.port to another")
    return Check("port", "ok", f"port {port} is free")


def _examine_prefix(prefix: Path) -> str:
    check_name(prefix)
    here = _existing(prefix)
    flags, kind = os.statvfs(here).f_flag, check_kind(here)
    if flags & os.ST_RDONLY:
        raise InstallerError(f"the file system of {here} is mounted read-only: mount it for writing")
    if flags & os.ST_NOEXEC:
        raise InstallerError(f"nothing may be run from the file system of {here}: mount it without noexec")
    if here == prefix:
        check_place(prefix, set(os.listdir(prefix)) - {"lost+found"}, OURS | PASSING, may_mend=False)
    elif not os.access(here, os.W_OK | os.X_OK):
        raise InstallerError(f"{prefix} cannot be made, because this user may not write {here}: choose another prefix")
    return f"{prefix} on {kind or 'a file system of unknown type'}"


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.is_dir())


def _space(question: Question, site: Site) -> Check:
    """Bytes on the file system of the prefix, and on that of `state/`, where weights are packed for the processor."""
    targets = question.metadata.targets
    is_new = site.receipt(question.release.version) is None
    needed = needed_bytes(targets, missing_bytes(site, targets)) if is_new else 0
    packed = packed_bytes(targets) if "cpu" in question.release.accelerators else 0
    place, state = _existing(site.prefix), _existing(site.state)
    is_one = os.stat(place).st_dev == os.stat(state).st_dev
    wanted = {place: needed + packed} if is_one else {place: needed, state: packed}
    said = "; ".join(
        f"{directory} has {_free_bytes(directory) / 1e9:.1f} GB free, the release needs {size / 1e9:.1f} GB"
        for directory, size in wanted.items()
    )
    remedy = "free space, or choose another prefix"
    if _free_bytes(place) < needed:
        return Check("space", "FAIL", said, remedy)
    if any(_free_bytes(directory) < size for directory, size in wanted.items()):
        return Check("space", "warn", f"{said}, with the weights packed for this processor", remedy)
    return Check("space", "ok", said)


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _examine_product(question: Question, site: Site) -> str:
    release = question.release
    check_product(site, release.name, publisher_of(question.metadata.members), switch_product=question.switch_product)
    known = site.receipt(release.version)
    if known is None:
        return f"{release.name} {release.version} is new here"
    return f"{release.name} {release.version} is installed here"
