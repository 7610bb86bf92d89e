"""`appliance doctor` names affected packages of the release, and how old its data is. It warns and fails nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.advisories import OLD_DAYS, find_affected, is_affected
from appliance.config import Config, parse_config
from appliance.doctor import Report, _advisories
from appliance.errors import ApplianceError
from installer.formats.advisories import FILE, Advisories, Advisory, Range, encode_advisories

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
ADVISORY = Advisory(
    "GHSA-1", ("CVE-2026-1", "PYSEC-1"), "flask", "Reads too much.", "HIGH",
    (Range("0", "2.0"), Range("3.0.0", "3.0.2"), Range("3.0", "3.1")), (),
)  # fmt: skip


def advisories(*found: Advisory, newest: str = "2026-11-20T00:00:00Z") -> Advisories:
    return Advisories("osv", "0" * 64, newest, found)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A site whose release has three wheels and no advisories."""
    wheels = tmp_path / "current" / "wheels"
    wheels.mkdir(parents=True)
    for name in ("flask-3.0.1-py3-none-any.whl", "zope_interface-8.0-cp311-cp311-manylinux_2_28_x86_64.whl"):
        (wheels / name).touch()
    return parse_config("", tmp_path)


def put(config: Config, known: Advisories) -> None:
    (config.release_dir / FILE).write_bytes(encode_advisories(known))


def lines(config: Config) -> list[str]:
    return list(Report(True, tuple(_advisories(config, NOW)), None).lines())


def test_affected_packages_are_named_with_identity_and_fixed_version(config: Config) -> None:
    put(config, advisories(ADVISORY))
    assert lines(config) == [
        "warn  advisories: 2 packages, compared with data of 2026-11-20 (10 days old); 1 with known vulnerabilities",
        "warn  advisories: flask 3.0.1: GHSA-1 / CVE-2026-1, high, fixed in 3.0.2: Reads too much.",
        "      to do: ask the sender for a newer release",
    ]
    assert all(one.is_well for one in _advisories(config, NOW)), "a warning fails nothing"


def test_nothing_known_and_nothing_carried_are_two_things(config: Config) -> None:
    assert lines(config) == ["ok    advisories: the release carries no data about vulnerabilities"]
    put(config, advisories())
    assert lines(config) == [
        "ok    advisories: 2 packages, compared with data of 2026-11-20 (10 days old); no known vulnerability"
    ]


def test_old_data_is_a_warning_even_if_it_knows_nothing(config: Config) -> None:
    old = NOW - timedelta(days=OLD_DAYS + 1)
    put(config, advisories(newest=old.isoformat()))
    first, remedy = lines(config)
    assert first.startswith("warn  advisories: ")
    assert f"({OLD_DAYS + 1} days old); no known vulnerability" in first
    assert "newer data" in remedy
    put(config, advisories(newest=(NOW + timedelta(days=3)).isoformat()))
    assert "(0 days old)" in lines(config)[0], "a host's clock may be behind"


def test_data_that_cannot_be_read_is_a_warning(config: Config) -> None:
    (config.release_dir / FILE).write_text("{}")
    assert lines(config)[0].startswith(f"warn  advisories: {FILE} of the release is not what it should be")
    (config.release_dir / FILE).unlink()
    (config.release_dir / FILE).mkdir()
    assert lines(config)[0].startswith(f"warn  advisories: {FILE} of the release cannot be read")


def test_a_wheel_whose_name_cannot_be_read_is_not_passed_over(config: Config) -> None:
    put(config, advisories(ADVISORY))
    (config.release_dir / "wheels" / "odd.whl").touch()
    with pytest.raises(ApplianceError, match=r"odd\.whl"):
        find_affected(config.release_dir)


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
def test_versions_are_compared_as_versions(
    version: str, ranges: list[Range], versions: list[str], expected: bool
) -> None:
    advisory = Advisory("X", (), "flask", "", None, tuple(ranges), tuple(versions))
    assert is_affected(advisory, version) is expected


def test_the_next_fixed_version_is_named_and_none_if_none_is_known(config: Config) -> None:
    put(config, advisories(ADVISORY, Advisory("X", (), "zope-interface", "Bad.", None, (), ("8",))))
    found = find_affected(config.release_dir)
    assert found is not None
    flask, zope = found.affected
    assert flask.fixed_in == "3.0.2"
    assert str(zope) == "zope-interface 8.0: X, no fixed version is known: Bad."


def test_a_signed_summary_forges_no_line(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    from appliance.command import say

    hostile = Advisory("X", (), "flask", "a\nok    advisories: fine\x1b[2J", None, (), ("3.0.1",))
    put(config, advisories(hostile))
    for line in lines(config):
        say(line)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert [line.split()[0] for line in said.splitlines()] == ["warn", "warn", "to"]
