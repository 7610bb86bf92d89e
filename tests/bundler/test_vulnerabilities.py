"""A release's parts are compared with advisories by type, name and the order of versions of that type."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bundler.vulnerabilities import Advisory, Data, Part, Range, compare, is_affected, parts_of, semantic
from bundler.wheel_facts import BundledLibrary, WheelFacts
from installer.formats.advisories import Export

SOURCE = Export("osv", "0" * 64, "2026-11-20T00:00:00Z")
OLDER = Export("osv", "1" * 64, "2026-11-01T00:00:00Z")
FLASK = Advisory(
    "GHSA-1", ("CVE-2026-1", "PYSEC-1"), "pypi", "flask", "Reads too much.", "HIGH",
    (Range("0", "2.0"), Range("3.0.0", "3.0.2"), Range("3.0", "3.1")), (),
)  # fmt: skip
PARTS = [
    Part("pypi", "flask", "3.0.1", None),
    Part("pypi", "zope-interface", "8.0", None),
    Part("cargo", "openssl", "0.10.81", "cryptography"),
    Part("generic", "openssl", "4.0.3", "cryptography"),
]


def said(*advisories: Advisory, types: frozenset[str] = frozenset({"pypi"})) -> list[str]:
    return [str(one) for one in compare(PARTS, [Data(SOURCE, types, advisories)]).affected]


def test_affected_parts_are_named_with_identity_and_the_next_fixed_version() -> None:
    zope = Advisory("X", (), "pypi", "zope-interface", "Bad.", None, (), ("8",))
    assert said(FLASK, zope) == [
        "flask 3.0.1: GHSA-1 / CVE-2026-1, high, fixed in 3.0.2: Reads too much.",
        "zope-interface 8.0: X, no fixed version is known: Bad.",
    ]


def test_a_library_within_a_wheel_is_named_with_the_wheel_and_is_not_its_namesake() -> None:
    crate = Advisory("RUSTSEC-1", (), "cargo", "openssl", "Leaks.", None, (Range("0.0.0-0", "0.10.90"),), ())
    library = Advisory("CVE-7", (), "generic", "openssl", "Leaks, too.", None, (Range("4.0.3", "4.0.4"),), ("4.0.3",))
    assert said(crate) == ["openssl 0.10.81 (in cryptography): RUSTSEC-1, fixed in 0.10.90: Leaks."]
    assert said(library) == ["openssl 4.0.3 (in cryptography): CVE-7, fixed in 4.0.4: Leaks, too."]


def test_only_parts_of_kinds_that_the_data_knows_count_as_compared() -> None:
    wheels, crates = Data(SOURCE, frozenset({"pypi"}), ()), Data(OLDER, frozenset({"cargo"}), ())
    assert compare(PARTS, [wheels]).compared == 2
    both = compare(PARTS, [wheels, crates])
    assert (both.compared, both.parts, both.sources) == (3, 4, (SOURCE, OLDER))
    assert f"{both.newest:%Y-%m-%d}" == "2026-11-01", "the data is as old as its oldest source"


def test_what_two_sources_say_is_said_once() -> None:
    twice = [Data(source, frozenset({"pypi"}), (FLASK,)) for source in (SOURCE, OLDER)]
    assert len(compare(PARTS, twice).affected) == 1


def test_parts_are_wheels_and_what_their_bills_of_materials_name() -> None:
    bundled = (
        BundledLibrary("openssl", "4.0.3", "pkg:generic/openssl@4.0.3?download_url=https://example.org/x"),
        BundledLibrary("openssl", "0.10.81", "pkg:cargo/openssl@0.10.81"),
        BundledLibrary("libz", "1.3", None),
        BundledLibrary("odd", "1", "no package URL"),
        BundledLibrary("nameless", None, None),
    )
    wheel = WheelFacts("c.whl", "cryptography", "50.0", "0" * 64, None, {}, (), (), bundled)
    assert parts_of([wheel, replace(wheel, file="other python.whl")]) == {
        Part("pypi", "cryptography", "50.0", None),
        Part("generic", "openssl", "4.0.3", "cryptography"),
        Part("cargo", "openssl", "0.10.81", "cryptography"),
        Part("generic", "libz", "1.3", "cryptography"),
        Part("generic", "odd", "1", "cryptography"),
    }


@pytest.mark.parametrize(
    ("version", "ranges", "versions", "expected"),
    [
        ("3.0.1", [Range("0", "3.0.2")], [], True),
        ("3.0.2", [Range("0", "3.0.2")], [], False),
        ("3.0.10", [Range("0", "3.0.9")], [], False),  # by number, and not by letters
        ("3.0.2rc1", [Range("0", "3.0.2")], [], True),
        ("3.0.2.post1", [Range("0", "3.0.2")], [], False),
        ("1!1.0", [Range("0", "3")], [], False),
        ("2.0", [Range("2.0", None, "2.0")], [], True),
        ("2.0.1", [Range("2.0", None, "2.0")], [], False),
        ("1.9", [Range("2.0")], [], False),
        ("3.0", [], ["3.0.0"], True),
        ("3.0+local", [Range("3.0", "3.1")], [], True),
        ("3.1", [], ["3.0"], False),
        ("3.0", [Range("0", "what")], [], True),
        ("3.0", [], [], False),
    ],
)
def test_versions_of_wheels_are_compared_by_pep_440(
    version: str, ranges: list[Range], versions: list[str], expected: bool
) -> None:
    assert is_affected(replace(FLASK, ranges=tuple(ranges), versions=tuple(versions)), version) is expected


@pytest.mark.parametrize(
    ("version", "affected", "expected"),
    [
        ("0.4.0", Range("0.4.0-0", "0.4.1"), True),  # PEP 440 would read -0 as a release after 0.4.0
        ("0.4.0-alpha.1", Range("0.4.0-0", "0.4.1"), True),
        ("0.4.1", Range("0.4.0-0", "0.4.1"), False),
        ("1.0.0", Range("0", None, "1.0.0"), True),
        ("1.0.0+wasi-0.2", Range("0", None, "1.0.0"), True),  # what was built is no other version
        ("1.0.10", Range("0", "1.0.9"), False),
        ("1.0.0-rc.1", Range("1.0.0"), False),
        ("1.0", Range("2.0.0"), True),  # no semantic version: it only warns
    ],
)
def test_versions_of_crates_are_compared_by_semantic_versioning(version: str, affected: Range, expected: bool) -> None:
    assert is_affected(replace(FLASK, type="cargo", ranges=(affected,)), version) is expected


def test_semantic_versions_are_in_the_order_of_the_specification() -> None:
    """Clause 11 of Semantic Versioning 2.0.0, and the example there."""
    ordered = [
        "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
        "1.0.0", "2.0.0", "2.1.0", "2.1.1",
    ]  # fmt: skip
    assert sorted(reversed(ordered), key=semantic) == ordered
