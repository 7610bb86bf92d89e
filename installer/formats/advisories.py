"""advisories.json: what was known about vulnerabilities of a release's packages when the release was built.

    {"format": 1, "source": "osv", "sha256": digest of the data it was taken from, "newest": "2026-11-20T10:00:00Z",
     "advisories": [{"id": "GHSA-..", "aliases": ["CVE-.."], "package": "flask", "summary": "..", "severity": "HIGH",
                     "ranges": [{"introduced": "0", "fixed": "3.0.2", "last_affected": null}], "versions": ["2.9"]}]}

It holds the advisories about packages of the release alone, of any version, so the appliance need not read the
databases that they come from. A version is affected if `versions` lists it, or if it lies in a range.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from installer.formats.fields import Text, Texts, parse_file

FORMAT = 1
FILE = "advisories.json"


@dataclass(frozen=True)
class Range:
    """Versions from ``introduced`` on ("0": from the first), up to but without ``fixed``, or with ``last_affected``."""

    introduced: Text
    fixed: Text | None = None
    last_affected: Text | None = None


@dataclass(frozen=True)
class Advisory:
    """One vulnerability of one package."""

    id: Text
    aliases: Texts
    package: Text  # canonical name
    summary: str
    severity: Text | None  # in the words of the database
    ranges: tuple[Range, ...]
    versions: Texts


@dataclass(frozen=True)
class Advisories:
    """The file."""

    source: Text  # "osv" or "grype"
    sha256: Text
    newest: Text  # when the data was last changed; ISO 8601, UTC
    advisories: tuple[Advisory, ...]


def encode_advisories(advisories: Advisories) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(advisories)}, indent=1, sort_keys=True) + "\n").encode()


def parse_advisories(data: bytes) -> Advisories:
    """Read the file's bytes.

    Raises:
        FormatError: it is not such a file.
    """
    return parse_file(Advisories, data, version=FORMAT)
