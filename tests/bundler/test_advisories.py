"""Advisories out of OSV's and grype's exports: about the release's packages alone, in one form, as old as they are."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bundler.advisories import read_advisories
from bundler.errors import BuildError
from bundler.vulnerabilities import Advisory, Data, Range
from bundler.wheelhouse import sha256_file

PACKAGES = {("pypi", "flask"), ("pypi", "zope-interface"), ("cargo", "openssl"), ("generic", "openssl")}


def record(identity: str = "GHSA-1", **changes: Any) -> dict[str, Any]:
    body = {
        "schema_version": "1.6.0", "id": identity, "modified": "2026-10-01T00:00:00Z", "aliases": ["CVE-2026-1"],
        "summary": "Reads too much.\nMore.", "database_specific": {"severity": "HIGH"},
        "affected": [{
            "package": {"ecosystem": "PyPI", "name": "Flask"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.0.2"}]}],
            "versions": ["2.9"],
        }],
    }  # fmt: skip
    return body | changes


ADVISORY = Advisory(
    "GHSA-1", ("CVE-2026-1",), "pypi", "flask", "Reads too much.", "HIGH", (Range("0", "3.0.2"),), ("2.9",)
)
MATCH = {
    "vulnerability": {
        "id": "GHSA-2", "severity": "Critical", "description": "Writes too much.",
        "fix": {"versions": ["4.0", "3.0.2", "2.0.9"], "state": "fixed"},
    },
    "relatedVulnerabilities": [{"id": "CVE-2026-2"}],
    "artifact": {"name": "zope.interface", "version": "3.0", "type": "python"},
}  # fmt: skip
BUILT = "2026-11-20T01:02:03.123456789Z"
GRYPE: dict[str, Any] = {
    "matches": [MATCH],
    "descriptor": {"name": "grype", "db": {"status": {"built": BUILT}}, "timestamp": "2026-11-29T00:00:00Z"},
}


def read(path: Path, body: Any) -> Data:
    path.write_text(json.dumps(body))
    return read_advisories(path, PACKAGES)


SHAPES: dict[str, Any] = {
    "one record": record(),
    "a list": [record(), record("GHSA-9", affected=[])],
    "an answer of the service": {"vulns": [record()]},
    "an output of osv-scanner": {"results": [{"packages": [{"vulnerabilities": [record()]}]}]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_osv_records_are_read_in_every_shape(shape: str, tmp_path: Path) -> None:
    found = read(tmp_path / "osv.json", SHAPES[shape])
    assert found.advisories == (ADVISORY,)
    assert (found.source.kind, found.source.newest) == ("osv", "2026-10-01T00:00:00Z")
    assert found.source.sha256 == sha256_file(tmp_path / "osv.json")
    assert found.types == {"pypi"}


def test_a_zip_of_records_is_as_old_as_its_newest_record_of_any_package(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("GHSA-1.json", json.dumps(record()))
        other = record("PYSEC-7", modified="2026-11-25T12:00:00.5Z")
        other["affected"][0]["package"]["name"] = "something-else"
        archive.writestr("PYSEC-7.json", json.dumps(other))
        archive.writestr("README.txt", "not a record")
    found = read_advisories(tmp_path / "all.zip", PACKAGES)
    assert found.advisories == (ADVISORY,)
    assert found.source.newest == "2026-11-25T12:00:00Z"


@pytest.mark.parametrize(
    ("events", "ranges"),
    [
        ([{"fixed": "2"}, {"introduced": "1"}], [Range("1", "2")]),
        ([{"introduced": "10"}, {"introduced": "2"}, {"fixed": "9"}], [Range("2", "9"), Range("10")]),
        ([{"introduced": "0"}, {"last_affected": "3"}], [Range("0", None, "3")]),
        (
            [{"introduced": "0"}, {"fixed": "1"}, {"introduced": "2"}, {"fixed": "3"}],
            [Range("0", "1"), Range("2", "3")],
        ),
        ([{"introduced": "0"}, {"limit": "5"}], [Range("0")]),
        ([{"introduced": "0"}, {"fixed": "no version"}], [Range("0", "no version")]),
    ],
    ids=["in disorder", "by number", "last affected", "two ranges", "a limit", "an odd version"],
)  # fmt: skip
def test_events_become_ranges(events: list[dict[str, str]], ranges: list[Range], tmp_path: Path) -> None:
    body = record()
    body["affected"][0]["ranges"][0]["events"] = events
    assert list(read(tmp_path / "osv.json", body).advisories[0].ranges) == ranges


LEFT_OUT: dict[str, dict[str, Any]] = {
    "withdrawn": {"withdrawn": "2026-10-02T00:00:00Z"},
    "of another ecosystem": {"affected": [{"package": {"ecosystem": "npm", "name": "flask"}}]},
    "of another package": {"affected": [{"package": {"ecosystem": "PyPI", "name": "flask-login"}}]},
    "of a repository": {"affected": [{"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}]},
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_not_about_the_release_is_left_out(case: str, tmp_path: Path) -> None:
    assert read(tmp_path / "osv.json", record(**LEFT_OUT[case])).advisories == ()


def test_a_record_that_names_a_package_twice_is_one_advisory(tmp_path: Path) -> None:
    body = record()
    body["affected"].append({"package": {"ecosystem": "PyPI", "name": "flask"}, "versions": ["1.0"]})
    (found,) = read(tmp_path / "osv.json", body).advisories
    assert (found.ranges, found.versions) == ((Range("0", "3.0.2"),), ("2.9", "1.0"))


def test_grype_s_matches_are_read_with_the_age_of_its_database(tmp_path: Path) -> None:
    found = read(tmp_path / "grype.json", GRYPE)
    assert found.advisories == (
        Advisory("GHSA-2", ("CVE-2026-2",), "pypi", "zope-interface", "Writes too much.", "Critical",
                 (Range("3.0", "3.0.2"),), ("3.0",)),
    )  # fmt: skip
    assert (found.source.kind, found.source.newest) == ("grype", "2026-11-20T01:02:03Z")
    older = read(tmp_path / "grype.json", GRYPE | {"descriptor": {"db": {"built": "2026-11-01T00:00:00Z"}}})
    assert older.source.newest == "2026-11-01T00:00:00Z"
    binary = {**MATCH, "artifact": {**MATCH["artifact"], "type": "binary"}}  # type: ignore[dict-item]
    assert read(tmp_path / "grype.json", GRYPE | {"matches": [binary]}).advisories == ()


def test_libraries_within_wheels_are_known_by_type_and_name(tmp_path: Path) -> None:
    """`openssl` is a Rust crate, and another thing is the library that it binds."""
    crate = record("RUSTSEC-1")
    crate["affected"][0] = {
        "package": {"ecosystem": "crates.io", "name": "openssl", "purl": "pkg:cargo/openssl"},
        "ranges": [{"type": "SEMVER", "events": [{"introduced": "0.0.0-0"}, {"fixed": "0.10.90"}]}],
    }
    found = read(tmp_path / "osv.json", [crate])
    assert [(one.type, one.package, one.ranges) for one in found.advisories] == [
        ("cargo", "openssl", (Range("0.0.0-0", "0.10.90"),))
    ]
    assert found.types == {"cargo"}
    artifact = {"name": "openssl", "version": "4.0.3", "type": "UnknownPackage", "purl": "pkg:generic/openssl@4.0.3"}
    found = read(tmp_path / "grype.json", GRYPE | {"matches": [{**MATCH, "artifact": artifact}]})
    assert [(one.type, one.package, one.versions) for one in found.advisories] == [("generic", "openssl", ("4.0.3",))]
    assert found.types == {"generic", "pypi"}


WRONG: dict[str, Any] = {
    "no json": b"x", "a number": b"1", "an empty list": b"[]",
    "no date": json.dumps([record(modified="soon")]).encode(),
    "no age of the database": json.dumps({"matches": [], "descriptor": {}}).encode(), "something else": b'{"a": 1}',
    "matches without an artifact": json.dumps(GRYPE | {"matches": [{}]}).encode(), "nested too deep": b"[" * 100_000,
    "a text for affected": json.dumps(record(affected="x")).encode(),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_such_data_is_one_sentence(case: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(WRONG[case])
    with pytest.raises(BuildError, match="neither advisories of OSV nor of grype") as refused:
        read_advisories(tmp_path / "data", PACKAGES)
    assert "\n" not in str(refused.value)


def test_an_absent_file_and_a_bomb_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match="cannot read"):
        read_advisories(tmp_path / "absent", PACKAGES)
    monkeypatch.setattr("bundler.advisories.MAX_RECORD_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.json", b" " * 2000)
    with pytest.raises(BuildError, match="too large"):
        read_advisories(tmp_path / "bomb.zip", PACKAGES)
