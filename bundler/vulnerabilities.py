"""Compares the parts of a release with advisories: wheels, and the libraries that wheels say they hold.

A part is known by the type of its package URL (https://github.com/package-url/purl-spec) and its name. Versions are
ordered as the type orders them: PEP 440 for wheels, Semantic Versioning for Rust crates. A bound that cannot be read
counts as affected: it only warns.

Not compared: a library that no bill of materials names, such as C code linked into a wheel; the host's own Python and C
library, which its distributor mends; the model, about whose weights no database says anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from packageurl import PackageURL
from packaging.version import Version

from bundler.wheel_facts import WheelFacts
from installer.formats.advisories import Advisories, Affected, Export

PYPI: Final = "pypi"
CRATE: Final = "cargo"
_SEMANTIC: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")

Order = Callable[[str], Any]  # text of a version -> something that can be compared; raises ValueError


@dataclass(frozen=True)
class Part:
    """A wheel, or a library in one."""

    type: str
    name: str  # as its type spells it; canonical for wheels
    version: str
    within: str | None  # the wheel that holds it


@dataclass(frozen=True)
class Range:
    """Versions from ``introduced`` on ("0": from the first), up to but without ``fixed``, or with ``last_affected``."""

    introduced: str
    fixed: str | None = None
    last_affected: str | None = None


@dataclass(frozen=True)
class Advisory:
    """One vulnerability of one package. A version is affected if ``versions`` lists it, or if it lies in a range."""

    id: str
    aliases: tuple[str, ...]
    type: str
    package: str
    summary: str
    severity: str | None
    ranges: tuple[Range, ...]
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """What one export says."""

    source: Export
    types: frozenset[str]  # of the packages that it speaks of, whether they are in the release or not
    advisories: tuple[Advisory, ...]


def parts_of(wheels: Sequence[WheelFacts]) -> frozenset[Part]:
    """The parts of a release. A wheel for several Pythons is one part."""
    found = {Part(PYPI, wheel.name, wheel.version, None) for wheel in wheels}
    for wheel in wheels:
        for library in wheel.bundled:
            part = _library(library.purl, library.name, library.version, wheel.name)
            found |= set() if part is None else {part}
    return frozenset(found)


def _library(purl: str | None, name: str, version: str | None, within: str) -> Part | None:
    """None if it has no version, so that nothing can be compared."""
    try:
        given = PackageURL.from_string(purl or f"pkg:generic/{name}")
    except ValueError:
        given = PackageURL("generic", name=name)
    known = given.version or version
    return None if known is None else Part(given.type, given.name, known, within)


def compare(parts: Collection[Part], exports: Sequence[Data]) -> Advisories:
    """What the exports say of these parts."""
    types = frozenset(kind for data in exports for kind in data.types)
    found = {
        (part, advisory.id): _affected(part, advisory)
        for data in exports
        for part in parts
        for advisory in data.advisories
        if (advisory.type, advisory.package) == (part.type, part.name) and is_affected(advisory, part.version)
    }
    ordered = sorted(found.values(), key=lambda one: (one.within or "", one.name, one.version, one.id))
    return Advisories(
        parts=len(parts),
        compared=sum(part.type in types for part in parts),
        sources=tuple(data.source for data in exports),
        affected=tuple(ordered),
    )


def _affected(part: Part, advisory: Advisory) -> Affected:
    return Affected(
        type=part.type,
        name=part.name,
        version=part.version,
        within=part.within,
        id=advisory.id,
        aliases=advisory.aliases,
        severity=advisory.severity,
        fixed_in=_fixed_in(advisory, part.version),
        summary=advisory.summary,
    )


def is_affected(advisory: Advisory, version: str) -> bool:
    """Whether an advisory is about this version of its package."""
    order = order_of(advisory.type)
    listed = any(_same(version, other, order) for other in advisory.versions)
    return listed or any(_contains(one, version, order) for one in advisory.ranges)


def order_of(kind: str) -> Order:
    """How versions of packages of a type are ordered."""
    return semantic if kind == CRATE else Version


def semantic(version: str) -> tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]:
    """A version as Semantic Versioning 2.0.0 orders it (clause 11).

    Raises:
        ValueError: it is no such version.
    """
    found = _SEMANTIC.fullmatch(version)
    if found is None:
        raise ValueError(f"{version!r} is no semantic version")
    words = found[4].split(".") if found[4] else []
    before = tuple((not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in words)
    return int(found[1]), int(found[2]), int(found[3]), not words, before


def _contains(affected: Range, version: str, order: Order) -> bool:
    try:
        number = order(version)
        if affected.introduced != "0" and number < order(affected.introduced):
            return False
        if affected.fixed is not None and number >= order(affected.fixed):
            return False
        return bool(affected.last_affected is None or number <= order(affected.last_affected))
    except ValueError:
        return True


def _fixed_in(advisory: Advisory, version: str) -> str | None:
    order = order_of(advisory.type)
    fixes = [one.fixed for one in advisory.ranges if one.fixed is not None and _contains(one, version, order)]
    readable = list(_readable(fixes, order))
    return min(readable, key=order) if readable else min(fixes, default=None)


def _readable(versions: Sequence[str], order: Order) -> Iterator[str]:
    for version in versions:
        try:
            order(version)
        except ValueError:
            continue
        yield version


def _same(version: str, other: str, order: Order) -> bool:
    try:
        return bool(order(version) == order(other))
    except ValueError:
        return version == other
