"""Settings that change while the appliance serves: the file's rules hold, and every change is an event."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.config import Config, parse_config, settings_by_section
from appliance.database.transactions import Database, write_setting
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.live_settings import LIVE, LiveSettings, field_of
from appliance.people.users import AccountError, NoLongerAdminError
from tests.webui.conftest import FAST_PASSWORDS, PASSWORD

ROOT = Actor("", "root", "cli")


@pytest.fixture
def file(tmp_path: Path) -> Config:
    return parse_config('[site]\nname = "From the file"\nbanner_text = "SECRET"\n', tmp_path)


@pytest.fixture
def live(log: AuditLog, file: Config) -> LiveSettings:
    return LiveSettings(log, file, clock_us=lambda: 1_790_000_000_000_000)


def newest(log: AuditLog) -> tuple[str, str, str]:
    event = log.get(log.size())
    return event.header.action, event.header.subject, event.content.text if event.content else ""


def test_a_choice_wins_over_the_file_and_gives_way_to_it(log: AuditLog, live: LiveSettings, file: Config) -> None:
    assert live.config() == file
    live.choose("site.name", "  Northgate ", by=ROOT)
    assert newest(log) == ("setting_changed", "site.name", '"From the file" -> "Northgate"')
    assert live.config().site_name == "Northgate"
    chosen = live.chosen()["site.name"]
    assert (chosen.by, chosen.at.timestamp()) == ("root", 1_790_000_000)
    live.choose("web.session_hours", "2.5", by=ROOT)
    live.choose("accounts.endless_api_keys", "yes", by=ROOT)
    live.choose("record.daily_mib_per_user", "7", by=ROOT)
    now = live.config()
    assert (now.session_hours, now.endless_api_keys, now.daily_mib_per_user) == (2.5, True, 7)
    live.return_to_file("site.name", by=ROOT)
    assert newest(log) == ("setting_changed", "site.name", '"Northgate" -> "From the file", as in the file')
    assert live.config().site_name == "From the file"
    size = log.size()
    live.return_to_file("site.name", by=ROOT)
    live.choose("web.session_hours", "2.5", by=ROOT)
    assert log.size() == size


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("site.name", ""), ("site.name", "x" * 81), ("site.name", "a\x1b[31mb"), ("site.name", 'a"\nport = 1'),
        ("site.banner_colour", "red"), ("site.banner_colour", "#12345"), ("web.session_hours", "0"),
        ("web.session_hours", "nan"), ("web.session_hours", "many"), ("web.session_hours", "1e9"),
        ("record.daily_mib_per_user", "0"), ("record.daily_mib_per_user", "1.5"), ("record.daily_mib_per_user", ""),
        ("listen.port", "80"), ("no.such", "1"), ("site", "x"),
    ],
)  # fmt: skip
def test_what_the_file_would_refuse_is_refused(
    log: AuditLog, live: LiveSettings, file: Config, name: str, text: str
) -> None:
    with pytest.raises(AccountError):
        live.choose(name, text, by=ROOT)
    assert (live.config(), log.size()) == (file, 0)


def test_only_an_administrator_changes_settings(log: AuditLog, live: LiveSettings, file: Config) -> None:
    ada = Accounts(AccountStore(log, passwords=FAST_PASSWORDS)).create_user("ada", PASSWORD, [Role.USER], by=ROOT)
    with pytest.raises(NoLongerAdminError):
        live.choose("site.name", "Hers", by=ada.actor("web"))
    live.choose("site.name", "Ours", by=ROOT)
    with pytest.raises(NoLongerAdminError):
        live.return_to_file("site.name", by=ada.actor("web"))
    assert live.config().site_name == "Ours"


@pytest.mark.parametrize(
    "stored",
    [
        "", "[]", "7", '{"value": "x"}', '{"value": 7, "by": "root", "at_us": 1}',
        '{"value": "x", "by": 7, "at_us": 1}', '{"value": "x", "by": "root", "at_us": -1}',
        json.dumps({"value": "x" * 99, "by": "root", "at_us": 1}), "[" * 9999,
    ],
)  # fmt: skip
def test_a_row_that_no_release_writes_is_no_choice(
    database: Database, live: LiveSettings, file: Config, stored: str
) -> None:
    with database.write() as connection:
        write_setting(connection, "live:site.name", stored)
        write_setting(connection, "live:listen.port", '{"value": 80, "by": "root", "at_us": 1}')
    assert live.config() == file
    live.choose("site.name", "Mended", by=ROOT)
    assert live.config().site_name == "Mended"


def test_every_live_setting_is_one_of_the_file() -> None:
    known = {f"{section}.{key}" for section, keys in settings_by_section().items() for key in keys}
    assert set(LIVE) <= known
    assert {field_of(name) for name in LIVE} <= {name for name in Config.__dataclass_fields__}
