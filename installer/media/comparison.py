"""What changes between two releases, from their signed lists of files and a few small files.

An installed release and an archive are compared in the same way. What a delta leaves out is read from the other side,
where it lies under the same digest. Nothing is executed, and weights are compared by their digests alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from installer.errors import ArchiveError
from installer.formats.about import FILE as ABOUT
from installer.formats.about import About, parse_about
from installer.formats.advisories import FILE as ADVISORIES
from installer.formats.advisories import Advisories, parse_advisories
from installer.formats.fields import FormatError
from installer.formats.manifest import printable
from installer.formats.release import Release
from installer.targets import Target

T = TypeVar("T")

_WEIGHTS = re.compile(r"model/(?:[^/]+/)?weights-[0-9]+\.bin")
_WHEEL = re.compile(r"wheels/(?:.*/)?([A-Za-z0-9_.]+)-([A-Za-z0-9_.+!]+)-[^/]+\.whl")


class Contents(Protocol):
    """A release whose files can be listed and read, wherever it lies."""

    @property
    def release(self) -> Release: ...

    @property
    def targets(self) -> tuple[Target, ...]: ...

    def read(self, path: str) -> bytes | None:
        """The contents of a file; None if it is not here."""


@dataclass(frozen=True)
class Change:
    """A named thing in both releases; None where it is absent."""

    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.name} {self.new} is new"
        if self.new is None:
            return f"{self.name} {self.old} is gone"
        if self.old == self.new:
            return f"{self.name} {self.new} was built anew"
        return f"{self.name}: {self.old} -> {self.new}"


@dataclass(frozen=True)
class Weights:
    """The files of weights, by digest."""

    is_same: bool
    total_bytes: int  # of the new release
    new_bytes: int  # of those, what the old release does not have


@dataclass(frozen=True)
class Vulnerabilities:
    """What each release says of its own parts, each by the data that travelled with it; None: it carries none."""

    old: Advisories | None
    new: Advisories | None


@dataclass(frozen=True)
class Comparison:
    """The changes from an old release to a new one. None: a release from before 0.2.0 does not say."""

    old: str  # name and version
    new: str
    release: tuple[Change, ...]  # fields of release.json
    packages: tuple[Change, ...]
    weights: Weights
    settings: tuple[Change, ...] | None  # with their defaults
    schema: Change | None  # of the database; equal on both sides: nothing is upgraded
    vulnerabilities: Vulnerabilities
    files: tuple[Change, ...]  # all other files, by digest
    new_bytes: int  # of all files, what the old release does not have: the size of a delta


def compare(old: Contents, new: Contents) -> Comparison:
    """Compare two releases.

    Raises:
        ArchiveError: a file that is needed is damaged.
    """
    old_about, new_about = _about(old, new), _about(new, old)
    known = {target.sha256 for target in old.targets}
    settings, schema = None, None
    if old_about is not None and new_about is not None:
        settings = tuple(_changes(old_about.settings, new_about.settings))
        schema = Change("schema", old_about.schema, new_about.schema)
    return Comparison(
        old=f"{old.release.name} {old.release.version}",
        new=f"{new.release.name} {new.release.version}",
        release=tuple(_changes(_fields(old.release), _fields(new.release))),
        packages=tuple(_packages(old.targets, new.targets)),
        weights=_weights(old.targets, new.targets),
        settings=settings,
        schema=schema,
        vulnerabilities=Vulnerabilities(_advisories(old, new), _advisories(new, old)),
        files=tuple(_changes(_others(old.targets), _others(new.targets))),
        new_bytes=sum(_sizes(t for t in new.targets if t.sha256 not in known).values()),
    )


def _about(release: Contents, other: Contents) -> About | None:
    return _read(ABOUT, parse_about, release, other)


def _advisories(release: Contents, other: Contents) -> Advisories | None:
    return _read(ADVISORIES, parse_advisories, release, other)


def _read(path: str, parse: Callable[[bytes], T], release: Contents, other: Contents) -> T | None:
    digest = next((target.sha256 for target in release.targets if target.path == path), None)
    if digest is None:
        return None
    data = release.read(path)
    if data is None and any(target.path == path and target.sha256 == digest for target in other.targets):
        data = other.read(path)  # a delta left it out, because it is the same
    if data is None:
        return None
    try:
        return parse(data)
    except FormatError as exc:
        raise ArchiveError(f"{path} of {release.release.version} cannot be read: {exc}") from exc


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name), new.get(name))


def _packages(old: tuple[Target, ...], new: tuple[Target, ...]) -> Iterator[Change]:
    """Packages by the names of their wheels. One of the same version but other bytes is a change, too."""
    before, after = _wheels(old), _wheels(new)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Change(name, _versions(before.get(name)), _versions(after.get(name)))


def _wheels(targets: tuple[Target, ...]) -> dict[str, set[tuple[str, str]]]:
    """Package -> versions and digests of its wheels."""
    found: dict[str, set[tuple[str, str]]] = {}
    for target in targets:
        if wheel := _WHEEL.fullmatch(target.path):
            name = re.sub(r"[-_.]+", "-", wheel[1]).lower()
            found.setdefault(name, set()).add((wheel[2], target.sha256))
    return found


def _versions(wheels: set[tuple[str, str]] | None) -> str | None:
    return None if wheels is None else ", ".join(sorted({version for version, _ in wheels}))


def _weights(old: tuple[Target, ...], new: tuple[Target, ...]) -> Weights:
    before = _sizes(target for target in old if _WEIGHTS.fullmatch(target.path))
    after = _sizes(target for target in new if _WEIGHTS.fullmatch(target.path))
    fresh = sum(size for digest, size in after.items() if digest not in before)
    return Weights(before == after, sum(after.values()), fresh)


def _sizes(targets: Iterable[Target]) -> dict[str, int]:
    return {target.sha256: target.size_bytes for target in targets}


def _others(targets: tuple[Target, ...]) -> dict[str, str]:
    """The files that no other part of the comparison speaks of."""
    spoken_of = {"release.json", ABOUT, ADVISORIES}
    return {
        target.path: target.sha256[:16]
        for target in targets
        if target.path not in spoken_of and not _WEIGHTS.fullmatch(target.path) and not _WHEEL.fullmatch(target.path)
    }


def _fields(release: Release) -> dict[str, str]:
    """Every field of release.json, nested ones with a dot, but not where its files lie."""
    found: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(value, (list, tuple)):
            found[prefix] = ", ".join(map(str, value))
        elif value is not None:
            found[prefix] = str(value)

    walk("", asdict(release))
    return found


def comparison_lines(found: Comparison, now: datetime) -> Iterator[str]:
    """The comparison for a person. Signed text may hold anything, so what is not seen as itself becomes an escape.

    Args:
        now: tells how old the data about vulnerabilities is.
    """
    yield f"{found.old} -> {found.new}"
    yield from _section("release", found.release)
    yield from _section("packages", found.packages)
    weights = found.weights
    if weights.is_same:
        yield f"weights: the same, {weights.total_bytes:,} bytes"
    else:
        yield f"weights: changed, {weights.new_bytes:,} of {weights.total_bytes:,} bytes are new"
    if found.settings is None or found.schema is None:
        yield "settings and database: one of the releases does not say"
    else:
        yield from _section("settings", found.settings)
        before, after = found.schema.old, found.schema.new
        yield (
            f"database: schema {after} in both"
            if before == after
            else printable(f"database: schema {before} -> {after}")
        )
    yield from _vulnerability_lines(found.vulnerabilities, now)
    yield from _section("other files", found.files)
    yield f"new bytes: {found.new_bytes:,}"


def _vulnerability_lines(found: Vulnerabilities, now: datetime) -> Iterator[str]:
    """Each release is judged by its own data, so a vulnerability that only the newer data knows may be in both."""
    before, after = found.old, found.new
    if after is None:
        yield "vulnerabilities: the new release carries no data about them"
        return
    yield f"vulnerabilities: {after.words(now)}"
    was = set() if before is None else {(one.name, one.id) for one in before.affected}
    still = {(one.name, one.id) for one in after.affected}
    for one in after.affected:
        known = "was known of the old release" if (one.name, one.id) in was else "not in the old release's data"
        yield f"  {printable(str(one))} ({known})"
    for one in before.affected if before else ():
        if (one.name, one.id) not in still:
            yield f"  no longer: {printable(str(one))}"


def _section(title: str, changes: tuple[Change, ...]) -> Iterator[str]:
    yield f"{title}: {len(changes) or 'no'} change{'' if len(changes) == 1 else 's'}"
    yield from (f"  {printable(str(change))}" for change in changes)
