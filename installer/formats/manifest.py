"""manifest.json of an installed release: lists every file, and a release is compared with it.

    {"format": 1, "files": {"venv/bin/appliance": [size, sha256], "model/cpu/weights-00001.bin": [size, sha256, time]}}

The installer writes it from verified bytes, before the self-test. `appliance/runtime/launch.py` runs this module before
it imports anything else of the release, so it uses the standard library alone.

Covered: contents, missing files, files and directories that the manifest does not list, links and other special files,
owners and permissions that let others write or keep the appliance from reading. Not covered: a manifest that was
exchanged together with what it lists; only signatures show that (`installer verify --prefix`).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

FORMAT = 1
MANIFEST, RECEIPT = "manifest.json", "receipt.json"
ENVIRONMENT = "venv"  # everything that can run lies below it
LAUNCHER = f"{ENVIRONMENT}/bin/appliance"  # the one file that the host's kernel must be allowed to start
MAX_MANIFEST_BYTES = 64 << 20
_READ_BYTES = 256 << 10  # a multiple of this is read at once; hashlib releases the interpreter's lock for each piece
_LARGE_BYTES = 64 << 10  # smaller files cost more in Python than in hashing: they stay in the calling thread
_MAX_THREADS = 8
_NAMED = 3  # differences that a sentence names

Fault = Literal["differs", "is missing", "is not part of the release", "is no plain file", "can be written by others",
                "runs with its owner's rights", "belongs to another user", "cannot be read",
                "cannot be used"]  # fmt: skip
Pace = Callable[[int], None]  # is called with the bytes of each piece after reading it; may wait


class ManifestError(Exception):
    """There is no manifest, or it is not the one that the receipt names."""


@dataclass(frozen=True)
class Entry:
    """The one content that a file may have. ``mtime_ns`` is kept for weights and wheels alone."""

    size_bytes: int
    sha256: str
    mtime_ns: int | None = None


@dataclass(frozen=True)
class Manifest:
    """Path relative to the release -> what must lie there. ``sha256`` is that of manifest.json."""

    files: Mapping[str, Entry]
    sha256: str


@dataclass(frozen=True)
class Difference:
    """A file or directory that is not as it was installed. ``path`` is printable, whoever chose the name."""

    path: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.path} {self.fault}"


def encode_manifest(files: Mapping[str, Entry]) -> bytes:
    """The bytes of manifest.json."""
    body = {
        path: [entry.size_bytes, entry.sha256, *([] if entry.mtime_ns is None else [entry.mtime_ns])]
        for path, entry in sorted(files.items())
    }
    return json.dumps({"format": FORMAT, "files": body}, indent=0).encode() + b"\n"


def parse_manifest(data: bytes) -> Manifest:
    """Parse manifest.json.

    Raises:
        ManifestError: it is not such a file.
    """
    try:
        body = json.loads(data)
        if body["format"] != FORMAT:
            raise ManifestError(f"{MANIFEST} has format {body['format']!r}; this version reads format {FORMAT}")
        files = {str(path): Entry(*fields) for path, fields in body["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ManifestError(f"{MANIFEST} is damaged ({type(exc).__name__})") from exc
    return Manifest(files, hashlib.sha256(data).hexdigest())


def load_manifest(release: str, *, has_receipt: bool = True) -> Manifest:
    """The manifest of the release in this directory.

    Args:
        has_receipt: False while the release is being installed: the receipt is written last.
    Raises:
        ManifestError: a file is missing or damaged, or the receipt names another manifest.
    """
    try:
        with open(os.path.join(release, MANIFEST), "rb", opener=_at_once) as file:
            data = file.read(MAX_MANIFEST_BYTES)
        if has_receipt:
            with open(os.path.join(release, RECEIPT), "rb", opener=_at_once) as file:
                named = json.loads(file.read(MAX_MANIFEST_BYTES))["manifest_sha256"]
            if named != hashlib.sha256(data).hexdigest():
                raise ManifestError(f"{MANIFEST} is not the one that {RECEIPT} names")
    except OSError as exc:
        raise ManifestError(f"{os.path.basename(str(exc.filename))} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ManifestError(f"{RECEIPT} is damaged ({type(exc).__name__})") from exc
    return parse_manifest(data)


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: a named pipe in the file's place would block until somebody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


def compare_code(release: str, manifest: Manifest, *, pace: Pace | None = None) -> tuple[Difference, ...]:
    """What differs in the release's Python environment, by the digest of every file."""
    expected = {path: entry for path, entry in manifest.files.items() if _is_code(path)}
    found = _walk(release, ENVIRONMENT)
    return _compare(release, expected, found, hash_all=True, pace=pace)


def compare_data(
    release: str, manifest: Manifest, *, hash_all: bool = False, pace: Pace | None = None
) -> tuple[Difference, ...]:
    """What differs in everything else: graph, weights, vocabulary, wheels, descriptions, and what lies beside them.

    Args:
        hash_all: False compares weights and wheels by size and time; one whose time differs is hashed.
    """
    expected = {path: entry for path, entry in manifest.files.items() if not _is_code(path)}
    found = {
        path: status for path, status in _walk(release, "").items() if path not in (ENVIRONMENT, MANIFEST, RECEIPT)
    }
    return _compare(release, expected, found, hash_all=hash_all, pace=pace)


def is_bulk(path: str) -> bool:
    """Whether a file is too large to be hashed at every start: weights and wheels. Nothing reads wheels later."""
    is_wheel = path.startswith("wheels/") and path.endswith(".whl")
    return is_wheel or (path.startswith("model/") and path.endswith(".bin"))


def damage(differences: tuple[Difference, ...]) -> str:
    """The differences as a clause: the first few by name, the rest by number."""
    named = ", ".join(str(difference) for difference in differences[:_NAMED])
    more = len(differences) - _NAMED
    return named if more <= 0 else f"{named}, and {more} more"


def _is_code(path: str) -> bool:
    return path.startswith(f"{ENVIRONMENT}/")


def _walk(release: str, top: str) -> dict[str, os.stat_result]:
    """Status of everything at and below ``top``, by path relative to the release; links are not followed.

    The environment counts as one directory, unless it is the top.
    """
    found: dict[str, os.stat_result] = {}
    if top:
        try:
            found[top] = os.lstat(os.path.join(release, top))
        except OSError:
            return {}
        if not stat.S_ISDIR(found[top].st_mode):
            return found
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            entries = os.scandir(os.path.join(release, directory))
        except OSError:
            if directory == top:
                raise
            continue  # what it should hold counts as missing, so a closed directory hides nothing
        with entries:
            for entry in entries:
                path = f"{directory}/{entry.name}" if directory else entry.name
                found[path] = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False) and path != ENVIRONMENT:
                    waiting.append(path)
    return found


def _compare(
    release: str,
    expected: Mapping[str, Entry],
    found: Mapping[str, os.stat_result],
    *,
    hash_all: bool,
    pace: Pace | None,
) -> tuple[Difference, ...]:
    faults: dict[str, Fault] = {path: "is missing" for path in expected if path not in found}
    directories = {parent for path in expected for parent in _parents(path)}
    owners = {0, os.stat(release).st_uid}
    to_hash: list[str] = []
    for path, status in found.items():
        fault = _fault_of(path, status, expected.get(path), directories, owners)
        if fault is not None:
            faults[path] = fault
        elif path in expected and (hash_all or not is_bulk(path) or status.st_mtime_ns != expected[path].mtime_ns):
            to_hash.append(path)
    faults |= _hash_faults(release, expected, to_hash, pace)
    return tuple(Difference(printable(path), fault) for path, fault in sorted(faults.items()))


def printable(text: str) -> str:
    """The text with escapes for what is not seen as itself: control characters, line ends, marks that turn the
    direction of writing, and bytes that are not UTF-8.
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _parents(path: str) -> Iterator[str]:
    while (cut := path.rfind("/")) > 0:
        path = path[:cut]
        yield path


def _fault_of(
    path: str, status: os.stat_result, entry: Entry | None, directories: set[str], owners: set[int]
) -> Fault | None:
    """What is wrong with a file or directory, as far as its status shows.

    Args:
        owners: who may own it: root, and whoever owns the release.
    """
    if stat.S_ISDIR(status.st_mode):
        if path not in directories:
            return "is not part of the release"
    elif entry is None:
        return "is not part of the release"
    elif not stat.S_ISREG(status.st_mode):
        return "is no plain file"
    elif status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return "runs with its owner's rights"
    elif status.st_size != entry.size_bytes:
        return "differs"
    if status.st_uid not in owners:
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return "cannot be read" if _is_closed(path, status) else None


def _is_closed(path: str, status: os.stat_result) -> bool:
    """Whether the file is closed to the appliance's user, by its mode alone: root, who asks before the appliance drops
    privileges, could read everything.

    What root owns must be open to everybody, as the installer makes it, because the appliance runs as another user.
    What an unprivileged user owns must be open to that user, because the appliance then runs as that user. Group rights
    do not count: membership is decided outside the release and can change after the comparison. So mode 0750 closes a
    directory that root owns, and does not close one that an unprivileged user owns.
    """
    wanted = 0o555 if stat.S_ISDIR(status.st_mode) or path == LAUNCHER else 0o444
    whose = 0o007 if status.st_uid == 0 else 0o700
    return status.st_mode & wanted & whose != wanted & whose


def _hash_faults(release: str, expected: Mapping[str, Entry], paths: list[str], pace: Pace | None) -> dict[str, Fault]:
    """Hash these files; large ones in threads of their own, unless the caller paces."""
    faults: dict[str, Fault] = {}

    def check(some: Iterable[str]) -> None:
        for path in some:
            try:
                found = file_digest(os.path.join(release, path), pace, keep_cached=not is_bulk(path))
                if found != expected[path].sha256:
                    faults[path] = "differs"
            except OSError:
                faults[path] = "cannot be read"

    if pace is not None:
        check(paths)
        return faults
    paths = sorted(paths, key=lambda path: -expected[path].size_bytes)
    large = [path for path in paths if expected[path].size_bytes >= _LARGE_BYTES]
    queue = iter(large)  # shared: a list's iterator hands out each item once
    with _threads(min(os.cpu_count() or 1, _MAX_THREADS, len(large)) - 1, lambda: check(queue)):
        check(paths[len(large) :])
        check(queue)
    return faults


@contextmanager
def _threads(count: int, work: Callable[[], None]) -> Iterator[None]:
    """Threads that work beside the block.

    After the block the kernel, too, has ended them, which `join` alone does not ensure: `appliance.isolation` refuses a
    process of two threads.
    """
    before = _thread_count()
    threads = [threading.Thread(target=work) for _ in range(count)]
    started = []
    for thread in threads:
        with suppress(RuntimeError):  # this user may start no more of them: the block does the work alone
            thread.start()
            started.append(thread)
    try:
        yield
    finally:
        for thread in started:
            thread.join()
        while _thread_count() > before:
            os.sched_yield()


def _thread_count() -> int:
    """Threads of this process; 0 in a process that may not ask, because it is confined already."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def file_digest(path: str, pace: Pace | None, *, keep_cached: bool) -> str:
    """SHA-256 of a file, which must not be a link; without keep_cached it leaves the page cache as it was.

    Raises:
        OSError: it cannot be read.
    """
    running = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    offset = 0
    try:
        while piece := os.read(descriptor, _READ_BYTES):
            running.update(piece)
            if pace is not None:
                if not keep_cached:  # else weights would displace what the engine reads; what it has mapped stays
                    os.posix_fadvise(descriptor, offset, len(piece), os.POSIX_FADV_DONTNEED)
                pace(len(piece))
            offset += len(piece)
    finally:
        os.close(descriptor)
    return running.hexdigest()
