"""The proof that files are closed: each kind of process tries what it must not reach, and the kernel must refuse it.

An attempt that is not refused does no harm: it opens a file and closes it, or makes an empty file and removes it, or
executes a file that is empty or does nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from appliance.child import ChildEndedError, errno_of_child, value_of_child
from appliance.errors import ApplianceError
from appliance.isolation.files import Places, file_rules, scratch_dir
from appliance.isolation.kernel import SilenceError
from appliance.isolation.landlock import restrict_program
from appliance.isolation.policy import Kind
from appliance.isolation.privileges import check_access
from appliance.isolation.proof import AttemptResult

# ENOENT: this host has no such file. EROFS: the file system is read-only.
_REFUSALS = {errno.EACCES, errno.EROFS, errno.ENOENT}
_NOT_A_TERMINAL = os.O_NONBLOCK | os.O_NOCTTY

_Row = tuple[str, Callable[[], None]]


def prove_files(abi: int, places: Places, *, leave_out: Collection[str] = ()) -> tuple[AttemptResult, ...]:
    """Try every row of every kind, each kind in a child under its own rules.

    Args:
        leave_out: with "files" the children have no rules, so the proof must fail. For tests.
    Raises:
        SilenceError: ``state/`` is closed to this user, or a row was not refused; all such are named.
    """
    check_access(places.state, os.R_OK | os.W_OK | os.X_OK)
    with _bait(places.state / "signer", places.database_dir) as bait:
        results = tuple(
            result for kind in places.kinds for result in _results_of_child(kind, abi, places, bait, leave_out)
        )
    found = [f"{result.kind}: {result.way} ({result.answer})" for result in results if not result.refused]
    if found:
        raise SilenceError(f"files are not closed, nothing may start: {'; '.join(found)}")
    return results


@contextmanager
def _bait(*directories: Path) -> Iterator[str]:
    """Keep an empty file in each directory during the proof, for attempts to read it; yields its name."""
    name = f".proof-{os.getpid()}"
    paths = [directory / name for directory in directories]
    try:
        for path in paths:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        yield name
    except OSError as exc:
        raise SilenceError(f"the proof cannot write {exc.filename}: {exc.strerror}") from exc
    finally:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _results_of_child(
    kind: Kind, abi: int, places: Places, bait: str, leave_out: Collection[str]
) -> list[AttemptResult]:
    try:
        report = value_of_child(lambda _: _report(kind, abi, places, bait, leave_out))
    except ChildEndedError as exc:
        raise SilenceError(f"the process that tried the files of the {kind} ended ({exc})") from exc
    if isinstance(report, str):
        raise SilenceError(report)
    return [AttemptResult(**result) for result in report]


def _report(
    kind: Kind, abi: int, places: Places, bait: str, leave_out: Collection[str]
) -> list[dict[str, object]] | str:
    try:
        if "files" not in leave_out:
            restrict_program(abi, file_rules(kind, places))
        return [asdict(_try(kind, name, perform)) for name, perform in _rows(kind, places, bait)]
    except ApplianceError as exc:
        return str(exc)


def _try(kind: Kind, name: str, perform: Callable[[], None]) -> AttemptResult:
    try:
        perform()
    except OSError as exc:
        code = exc.errno or 0
        return AttemptResult(name, errno.errorcode.get(code, str(code)), code in _REFUSALS, kind)
    return AttemptResult(name, "OPEN", False, kind)


def _rows(kind: Kind, places: Places, bait: str) -> Iterator[_Row]:
    yield from _rows_of_host()
    yield from _rows_of_site(kind, places, bait)
    if kind in (Kind.RECORDER, Kind.WEB, Kind.ADMINISTRATION):
        written = scratch_dir(places.state, kind) / bait
        yield "execute a file it has written", lambda: _execute_written(written)
    yield "execute a program of the host", lambda: _execute(Path("/bin/true"))


def _rows_of_host() -> Iterator[_Row]:
    yield "write the kernel's core_pattern", lambda: _open("/proc/sys/kernel/core_pattern", os.O_WRONLY)
    yield "write into /etc/cron.d", lambda: _make("/etc/cron.d")
    yield "write into /tmp", lambda: _make("/tmp")  # noqa: S108 - it must be refused
    yield "read /etc/hosts", lambda: _open("/etc/hosts", os.O_RDONLY)
    yield "look into /home", lambda: _open("/home", os.O_RDONLY | os.O_DIRECTORY)
    for device in ("kmsg", "mem", "kvm", "userfaultfd", "net/tun", "fuse", "ttyS0", "tty"):
        flags = (os.O_WRONLY if device == "kmsg" else os.O_RDWR) | _NOT_A_TERMINAL
        yield f"open /dev/{device}", lambda device=device, flags=flags: _open(f"/dev/{device}", flags)  # type: ignore[misc]


def _rows_of_site(kind: Kind, places: Places, bait: str) -> Iterator[_Row]:
    state = places.state
    yield "write beside its own code", lambda: _make(Path(__file__).parents[2])
    yield "write into the release", lambda: _make(places.release)
    yield "write into state/trust", lambda: _make(state / "trust")
    yield "write the settings", lambda: _make(state / "config")
    if kind is not Kind.RECORDER:
        yield "read the signing key", lambda: _open(state / "signer" / bait, os.O_RDONLY)
        yield "write into state/signer", lambda: _make(state / "signer")
        yield "write into state/audit", lambda: _make(state / "audit")
        yield "write into state/keys", lambda: _make(state / "keys")
    if kind is not Kind.PACKER:
        yield "write packed weights", lambda: _make(state / "packed")
    if kind is Kind.READER:
        yield "look into state/config", lambda: _open(state / "config", os.O_RDONLY | os.O_DIRECTORY)
    if kind in (Kind.PACKER, Kind.READER, Kind.ENGINE_CPU, Kind.ENGINE_CUDA):
        yield "read the database", lambda: _open(places.database_dir / bait, os.O_RDONLY)
        yield "write the database", lambda: _make(places.database_dir)


def _open(path: Path | str, flags: int) -> None:
    os.close(os.open(path, flags | os.O_CLOEXEC))


def _make(directory: Path | str) -> None:
    """Make an empty file under a name that no program reads, and remove it at once."""
    path = Path(directory, f".silence-proof-{os.getpid()}")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    path.unlink()


def _execute_written(path: Path) -> None:
    """Make an empty executable file and execute it: a kernel that allows this answers ENOEXEC."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700))
    try:
        os.execve(path, [str(path)], {})  # noqa: S606 - it must be refused
    finally:
        path.unlink()


def _execute(path: Path) -> None:
    """Execute a program in a child, which ends with the errno or with the exit status of the program.

    Raises:
        OSError: it was refused.
    """
    code = errno_of_child(lambda: os.execve(path, [str(path)], {}))  # noqa: S606 - it must be refused
    if code:
        raise OSError(code, os.strerror(code))
