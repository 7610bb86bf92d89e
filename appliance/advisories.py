"""Which packages of a release have known vulnerabilities, by the advisories that the release carries.

The advisories are as old as the release: `age_days` says how old. What the data does not know, nobody here can know.
The code of a package may be affected and yet never run; that is for a person to judge, so this warns and fails nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from appliance.errors import ApplianceError
from installer.formats.advisories import FILE, Advisories, Advisory, Range, parse_advisories
from installer.formats.fields import FormatError

OLD_DAYS = 60  # data that is older is a warning of its own


@dataclass(frozen=True)
class Affected:
    """A package of the release with a known vulnerability."""

    package: str
    version: str
    advisory: Advisory

    @property
    def fixed_in(self) -> str | None:
        """The next version without the vulnerability; None if none is known."""
        fixes = (one.fixed for one in self.advisory.ranges if one.fixed is not None and _contains(one, self.version))
        return min(fixes, key=_order, default=None)

    def __str__(self) -> str:
        names = " / ".join((self.advisory.id, *(a for a in self.advisory.aliases if a.startswith("CVE-"))))
        severity = f", {self.advisory.severity.lower()}" if self.advisory.severity else ""
        fixed = f"fixed in {self.fixed_in}" if self.fixed_in else "no fixed version is known"
        text = f"{self.package} {self.version}: {names}{severity}, {fixed}: {self.advisory.summary}"
        return " ".join(text.split())  # one line, whatever the database wrote


@dataclass(frozen=True)
class Findings:
    """What the advisories say of a release."""

    affected: tuple[Affected, ...]
    packages: int  # of the release
    newest: datetime

    def age_days(self, now: datetime) -> int:
        return max(0, (now - self.newest).days)


def find_affected(release: Path) -> Findings | None:
    """Compare a release's packages with its advisories; None if it carries none.

    Raises:
        ApplianceError: the advisories cannot be read.
    """
    try:
        data = (release / FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ApplianceError(f"{FILE} of the release cannot be read: {exc.strerror}") from exc
    try:
        known = parse_advisories(data)
        newest = datetime.fromisoformat(known.newest).astimezone(UTC)
    except (FormatError, ValueError) as exc:
        raise ApplianceError(f"{FILE} of the release is not what it should be: {exc}") from exc
    packages = _packages(release)
    return Findings(tuple(_affected(known, packages)), len(packages), newest)


def _packages(release: Path) -> set[tuple[str, str]]:
    """Name and version of every wheel of the release."""
    found = set()
    for path in (release / "wheels").glob("*.whl"):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except (InvalidWheelFilename, InvalidVersion) as exc:
            raise ApplianceError(f"the release has a wheel whose name cannot be read: {path.name}") from exc
        found.add((str(name), str(version)))
    return found


def _affected(known: Advisories, packages: set[tuple[str, str]]) -> list[Affected]:
    found = []
    for package, version in sorted(packages):
        for advisory in known.advisories:
            if advisory.package == package and is_affected(advisory, version):
                found.append(Affected(package, version, advisory))
    return found


def is_affected(advisory: Advisory, version: str) -> bool:
    """Whether an advisory is about this version of its package."""
    listed = any(_same(version, other) for other in advisory.versions)
    return listed or any(_contains(one, version) for one in advisory.ranges)


def _contains(affected: Range, version: str) -> bool:
    """Whether a version lies in a range. A bound that cannot be read as a version counts as affected: it only warns."""
    try:
        number = Version(version)
        if affected.introduced != "0" and number < Version(affected.introduced):
            return False
        if affected.fixed is not None and number >= Version(affected.fixed):
            return False
        return affected.last_affected is None or number <= Version(affected.last_affected)
    except InvalidVersion:
        return True


def _order(version: str) -> tuple[bool, Version | str]:
    try:
        return False, Version(version)
    except InvalidVersion:
        return True, version


def _same(version: str, other: str) -> bool:
    try:
        return Version(version) == Version(other)
    except InvalidVersion:
        return version == other
