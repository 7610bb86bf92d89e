"""The `appliance` command: what scripts and operators rely on."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.cli import main
from appliance.database.transactions import open_database
from appliance.disk import measured
from appliance.engine.operators import load_operators
from tests.in_child import in_child
from tests.unprivileged import SERVICE_UID, give_to_user

SITE_COMMANDS = [
    ["serve"], ["doctor"], ["users", "add", "x"], ["users", "list"], ["users", "disable", "x"],
    ["users", "enable", "x"], ["users", "roles", "x", "--role", "user"], ["users", "link", "x"],
    ["users", "first-admin-link"], ["keys", "add", "x", "x"], ["keys", "list"], ["keys", "revoke", "x"],
    ["keys", "change", "x", "--scope", "all"],
    ["audit", "verify"], ["audit", "checkpoint"],
    ["audit", "export", "--out", "x"], ["audit", "erase", "--last", "1", "--reason", "x"],
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    exit_code: int
    stdout: str
    stderr: str
    output: str


def run(*args: str | Path) -> Done:
    """Run the command in a child of this process, because it confines itself for ever."""

    def invoke(_: int) -> tuple[int, str, str, str]:
        done = CliRunner().invoke(main, [str(arg) for arg in args])
        return done.exit_code, done.stdout, done.stderr, done.output

    return Done(*in_child(invoke))


def run_json(*args: str | Path) -> Any:
    done = run(*args, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [path]
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    done = run(*path, "--help")
    assert done.exit_code == 0
    assert done.output.startswith("Usage:")


@pytest.mark.parametrize("command", SITE_COMMANDS, ids=" ".join)
def test_bad_settings_are_one_line_and_exit_status_1(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "state" / "config" / "appliance.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[listen]\nport = 'x'\n")
    done = run(*command, "--home", tmp_path)
    assert done.exit_code == 1
    assert done.stderr == f"Error: {path}: listen.port must be a whole number from 0 to 65535, not 'x'\n"


def test_serve_loads_nothing_heavy_before_the_door_is_shut() -> None:
    code = """
import sys
from appliance.cli import main
import appliance.runtime.serve, appliance.runtime.processes
from tests.appliance.supervised import HEAVY
print([name for name in HEAVY if name in sys.modules])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "[]\n"


def test_first_administrator_gets_a_link_until_there_is_one(tmp_path: Path) -> None:
    link = run_json("users", "first-admin-link", "--home", tmp_path, "--url", "http://box:8080/")["link"]
    assert link.startswith("http://box:8080/welcome/")
    run_json("users", "add", "root", "--role", "admin", "--home", tmp_path)
    assert run_json("users", "first-admin-link", "--home", tmp_path) == {"link": None}
    assert run("users", "first-admin-link", "--home", tmp_path).stdout == ""


def test_accounts_are_added_listed_disabled_and_enabled(tmp_path: Path) -> None:
    added = run_json(
        "users", "add", "ann", "--role", "user", "--role", "reviewer", "--display-name", "Ann B", "--home", tmp_path
    )
    assert added["roles"] == ["reviewer", "user"]
    assert "/welcome/" in added["link"]
    assert "/welcome/" in run_json("users", "link", "ann", "--home", tmp_path)["link"]
    given = run("users", "roles", "ann", "--role", "user", "--role", "reviewer", "--home", tmp_path)
    assert given.stdout == "ann now has the roles reviewer, user.\n"
    run("users", "roles", "ann", "--role", "user", "--home", tmp_path)
    assert run("users", "disable", "ann", "--home", tmp_path).stdout == "Disabled ann.\n"
    (ann,) = run_json("users", "list", "--home", tmp_path)
    assert (ann["name"], ann["display_name"], ann["disabled"]) == ("ann", "Ann B", True)
    assert run("users", "enable", "ann", "--home", tmp_path).stdout == "Enabled ann.\n"
    assert "ann" in run("users", "list", "--home", tmp_path).stdout


def test_links_begin_with_the_address_of_the_site(tmp_path: Path) -> None:
    path = tmp_path / "state" / "config" / "appliance.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[site]\naddress = "https://chat.example"\n[listen]\nhost = "::1"\n')
    link = run_json("users", "first-admin-link", "--home", tmp_path)["link"]
    assert link.startswith("https://chat.example/welcome/")
    path.write_text('[listen]\nhost = "::1"\n')
    link = run_json("users", "first-admin-link", "--home", tmp_path)["link"]
    assert link.startswith("http://[::1]:8080/welcome/")


def test_unknown_user_is_one_line(tmp_path: Path) -> None:
    done = run("users", "disable", "nobody", "--home", tmp_path)
    assert (done.exit_code, done.stderr) == (1, "Error: There is no such user.\n")


def test_what_the_command_does_is_recorded_with_who_did_it(tmp_path: Path) -> None:
    run("users", "add", "ann", "--home", tmp_path)
    out = tmp_path / "evidence.json"
    assert run("audit", "export", "--home", tmp_path, "--out", out).exit_code == 0
    header = json.loads(json.loads(out.read_text())["events"][0]["header"])
    assert header["action"] == "user_created"
    assert header["actor"]["via"] == "cli"


def test_log_is_verified_signed_exported_and_checked(tmp_path: Path) -> None:
    run("users", "add", "ann", "--home", tmp_path)
    note = run("audit", "checkpoint", "--home", tmp_path)
    assert note.stdout.startswith("gpt-oss-appliance/audit/")
    verified = run_json("audit", "verify", "--home", tmp_path)
    assert (verified["intact"], verified["faults"]) == (True, [])
    assert verified["signed_up_to"] == verified["events"] - 1  # the last one says that the checkpoint was exported
    out = tmp_path / "evidence.json"
    run("audit", "export", "--home", tmp_path, "--out", out, "--without-content")
    key = tmp_path / "state" / "keys" / "audit.pub"
    proven = run_json("audit", "check", out, "--key", key)
    assert proven["events"] == verified["events"] + 1  # the verification is one of them
    out.write_bytes(out.read_bytes().replace(b"ann", b"bob"))
    assert run("audit", "check", out, "--key", key).exit_code == 1


def test_broken_log_is_exit_status_1(tmp_path: Path) -> None:
    run("users", "add", "ann", "--home", tmp_path)
    with sqlite3.connect(tmp_path / "state" / "database" / "appliance.sqlite3") as connection:
        connection.execute("UPDATE audit_events SET actor_name = 'mallory' WHERE sequence = 1")
    connection.close()
    done = run("audit", "verify", "--home", tmp_path)
    assert done.exit_code == 1
    assert "FAULT" in done.stdout
    assert "BROKEN" in done.stdout


def test_contents_are_erased_by_number_or_by_age_with_a_reason(tmp_path: Path) -> None:
    run("users", "add", "ann", "--home", tmp_path)
    with open_log(tmp_path) as log:
        for number in range(3):
            log.append(NewEvent(Actor("", "ann", "web"), "prompt", content=Content(f"said {number}")))
    assert run("audit", "erase", "--home", tmp_path, "--last", "3").exit_code == 2  # no reason
    refused = run("audit", "erase", "--home", tmp_path, "--last", "3", "--before", "2030-01-01", "--reason", "x")
    assert refused.exit_code == 2
    assert run("audit", "erase", "--home", tmp_path, "--last", "3", "--reason", "x").exit_code == 1  # nobody says yes
    arguments = ("audit", "erase", "--home", tmp_path, "--reason", "90 days", "--yes")
    erased = run_json(*arguments, "--last", "3")
    assert (erased["first"], erased["last"], erased["contents"]) == (1, 3, 1)
    assert run_json(*arguments, "--before", "2030-01-01")["contents"] == 2
    nothing = run(*arguments, "--before", "2020-01-01")
    assert (nothing.exit_code, nothing.stderr) == (1, "Error: no event exists in this range\n")
    verified = run_json("audit", "verify", "--home", tmp_path)
    assert (verified["intact"], verified["erased"]) == (True, 3)


def test_a_check_says_what_a_file_proves_and_what_not(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for number in range(6):
            log.append(NewEvent(Actor("", "ann", "web"), "prompt", content=Content(f"said {number}")))
    assert run("audit", "erase", "--home", tmp_path, "--last", "2", "--reason", "x", "--yes").exit_code == 0
    out, key = tmp_path / "out.jsonl", tmp_path / "state" / "keys" / "audit.pub"
    done = run("audit", "export", "--home", tmp_path, "--first", "2", "--last", "5", "--out", out, "--jsonl")
    assert done.exit_code == 0, done.output
    proven = run_json("audit", "check", out, "--key", key)
    assert (proven["events"], proven["first"], proven["last"], proven["complete"]) == (4, 2, 5, True)
    assert (proven["contents"], proven["absent_contents"], proven["contents_left_out"]) == (3, 1, False)
    words = run("audit", "check", out, "--key", key).stdout
    assert "Complete: every event from 2 to 5 is in it." in words
    assert "3 proven, 0 events never had any, 1 absent (erased, or taken out" in words
    assert f"Signed at {proven['signed_at']} by {key.read_text().strip()}." in words
    out.write_bytes(out.read_bytes()[:-20])
    assert run("audit", "check", out, "--key", key).exit_code == 1


def test_evidence_with_holes_does_not_read_as_a_range(tmp_path: Path) -> None:
    run("users", "add", "ann", "--home", tmp_path)
    out, key = tmp_path / "out.json", tmp_path / "state" / "keys" / "audit.pub"
    run("users", "disable", "ann", "--home", tmp_path)
    run("users", "enable", "ann", "--home", tmp_path)
    assert run("audit", "export", "--home", tmp_path, "--out", out, "--last", "4").exit_code == 0
    body = json.loads(out.read_text())
    del body["events"][1:3]
    out.write_text(json.dumps(body))
    proven = run_json("audit", "check", out, "--key", key)
    assert (proven["events"], proven["complete"], proven["missing"]) == (2, False, [[2, 3]])
    words = run("audit", "check", out, "--key", key).stdout
    assert "NOT COMPLETE: of the events 1 to 4 some are not in it.\n  Missing: events 2 to 3." in words


def test_an_export_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    run("users", "add", "ann", "--home", tmp_path)
    for flag in ((), ("--jsonl",)):
        done = run("audit", "export", "--home", tmp_path, "--out", tmp_path / "absent" / "out", *flag)
        assert done.exit_code == 1
        assert done.stderr.endswith("cannot be written: No such file or directory\n")


KILLED = """
import os, signal, sys
from pathlib import Path
from appliance.command import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("written", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background ignores it
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    signal.pause()
"""


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_half_written_file_is_removed_and_an_older_one_stays(tmp_path: Path, number: str) -> None:
    out = tmp_path / "out"
    out.write_text("older")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out), number], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"written\n"  # to the end: the other process has ended, too
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.read_text() == "older"


@contextmanager
def open_log(home: Path) -> Iterator[AuditLog]:
    database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
    yield AuditLog(database)
    database.close()


def test_empty_log_has_nothing_to_sign(tmp_path: Path) -> None:
    done = run("audit", "checkpoint", "--home", tmp_path)
    assert (done.exit_code, done.stderr) == (1, "Error: the log is empty; there is nothing to sign\n")


def test_selftest_of_what_is_no_release_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "appliance.cli", "selftest", "--release", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path}/release.json: cannot be read: No such file or directory\n"


def doctor(home: Path) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "appliance.cli", "doctor", "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_doctor_proves_silence_and_names_what_is_missing(tmp_path: Path) -> None:
    code, report = doctor(tmp_path)
    findings = {finding["subject"]: finding for finding in report["findings"]}
    assert code == 1
    assert not report["is_well"]
    assert not findings["release"]["is_well"]
    assert findings["silence"]["is_well"]
    assert findings["processor"]["is_well"]
    assert findings["processor"]["detail"].startswith(f"CPU answers use {load_operators().paths()[0]}")
    assert findings["record"]["is_well"]
    assert findings["disk"]["is_well"] == (measured(tmp_path).level in ("ok", "warning"))
    assert all(attempt["refused"] for attempt in report["silence"]["attempts"])


CLOSED = {
    "root without its privileges": ["selftest", "--release"],
    f"uid {SERVICE_UID}": ["serve", "--port", "0", "--home"],
}


@pytest.mark.skipif("os.geteuid() != 0", reason="only root has privileges to lose")
@pytest.mark.parametrize("who", CLOSED)
def test_root_says_which_path_it_cannot_use_without_its_privileges(tmp_path: Path, who: str) -> None:
    closed = tmp_path / "closed"
    (closed / "site").mkdir(parents=True)
    if CLOSED[who][0] == "serve":
        give_to_user(closed / "site")
    os.chown(closed, SERVICE_UID + 1, SERVICE_UID + 1)
    closed.chmod(0o700)
    called = [sys.executable, "-m", "appliance.cli", *CLOSED[who], str(closed / "site")]
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{closed} is closed to {who}; open it to them, or start as its owner" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif("os.geteuid() != 0", reason="only root can give away files")
def test_a_state_of_two_owners_is_said_with_the_one_command_that_mends_it(tmp_path: Path) -> None:
    """As after a restore that gave only the directory itself to the appliance's user."""
    give_to_user(tmp_path)
    (tmp_path / "state" / "tmp").mkdir(mode=0o700)
    command = [sys.executable, "-m", "appliance.cli", "serve", "--port", "0", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"Error: {tmp_path}/state: cannot be prepared: not all of it is uid {SERVICE_UID}'s; "
    assert done.stderr.startswith(said)
    assert done.stderr.endswith(f" with: installer own --prefix {tmp_path}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif("os.geteuid() != 0", reason="only root can serve as root")
def test_refuses_to_serve_as_root_and_prints_what_mends_it(tmp_path: Path) -> None:
    give_to_user(tmp_path)  # all but the state itself
    for state_exists in (True, False):
        if state_exists:
            os.chown(tmp_path / "state", 0, 0)
        else:
            (tmp_path / "state").rmdir()
        command = [sys.executable, "-m", "appliance.cli", "serve", "--port", "0", "--home", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: the appliance never serves as root, and {tmp_path}/state is root's; ")
        assert done.stderr.count("\n") == 1
        assert (tmp_path / "state").exists() == state_exists
    (tmp_path / "state").mkdir()
    mend = [*shlex.split(done.stderr.partition("user of its own with: ")[2]), "--user", str(SERVICE_UID)]
    subprocess.run(mend, check=True, capture_output=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == f"Error: no release is installed in {tmp_path}; install one with: installer install\n"
    assert {path.stat().st_uid for path in (tmp_path / "state").rglob("*")} == {SERVICE_UID}
