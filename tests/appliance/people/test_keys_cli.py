"""`appliance keys`: what scripts and operators rely on, what the record says of it, and what is left when it fails."""

from __future__ import annotations

import json
import resource
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.cli import main
from appliance.database.transactions import open_database
from appliance.people.api_keys import ApiKeys
from appliance.people.key_rights import ALL_SCOPES, Scope
from appliance.people.keys_cli import _SCOPES
from tests.appliance.test_cli import Done, run, run_json
from tests.in_child import in_child


@pytest.fixture(scope="module")
def site_of_ann(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with the account ann, to be copied."""
    home = tmp_path_factory.mktemp("ann")
    run_json("users", "add", "ann", "--home", home)
    return home


@pytest.fixture
def home(tmp_path: Path, site_of_ann: Path) -> Path:
    """A site with the account ann."""
    shutil.copytree(site_of_ann, tmp_path, dirs_exist_ok=True)
    return tmp_path


def add(home: Path, *more: str) -> Any:
    return run_json("keys", "add", "ann", "nightly report", "--home", home, *more)


def listed(home: Path, *more: str) -> Any:
    return run_json("keys", "list", *more, "--home", home)


def count_keys(home: Path) -> int:
    connection = sqlite3.connect(home / "state" / "database" / "appliance.sqlite3")
    count = connection.execute("SELECT count(*) FROM api_keys").fetchone()[0]
    connection.close()
    return int(count)


def owner_of(home: Path, secret: str) -> str | None:
    """For whom a secret works."""
    database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
    user = ApiKeys(database, AuditLog(database)).user(secret)
    database.close()
    return None if user is None else user.name


def events(home: Path) -> list[tuple[Actor, str, str, str]]:
    """Who did what to which key, and with which words."""
    database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
    log = AuditLog(database)
    found = [log.get(number) for number in range(1, log.size() + 1)]
    database.close()
    keys = [event for event in found if event.header.action.startswith("api_key")]
    return [(e.header.actor, e.header.action, e.header.subject, e.content.text if e.content else "") for e in keys]


def test_the_choices_of_the_command_are_the_scopes() -> None:
    assert tuple(scope.value for scope in Scope) == _SCOPES


def test_a_key_is_made_with_all_rights_for_ninety_days(home: Path) -> None:
    made = add(home)
    assert owner_of(home, made["secret"]) == "ann"
    assert (made["owner"], made["label"], made["state"]) == ("ann", "nightly report", "works")
    assert made["scopes"] == sorted(ALL_SCOPES)
    assert (made["requests_per_minute"], made["tokens_per_day"]) == (None, None)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    expected = {name: value for name, value in made.items() if name != "secret"}
    (one,) = listed(home)
    assert {**one, "used_at": None} == expected


def test_stdout_is_the_secret_alone(home: Path) -> None:
    done = run("keys", "add", "ann", "x", "--scope", "models", "--requests-per-minute", "60", "--home", home)
    assert done.exit_code == 0
    assert owner_of(home, done.stdout.strip()) == "ann"
    (key,) = listed(home)
    assert f"Made the key {key['id']} for ann, which ends on " in done.stderr
    assert done.stderr.endswith("UTC: scopes models; 60 requests a minute.\n")
    assert done.stdout.strip() not in done.stderr


def test_rights_are_chosen_and_recorded_and_the_secret_is_not(home: Path) -> None:
    made = add(home, "--scope", "models", "--scope", "generate", "--tokens-per-day", "5000", "--expires", "30d")
    assert (made["scopes"], made["tokens_per_day"]) == (["generate", "models"], 5000)
    ((actor, action, subject, words),) = events(home)
    assert (actor.via, action, subject) == ("cli", "api_key_created", "ann/nightly report")
    assert actor.name != ""
    assert words == f"ends {made['expires_at'][:19]}+00:00; scopes generate, models; 5,000 tokens a day"
    stored = b"".join(path.read_bytes() for path in (home / "state" / "database").iterdir() if path.is_file())
    assert made["secret"].removeprefix("gpo_").encode() not in stored


@pytest.mark.parametrize(
    ("expires", "why"),
    [
        ("never", "Error: An API key needs an end; the settings of this site allow none without.\n"),
        ("367d", "Error: An API key lasts 366 days at most.\n"),
        ("0d", "Error: The end of the API key lies in the past.\n"),
        ("2020-01-01", "Error: The end of the API key lies in the past.\n"),
        ("9999999d", "--expires '9999999d' is no end."),
        ("soon", "--expires 'soon' is no end. When the key ends: a number of days (90d), a date"),
        ("2027-02-30", "--expires '2027-02-30' is no end."),
    ],
)
def test_an_end_that_is_not_allowed_makes_no_key(home: Path, expires: str, why: str) -> None:
    done = run("keys", "add", "ann", "x", "--expires", expires, "--home", home)
    assert done.exit_code in (1, 2)
    assert why in done.stderr
    assert (done.stdout, count_keys(home), events(home)) == ("", 0, [])


def test_a_key_lasts_to_the_end_of_a_date_and_for_ever_where_the_site_allows_it(home: Path) -> None:
    day = datetime.now(UTC).date() + timedelta(days=10)
    assert add(home, "--expires", day.isoformat())["expires_at"] == f"{day}T23:59:59+00:00"
    settings = home / "state" / "config" / "appliance.toml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("[accounts]\nendless_api_keys = true\n")
    assert add(home, "--expires", "never")["expires_at"] is None
    lines = run("keys", "list", "--home", home).stdout
    assert ("never ends" in lines, f"ends {day}" in lines) == (True, True)


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("nobody", "x"), 1, "There is no such user."),
        (("ann", "  "), 1, "An API key needs a label of 1 to 100 characters."),
        (("ann", "x" * 101), 1, "An API key needs a label of 1 to 100 characters."),
        (("ann", "\x1b[2J"), 1, "must not hold control characters"),
        (("ann", "x", "--scope", "everything"), 2, "'everything' is not one of"),
        (("ann", "x", "--requests-per-minute", "0"), 2, "'0' is neither a whole number above 0 nor none"),
        (("ann", "x", "--requests-per-minute", "1.5"), 2, "'1.5' is neither"),
        (("ann", "x", "--requests-per-minute", "100001"), 1, "from 1 to 100,000"),
        (("ann", "x", "--tokens-per-day", "-1"), 2, "'-1' is neither"),
    ],
)
def test_what_cannot_be_a_key_is_refused_in_words(
    home: Path, arguments: tuple[str, ...], status: int, why: str
) -> None:
    done = run("keys", "add", *arguments, "--home", home)
    assert (done.exit_code, why in done.stderr) == (status, True), done.stderr
    assert count_keys(home) == 0


def test_nobody_gets_a_key_who_may_not_use_it(home: Path) -> None:
    run("users", "roles", "ann", "--role", "reviewer", "--home", home)
    done = run("keys", "add", "ann", "x", "--home", home)
    assert done.stderr == "Error: ann does not have the role user, which API keys need.\n"
    run("users", "roles", "ann", "--role", "user", "--home", home)
    run("users", "disable", "ann", "--home", home)
    assert (
        run("keys", "add", "ann", "x", "--home", home).stderr == "Error: ann is disabled; enable the account first.\n"
    )
    assert count_keys(home) == 0


def test_keys_are_listed_by_person_with_what_they_may_do(home: Path) -> None:
    run_json("users", "add", "bob", "--home", home)
    run_json("keys", "add", "bob", "nightly report", "--scope", "models", "--home", home)
    made = add(home)
    assert [key["owner"] for key in listed(home)] == ["ann", "bob"]
    assert [key["owner"] for key in listed(home, "bob")] == ["bob"]
    run("keys", "revoke", made["id"], "--home", home)
    lines = run("keys", "list", "--home", home).stdout.splitlines()
    assert lines[0].startswith(made["id"])
    assert "revoked" in lines[0]
    assert lines[1].endswith("scopes models  nightly report")
    assert listed(home, "ann")[0]["state"] == "revoked"
    assert run("keys", "list", "nobody", "--home", home).stderr == "Error: There is no such user.\n"


def test_a_revoked_key_stops_and_the_record_says_who_did_it(home: Path) -> None:
    made = add(home)
    assert run("keys", "revoke", made["id"], "--home", home).stdout == f"Revoked the key {made['id']}.\n"
    assert owner_of(home, made["secret"]) is None
    run("keys", "revoke", made["id"], "--home", home)  # once is enough
    actor, action, subject, _ = events(home)[-1]
    assert (actor.via, action, subject) == ("cli", "api_key_revoked", "ann/nightly report")
    assert len(events(home)) == 2
    assert run("keys", "revoke", "0", "--home", home).stderr == "Error: There is no such API key.\n"
    changed = run("keys", "change", made["id"], "--scope", "all", "--home", home)
    assert changed.stderr == "Error: This API key was revoked; make a new one.\n"


def test_a_change_leaves_what_it_does_not_name(home: Path) -> None:
    made = add(home, "--scope", "models", "--requests-per-minute", "60", "--tokens-per-day", "1000")
    change = ("keys", "change", made["id"], "--home", home)
    said = run(*change, "--tokens-per-day", "none").stdout
    assert said == f"The key {made['id']} now has: scopes models; 60 requests a minute.\n"
    run(*change, "--scope", "all", "--requests-per-minute", "5")
    (key,) = listed(home)
    assert (key["scopes"], key["requests_per_minute"], key["tokens_per_day"]) == (sorted(ALL_SCOPES), 5, None)
    assert [event[1:] for event in events(home)[1:]] == [
        ("api_key_changed", "ann/nightly report", "scopes models; 60 requests a minute"),
        ("api_key_changed", "ann/nightly report", "all scopes; 5 requests a minute"),
    ]
    assert run(*change).exit_code == 2  # nothing is named
    assert run("keys", "change", "0", "--scope", "all", "--home", home).stderr == "Error: There is no such API key.\n"


def test_a_damaged_key_is_listed_as_damaged_and_can_be_revoked(home: Path) -> None:
    made = add(home)
    with sqlite3.connect(home / "state" / "database" / "appliance.sqlite3") as connection:
        connection.execute("UPDATE api_keys SET requests_per_minute = 0")
    connection.close()
    done = run("keys", "list", "--home", home)
    assert done.exit_code == 1
    assert "DAMAGED, and can do nothing" in done.stdout
    assert run("keys", "revoke", made["id"], "--home", home).exit_code == 0


def test_the_keys_of_a_damaged_account_do_not_vanish_in_silence(home: Path) -> None:
    add(home)
    with sqlite3.connect(home / "state" / "database" / "appliance.sqlite3") as connection:
        connection.execute("UPDATE users SET roles = 'emperor'")
    connection.close()
    done = run("keys", "list", "--json", "--home", home)
    assert done.exit_code == 1
    ((owner, damage),) = [tuple(one.values()) for one in json.loads(done.stdout)]
    assert (owner, "a role that this release does not know" in damage) == ("ann", True)


# What is left when it fails


def test_no_key_is_left_where_the_record_cannot_be_written(home: Path) -> None:
    with sqlite3.connect(home / "state" / "database" / "appliance.sqlite3") as connection:
        connection.execute("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN DELETE FROM missing; END")
    connection.close()
    done = run("keys", "add", "ann", "x", "--home", home)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert count_keys(home) == 0


def test_no_key_is_left_where_the_disk_is_full(home: Path) -> None:
    def invoke(_: int) -> tuple[int, str, str, str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # no file grows beyond it
        done = CliRunner().invoke(main, ["keys", "add", "ann", "x", "--home", str(home)])
        return done.exit_code, done.stdout, done.stderr, done.output

    done = Done(*in_child(invoke))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert count_keys(home) == 0
    assert add(home)["state"] == "works"


def test_a_secret_that_could_not_be_printed_opens_nothing(home: Path) -> None:
    command = [sys.executable, "-m", "appliance.cli", "keys", "add", "ann", "x", "--home", str(home)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    (key,) = listed(home)
    assert done.returncode == 1
    assert f"could not be printed (No space left on device), so the key {key['id']} was revoked" in done.stderr
    assert key["state"] == "revoked"
    assert [event[1] for event in events(home)] == ["api_key_created", "api_key_revoked"]
