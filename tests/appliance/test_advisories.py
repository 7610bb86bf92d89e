"""`appliance doctor` names affected parts of the release, and how old its data is. It warns and fails nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.config import Config, parse_config
from appliance.doctor import Report, _advisories
from installer.formats.advisories import FILE, OLD_DAYS, Advisories, Affected, Export, encode_advisories

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
FLASK = Affected(
    "pypi", "flask", "3.0.1", None, "GHSA-1", ("CVE-2026-1", "PYSEC-1"), "HIGH", "3.0.2", "Reads too much."
)


def advisories(*found: Affected, newest: str = "2026-11-20T00:00:00Z") -> Advisories:
    return Advisories(3, 2, (Export("osv", "0" * 64, newest),), found)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A site whose release has no advisories."""
    (tmp_path / "current").mkdir(parents=True)
    return parse_config("", tmp_path)


def put(config: Config, known: Advisories) -> None:
    (config.release_dir / FILE).write_bytes(encode_advisories(known))


def lines(config: Config) -> list[str]:
    return list(Report(True, tuple(_advisories(config, NOW)), None).lines())


def test_affected_parts_are_named_with_identity_and_fixed_version(config: Config) -> None:
    put(config, advisories(FLASK))
    assert lines(config) == [
        "warn  advisories: 2 of 3 parts compared with data of 2026-11-20 (10 days old); 1 with known vulnerabilities",
        "warn  advisories: flask 3.0.1: GHSA-1 / CVE-2026-1, high, fixed in 3.0.2: Reads too much.",
        "      to do: ask the sender for a newer release",
    ]
    assert all(one.is_well for one in _advisories(config, NOW)), "a warning fails nothing"


def test_nothing_known_and_nothing_carried_are_two_things(config: Config) -> None:
    assert lines(config) == ["ok    advisories: the release carries no data about vulnerabilities"]
    put(config, advisories())
    assert lines(config) == [
        "ok    advisories: 2 of 3 parts compared with data of 2026-11-20 (10 days old); no known vulnerability"
    ]


def test_old_data_is_a_warning_even_if_it_knows_nothing(config: Config) -> None:
    old = NOW - timedelta(days=OLD_DAYS + 1)
    put(config, advisories(newest=old.isoformat()))
    first, remedy = lines(config)
    assert first.startswith("warn  advisories: ")
    assert f"({OLD_DAYS + 1} days old); no known vulnerability" in first
    assert "newer data" in remedy
    put(config, advisories(newest=(NOW - timedelta(days=1)).isoformat()))
    assert "(1 day old)" in lines(config)[0]
    put(config, advisories(newest=(NOW + timedelta(days=3)).isoformat()))
    assert "(0 days old)" in lines(config)[0], "a host's clock may be behind"


def test_data_that_cannot_be_read_is_a_warning(config: Config) -> None:
    (config.release_dir / FILE).write_text("{}")
    assert lines(config)[0].startswith(f"warn  advisories: {FILE} of the release is not what it should be")
    (config.release_dir / FILE).unlink()
    (config.release_dir / FILE).mkdir()
    assert lines(config)[0].startswith(f"warn  advisories: {FILE} of the release cannot be read")


def test_a_signed_summary_forges_no_line(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    from appliance.command import say

    hostile = Affected("pypi", "flask", "3.0.1", None, "X", (), None, None, "a\nok    advisories: fine\x1b[2J")
    put(config, advisories(hostile))
    for line in lines(config):
        say(line)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert [line.split()[0] for line in said.splitlines()] == ["warn", "warn", "to"]
