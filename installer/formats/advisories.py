"""advisories.json: which parts of a release had known vulnerabilities when it was built, by data given to the build.

    {"format": 1, "parts": 170, "compared": 64,
     "sources": [{"kind": "osv", "sha256": digest of the data, "newest": "2026-11-20T10:00:00Z"}],
     "affected": [{"type": "pypi", "name": "flask", "version": "3.0.1", "within": null, "id": "GHSA-..",
                   "aliases": ["CVE-.."], "severity": "HIGH", "fixed_in": "3.0.2", "summary": ".."}]}

The bundler compares (`bundler/vulnerabilities.py`); the isolated side can learn nothing newer, and presents it alone.
What the data does not know, nobody here can know. The code of a part may be affected and yet never run; that is for a
person to judge, so this warns and fails nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Annotated, Optional

from installer.formats.checks import Must
from installer.formats.fields import FormatError, Text, Texts, Whole, parse_file

FORMAT = 1
FILE = "advisories.json"
OLD_DAYS = 60  # data that is older is a warning of its own


@dataclass(frozen=True)
class Export:
    """Data that the parts were compared with."""

    kind: Text  # "osv" or "grype"
    sha256: Text
    newest: Text  # when the data was last changed; ISO 8601, UTC


@dataclass(frozen=True)
class Affected:
    """A part of the release with a known vulnerability."""

    type: Text  # as its package URL names it: pypi, cargo, generic, ..
    name: Text
    version: Text
    within: Optional[Text]  # the wheel that holds it; None: it is a wheel (Optional: Python 3.9 reads the types)
    id: Text
    aliases: Texts
    severity: Optional[Text]  # in the words of the database
    fixed_in: Optional[Text]  # the next version without it; None if none is known
    summary: str

    @property
    def part(self) -> str:
        """The part as a person names it."""
        return f"{self.name} {self.version}" + (f" (in {self.within})" if self.within else "")

    def __str__(self) -> str:
        names = " / ".join((self.id, *(alias for alias in self.aliases if alias.startswith("CVE-"))))
        severity = f", {self.severity.lower()}" if self.severity else ""
        fixed = f"fixed in {self.fixed_in}" if self.fixed_in else "no fixed version is known"
        return " ".join(
            f"{self.part}: {names}{severity}, {fixed}: {self.summary}".split()
        )  # one line, whatever is in it


@dataclass(frozen=True)
class Advisories:
    """The file."""

    parts: Whole  # of the release: wheels, and libraries that wheels say they hold
    compared: Whole  # of these, the parts of kinds that the data knows
    sources: Annotated[tuple[Export, ...], Must("must be a list of one source or more", min_length=1)]
    affected: tuple[Affected, ...]

    @property
    def newest(self) -> datetime:
        """How new the data is; of several sources, the oldest counts."""
        return min(_instant(source.newest) for source in self.sources)

    def age_days(self, now: datetime) -> int:
        return max(0, (now - self.newest).days)  # a host's clock may be behind

    def is_old(self, now: datetime) -> bool:
        return self.age_days(now) > OLD_DAYS

    def affected_parts(self) -> tuple[str, ...]:
        """Each part with a known vulnerability, once."""
        return tuple(dict.fromkeys(one.part for one in self.affected))

    def age(self, now: datetime) -> str:
        days = self.age_days(now)
        return f"data of {self.newest:%Y-%m-%d} ({days} day{'' if days == 1 else 's'} old)"

    def words(self, now: datetime) -> str:
        """What is known, in one line."""
        affected = len(self.affected_parts())
        found = f"{affected} with known vulnerabilities" if affected else "no known vulnerability"
        return f"{self.compared} of {self.parts} parts compared with {self.age(now)}; {found}"


def encode_advisories(advisories: Advisories) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(advisories)}, indent=1, sort_keys=True) + "\n").encode()


def parse_advisories(data: bytes) -> Advisories:
    """Read the file's bytes.

    Raises:
        FormatError: it is not such a file.
    """
    found = parse_file(Advisories, data, version=FORMAT)
    try:
        found.newest  # noqa: B018 (it is asked for what it raises)
    except ValueError as exc:
        raise FormatError(f"sources: {exc}") from exc
    return found


def _instant(text: str) -> datetime:
    """A moment; Python 3.9 does not read the Z that stands for UTC."""
    found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
