"""Unpacks a release's wheels into its Python environment: exactly the locked ones, and exactly their packages.

`environment_members` says which file comes from which member of which wheel. `installer install` writes these files,
and `installer verify --prefix` compares an installed release with the same members. So an environment is a function of
signed bytes alone: nothing of the host (pip, its configuration, an index) has a say in it.

Formats: binary distribution format 1 (PyPA specification), and requirements.lock as `bundler` writes it.

A wheel may write its own names alone (`installer.wheel_names`), and each of its files must be what its RECORD says
(`installer.wheel_record`).

Left out on purpose: console scripts and `.data` scripts, headers and data, and the tests of packages, because no part
of the appliance uses them. The compiled code of a wheel is left out as well, because it is made here.
"""

from __future__ import annotations

import importlib.util
import marshal
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from installer.errors import WheelInstallError
from installer.wheel_names import check_names, own_info
from installer.wheel_record import MAX_RECORD_BYTES, Recorded, compare_with_record, parse_record

LOCKED_WHEEL = re.compile(r"([a-z0-9-]+)==([0-9A-Za-z.+!-]+) --hash=sha256:([0-9a-f]{64})")  # a line of a lock
_LAUNCHER_SOURCE = "appliance/runtime/launch.py"
_SCHEME = re.compile(r"[^/]+\.data/(purelib|platlib|[^/]+)/(.+)")
_DAMAGE = (  # what zipfile raises for bytes that are no wheel; ValueError: a name is not the UTF-8 that it says
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, struct.error, ValueError,
)  # fmt: skip
_UNREFERENCED = 2  # the last version of marshal whose bytes do not depend on other objects of the process
_UNCHECKED_HASH = (0b01).to_bytes(4, "little")  # PEP 552: Python does not compare the source; the manifest covers both
MAX_FILE_BYTES = 4 << 30
_COMPRESSED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # as every tool makes wheels
_MAX_NAME_BYTES = 220  # of one component: a file system takes 255, and the compiled file has a longer name
_MAX_PATH_BYTES = 1000  # below the packages


@dataclass(frozen=True)
class Member:
    """A file of a wheel."""

    wheel: Path
    name: str
    size_bytes: int
    crc: int
    sha256: str  # as RECORD says; empty for RECORD, which cannot say its own


def packages_directory(python: str) -> str:
    """Where the packages lie, relative to the release. ``python`` is like "3.11"."""
    return f"venv/lib/python{python}/site-packages"


def environment_members(
    wheels: Mapping[str, Path], lock: str, python: str, *, kept: Container[str] = ()
) -> dict[str, Member]:
    """Path relative to the release -> the member of a wheel that belongs there.

    Args:
        wheels: SHA-256 -> file, of every wheel that the release carries; the digests are verified.
        lock: the lock of this Python.
        kept: paths that are not left out, if wheels have them: installers before 0.2 also unpacked tests.
    Raises:
        WheelInstallError: a line of the lock is not a locked wheel, or names one twice; its wheel is absent, is no
            wheel, differs from its RECORD, or would write outside its packages; or two wheels claim one path.
    """
    members: dict[str, Member] = {}
    names: dict[str, dict[str, int]] = {}
    distributions: set[str] = set()
    for number, line in enumerate(lock.splitlines(), start=1):
        fields, where = LOCKED_WHEEL.fullmatch(line), f"the lock for Python {python}, line {number}"
        if fields is None:
            raise WheelInstallError(f"{where}: not a wheel with its version and SHA-256 hash")
        wheel = _locked_wheel(wheels, *fields.groups())
        if _canonical(fields[1]) in distributions:
            raise WheelInstallError(f"{where}: names {fields[1]} twice")
        distributions.add(_canonical(fields[1]))
        found = _by_place(wheel)
        names[wheel.name] = {path: member.size_bytes for path, member in found.items()}
        for path, member in found.items():
            place = f"{packages_directory(python)}/{path}"
            if "/tests/" in f"/{path}" and place not in kept:
                continue
            other = members.setdefault(place, member)
            if (other.size_bytes, other.crc) != (member.size_bytes, member.crc):
                raise WheelInstallError(f"{other.wheel.name} and {member.wheel.name} hold different files {path}")
    check_names(names)
    directories = {str(parent) for place in members for parent in PurePosixPath(place).parents}
    if clash := sorted(directories & members.keys()):
        raise WheelInstallError(f"{clash[0]} is a file in one wheel and a directory in another")
    return members


def open_members(members: Mapping[str, Member]) -> Iterator[tuple[str, IO[bytes]]]:
    """Every member, open for reading until the next one is requested. Each wheel is opened once.

    Raises:
        WheelInstallError: a wheel is damaged.
    """
    by_wheel: dict[Path, list[str]] = {}
    for place, member in members.items():
        by_wheel.setdefault(member.wheel, []).append(place)
    for wheel, places in by_wheel.items():
        with _opened(wheel) as archive:
            for place in places:
                with archive.open(members[place].name) as stream:
                    yield place, stream


@contextmanager
def as_damage(wheel: Path) -> Iterator[None]:
    """Reading bytes of the wheel in this block fails as `WheelInstallError` where they are damaged."""
    try:
        yield
    except _DAMAGE as exc:
        raise WheelInstallError(f"{wheel.name} is damaged: {exc}") from exc


def launcher_bytes(members: Mapping[str, Member], interpreter: str, python: str) -> bytes:
    """The contents of venv/bin/appliance: a first line that names the host's interpreter, then the wheel's launch.py.

    Raises:
        WheelInstallError: the release has none.
    """
    member = members.get(f"{packages_directory(python)}/{_LAUNCHER_SOURCE}")
    if member is None:
        raise WheelInstallError(f"no wheel of the release has {_LAUNCHER_SOURCE}: build it with a newer bundler")
    with _opened(member.wheel) as archive:
        return f"#!{interpreter} -IS\n".encode() + archive.read(member.name)


def compiled(place: str, source: bytes) -> tuple[str, bytes] | None:
    """Path and contents of the compiled form of a source file, for the running interpreter; None where there is none.

    The bytes depend only on the source, its path below the packages and the interpreter's version, so that they can be
    made again and compared. Tests of packages are not compiled, because nothing runs them.

    Raises:
        WheelInstallError: the source is nested so deeply that the outcome would depend on this process.
    """
    if not place.endswith(".py") or "/tests/" in place:
        return None
    below = place.split("/site-packages/", 1)[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's code: invalid escapes and the like
            code = compile(source, below, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):  # a template, or an example for another version of Python
        return None
    except (RecursionError, MemoryError) as exc:
        raise WheelInstallError(f"{below} is nested too deeply to be compiled") from exc
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
    return importlib.util.cache_from_source(place, optimization=""), head + marshal.dumps(code, _UNREFERENCED)


def _locked_wheel(wheels: Mapping[str, Path], name: str, version: str, digest: str) -> Path:
    wheel = wheels.get(digest)
    if wheel is None:
        raise WheelInstallError(f"the release has no wheel with the hash that the lock names for {name} {version}")
    distribution, _, rest = wheel.name.partition("-")
    if _canonical(distribution) != _canonical(name) or rest.split("-")[0] != version or wheel.suffix != ".whl":
        raise WheelInstallError(f"{wheel.name} is not {name} {version}, which the lock names")
    return wheel


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _by_place(wheel: Path) -> dict[str, Member]:
    """What is installed from a wheel, by its path below the packages. Two members must not share one."""
    found: dict[str, Member] = {}
    for path, member in _installed_members(wheel):
        if path in found:
            raise WheelInstallError(f"{wheel.name} holds two files for the place {path}")
        found[path] = member
    return found


def _installed_members(wheel: Path) -> Iterator[tuple[str, Member]]:
    """Path below the packages and member, for everything that is installed from a wheel."""
    with _opened(wheel) as archive:
        recorded = _record_of(wheel, archive)
        for info in archive.infolist():
            if info.is_dir() or "__pycache__" in info.filename.split("/") or info.filename.endswith(".pyc"):
                continue
            path = info.filename
            if scheme := _SCHEME.fullmatch(path):
                if scheme[1] not in ("purelib", "platlib"):
                    continue
                path = scheme[2]
            kind = info.external_attr >> 28  # the type bits of a Unix mode: 8 a plain file, 0 where no mode was stored
            if not _is_plain(path) or kind not in (0, 8) or info.flag_bits & 1 or info.file_size > MAX_FILE_BYTES:
                raise WheelInstallError(f"{wheel.name}: {info.filename!r} is not a plain file inside its packages")
            if not _is_short(path):
                raise WheelInstallError(f"{wheel.name}: the name {info.filename[:60]!r}.. is too long for a host")
            said = recorded.get(info.filename)
            if said is not None and said.size_bytes not in (None, info.file_size):
                raise WheelInstallError(f"{wheel.name}: {info.filename!r} has not the size that its RECORD says")
            yield path, Member(wheel, info.filename, info.file_size, info.CRC, "" if said is None else said.sha256)


def _record_of(wheel: Path, archive: zipfile.ZipFile) -> dict[str, Recorded]:
    """What the wheel's RECORD says, which lists exactly its files."""
    info = own_info(wheel.name)
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    if len(set(names)) != len(names):
        raise WheelInstallError(f"{wheel.name} holds two files of one name")
    if strange := [entry.filename for entry in archive.infolist() if entry.compress_type not in _COMPRESSED]:
        raise WheelInstallError(f"{wheel.name}: {strange[0]!r} is compressed in a way that no wheel is")
    record = f"{info}/RECORD"
    if record not in names or archive.getinfo(record).file_size > MAX_RECORD_BYTES:
        raise WheelInstallError(f"{wheel.name} has no RECORD of its files")
    recorded = parse_record(wheel.name, info, archive.read(record))
    compare_with_record(wheel.name, info, recorded, names)
    return recorded


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and all(part not in ("", ".", "..") for part in parts)


def _is_short(path: str) -> bool:
    """Whether every file system of a site can hold it."""
    sizes = [len(part.encode()) for part in path.split("/")]
    return max(sizes) <= _MAX_NAME_BYTES and sum(sizes) + len(sizes) <= _MAX_PATH_BYTES


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with as_damage(wheel), zipfile.ZipFile(wheel) as archive:
        yield archive
