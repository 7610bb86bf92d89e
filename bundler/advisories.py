"""Takes advisories about a release's parts out of a database that somebody exported: OSV's or grype's.

Read are: one OSV record, a list of them, `{"vulns": [..]}`, the output of osv-scanner, a zip of records (as
https://osv.dev publishes one for each ecosystem), and the JSON of `grype -o json`. Nothing is fetched.

Formats: https://ossf.github.io/osv-schema/, https://github.com/anchore/grype (its JSON output). A package
is known by the type of its package URL and its name: OSV's ecosystems PyPI and crates.io have one, and the package URL
that a record or a match gives counts for others. Withdrawn advisories are left out.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packageurl import PackageURL
from packaging.utils import canonicalize_name

from bundler.errors import BuildError
from bundler.vulnerabilities import CRATE, PYPI, Advisory, Data, Order, Range, order_of
from bundler.wheelhouse import sha256_file
from installer.formats.advisories import Export

MAX_RECORD_BYTES = 16 << 20
MAX_JSON_BYTES = 1 << 30
_TYPES = {"PyPI": PYPI, "crates.io": CRATE}  # OSV's ecosystem -> type of package URL
_GRYPE_TYPES = {"python": PYPI, "rust-crate": CRATE}  # grype's kind of an artifact, where it gives no package URL

Package = tuple[str, str]  # type and name


class _NotAdvisoriesError(ValueError):
    """A part of the data is not what the formats say."""


def read_advisories(path: Path, packages: Collection[Package]) -> Data:
    """The advisories of a file that are about these packages.

    Raises:
        BuildError: the file cannot be read, or is of no known format.
    """
    try:
        digest = sha256_file(path)
        if zipfile.is_zipfile(path):
            return _from_osv(_zipped(path), digest, packages)
        if path.stat().st_size > MAX_JSON_BYTES:
            raise _NotAdvisoriesError("it is too large")
        body = json.loads(path.read_bytes())
        if isinstance(body, dict) and "matches" in body:
            return _from_grype(body, digest, packages)
        return _from_osv(_records(body), digest, packages)
    except OSError as exc:
        raise BuildError(f"cannot read {path}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as exc:
        why = str(exc) if isinstance(exc, _NotAdvisoriesError) else f"{type(exc).__name__}: {str(exc)[:80]}"
        raise BuildError(f"{path.name} is neither advisories of OSV nor of grype: {why}".splitlines()[0]) from exc


def _zipped(path: Path) -> Iterator[Any]:
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if not info.filename.endswith(".json"):
                continue
            if info.file_size > MAX_RECORD_BYTES:
                raise _NotAdvisoriesError(f"{info.filename!r} is too large")
            yield json.load(io.BytesIO(archive.read(info)))


def _records(body: Any) -> Iterator[Any]:
    """The OSV records in any of the shapes in which tools write them."""
    if isinstance(body, list):
        yield from body
    elif "vulns" in body:
        yield from body["vulns"]
    elif "results" in body:
        for result in body["results"]:
            for package in result["packages"]:
                yield from package.get("vulnerabilities", [])
    else:
        yield body


def _from_osv(records: Iterator[Any], digest: str, packages: Collection[Package]) -> Data:
    found: dict[tuple[str, Package], Advisory] = {}
    types: set[str] = set()
    newest: datetime | None = None
    for record in records:
        modified = _instant(record["modified"])
        newest = modified if newest is None else max(newest, modified)
        if "withdrawn" in record:
            continue
        for affected in record.get("affected", []):
            told = affected.get("package", {})
            kind = _TYPES.get(told.get("ecosystem", "").partition(":")[0])
            package = _package(kind, told.get("name", ""), told.get("purl"))
            types |= {package[0]}
            if package in packages:
                advisory = _osv_advisory(record, affected, package)
                known = found.get((advisory.id, package))
                found[advisory.id, package] = advisory if known is None else _joined(known, advisory)
    if newest is None:
        raise _NotAdvisoriesError("it holds no record")
    source = Export("osv", digest, _iso(newest))
    return Data(source, frozenset(types), tuple(found[key] for key in sorted(found)))


def _package(kind: str | None, name: str, purl: str | None) -> Package:
    """Type and name of a package; the type is empty if nothing tells."""
    if purl:
        with suppress(ValueError):
            given = PackageURL.from_string(purl)
            kind, name = given.type, given.name
    return kind or "", str(canonicalize_name(name)) if kind == PYPI else name


def _osv_advisory(record: Any, affected: Any, package: Package) -> Advisory:
    severity = record.get("database_specific", {}).get("severity")
    ranges = [_ranges(one["events"], package[0]) for one in affected.get("ranges", []) if one["type"] != "GIT"]
    return Advisory(
        id=record["id"],
        aliases=tuple(sorted(record.get("aliases", []))),
        type=package[0],
        package=package[1],
        summary=str(record.get("summary") or record.get("details", "")).partition("\n")[0][:200],
        severity=severity if isinstance(severity, str) and severity else None,
        ranges=tuple(one for part in ranges for one in part),
        versions=tuple(affected.get("versions", [])),
    )


def _joined(one: Advisory, other: Advisory) -> Advisory:
    """A record may speak of one package several times."""
    return Advisory(
        one.id, one.aliases, one.type, one.package, one.summary, one.severity,
        tuple(dict.fromkeys((*one.ranges, *other.ranges))), tuple(dict.fromkeys((*one.versions, *other.versions))),
    )  # fmt: skip


def _ranges(events: list[dict[str, str]], package_type: str) -> list[Range]:
    """The events of an OSV range, in the order of versions, as ranges. `limit` is for forks and says nothing here.

    If a version cannot be read, the events stay in their order; the comparison then warns rather than keeping silent.
    """
    order, place = order_of(package_type), {"introduced": 0, "last_affected": 1, "fixed": 2}
    told = [(kind, version) for event in events for kind, version in event.items() if kind in place]
    with suppress(ValueError):
        # "0" comes before every version, whatever the type orders; it need not be one itself.
        told.sort(key=lambda event: (event[1] != "0", None if event[1] == "0" else order(event[1]), place[event[0]]))
    ranges: list[Range] = []
    start: str | None = None
    for kind, version in told:
        if kind == "introduced":
            start = version if start is None else start
        elif start is not None:
            ranges.append(Range(start, **{kind: version}))
            start = None
    return ranges if start is None else [*ranges, Range(start)]


def _from_grype(body: Any, digest: str, packages: Collection[Package]) -> Data:
    """Grype has compared already: each match names one version of one package.

    It does not say what it looked at and found well, so wheels and the types of its matches count as compared.
    """
    found: dict[tuple[str, Package], Advisory] = {}
    types = {PYPI}
    for match in body["matches"]:
        artifact = match["artifact"]
        package = _package(_GRYPE_TYPES.get(artifact.get("type")), artifact["name"], artifact.get("purl"))
        types |= {package[0]}
        if package in packages:
            advisory = _grype_advisory(match, package)
            known = found.get((advisory.id, package))
            found[advisory.id, package] = advisory if known is None else _joined(known, advisory)
    source = Export("grype", digest, _iso(_instant(_built(body["descriptor"]))))
    return Data(source, frozenset(types), tuple(found[key] for key in sorted(found)))


def _grype_advisory(match: Any, package: Package) -> Advisory:
    vulnerability, version = match["vulnerability"], match["artifact"]["version"]
    related = {one["id"] for one in match.get("relatedVulnerabilities", [])}
    order = order_of(package[0])
    fixed = [one for one in vulnerability.get("fix", {}).get("versions", []) if _is_later(one, version, order)]
    return Advisory(
        id=vulnerability["id"],
        aliases=tuple(sorted(related - {vulnerability["id"]})),
        type=package[0],
        package=package[1],
        summary=str(vulnerability.get("description", "")).partition("\n")[0][:200],
        severity=vulnerability.get("severity") or None,
        ranges=(Range(version, min(fixed, key=order)),) if fixed else (),
        versions=(version,),
    )


def _is_later(version: str, other: str, order: Order) -> bool:
    try:
        return bool(order(version) > order(other))
    except ValueError:
        return False


def _built(descriptor: Any) -> str:
    """When grype's database was built: where its versions write it, else when it was run."""
    database = descriptor.get("db") or {}
    found = (database.get("status") or {}).get("built") or database.get("built") or descriptor.get("timestamp")
    if not isinstance(found, str):
        raise _NotAdvisoriesError("it does not say how old its database is")
    return found


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def _iso(instant: datetime) -> str:
    return instant.replace(microsecond=0).isoformat().replace("+00:00", "Z")
