"""Code that runs inside an administrator's command, started by root, reaches no network and only the files that the
command works on. On a host without Landlock it still reaches no network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.isolation.landlock import TRUNCATE_ABI, landlock_abi
from tests.conftest import require
from tests.unprivileged import PROJECT, give_to_user

# What each command calls to do its work. The intruder takes the place of that call.
COMMANDS = {
    "users list": ("appliance.people.accounts", "Accounts.list_users"),
    "audit verify": ("appliance.audit.verify", "verify_log"),
    "audit checkpoint": ("appliance.audit.stored", "newest_note"),
    "doctor": ("appliance.doctor", "_look_at_release"),
}
SIGNING = ("audit checkpoint",)

_INTRUDE = """
import importlib, json, os, socket, sys
from tests.attacks.intruder import try_all
import appliance.cli
from appliance.isolation import administration, landlock
module, name, attempts, without_landlock, *arguments = json.loads(sys.argv[1])
if without_landlock:
    administration.landlock_abi = lambda: 0
def reach_out():
    for family, kind, address in (
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 9)), (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
        (socket.AF_UNIX, socket.SOCK_STREAM, "/run/docker.sock"),
    ):
        try:
            socket.socket(family, kind).connect(address)
        except PermissionError:
            continue
        except OSError as exc:
            return str(exc)
        return "connected"
    return "refused"
def intrude(*_arguments, **_named):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    found = {"network": reach_out(), "uid": os.geteuid(), "capabilities": int(status["CapEff"], 16)}
    found |= {"no_new_privs": int(status["NoNewPrivs"]), "files": try_all(attempts)}
    print("intruder:", json.dumps(found), flush=True)
    os._exit(0)
owner, _, attribute = name.rpartition(".")
target = importlib.import_module(module)
setattr(getattr(target, owner) if owner else target, attribute, intrude)
appliance.cli.main(arguments)
"""


def attempts_on(home: Path, *, signs: bool) -> list[list[str]]:
    state = home / "state"
    attempts = [
        ["make", "/etc/cron.d/gpt-oss"], ["make", "/tmp/gpt-oss-intruder"], ["make", f"{home}/new"],
        ["write", "/proc/sys/kernel/core_pattern"], ["open", "/dev/kmsg"], ["read", "/etc/hosts"],
        ["make", f"{state}/trust/root.json"], ["make", f"{state}/packed/new"],
        ["cut", f"{state}/config/appliance.toml"],
        ["execute", "/bin/true"], ["execute-written", f"{state}/tmp/administration/script"],
        ["make", f"{PROJECT}/intruder.pth"], ["make", f"{sys.prefix}/intruder.pth"], ["look-into", "/home"],
    ]  # fmt: skip
    if not signs:
        attempts += [["look-into", f"{state}/signer"], ["make", f"{state}/audit/new"], ["make", f"{state}/keys/new"]]
    return attempts


def intruded(home: Path, command: str, *, without_landlock: bool = False) -> dict[str, Any]:
    """What an intruder in this command found."""
    settings = home / "state" / "config" / "appliance.toml"
    settings.parent.mkdir(parents=True)
    settings.touch()
    give_to_user(home)
    attempts = attempts_on(home, signs=command in SIGNING)
    arguments = json.dumps([*COMMANDS[command], attempts, without_landlock, *command.split(), "--home", str(home)])
    done = subprocess.run(
        [sys.executable, "-B", "-c", _INTRUDE, arguments], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("intruder: ")]
    assert lines, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(lines[0].removeprefix("intruder: "))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_reaches_nothing_but_its_work(tmp_path: Path, command: str) -> None:
    require(landlock_abi() >= TRUNCATE_ABI, "Landlock, ABI 3")
    found = intruded(tmp_path, command)
    assert (found["network"], found["capabilities"], found["no_new_privs"]) == ("refused", 0, 1)
    assert found["uid"] == (tmp_path / "state").stat().st_uid
    assert found["uid"] != 0 or os.geteuid() != 0
    assert {attempt: told for attempt, told in found["files"].items() if told not in ("EACCES", "EPERM")} == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_without_landlock_a_command_works_and_has_no_way_out(tmp_path: Path, command: str) -> None:
    found = intruded(tmp_path, command, without_landlock=True)
    assert (found["network"], found["capabilities"], found["no_new_privs"]) == ("refused", 0, 1)
    assert found["files"]["read /etc/hosts"] == "done"  # so Landlock made the refusals above


def test_selftest_reaches_nothing_but_the_release(tmp_path: Path) -> None:
    require(landlock_abi() >= TRUNCATE_ABI, "Landlock, ABI 3")
    attempts = [["make", "/tmp/gpt-oss-intruder"], ["read", "/etc/hosts"], ["make", str(tmp_path / "new")]]
    arguments = ["appliance.installed_release", "load_release", attempts, False, "selftest", "--release", str(tmp_path)]
    command = [sys.executable, "-B", "-c", _INTRUDE, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    found = json.loads(done.stdout.removeprefix("intruder: "))
    assert found["network"] == "refused"
    assert set(found["files"].values()) == {"EACCES"}


def test_evidence_is_written_where_the_caller_may_and_the_owner_of_the_site_may_not(tmp_path: Path) -> None:
    home, closed = tmp_path / "site", tmp_path / "closed"
    home.mkdir()
    give_to_user(home)
    closed.mkdir(mode=0o700)
    appliance = [sys.executable, "-m", "appliance.cli"]
    subprocess.run([*appliance, "users", "add", "ann", "--home", home], check=True, capture_output=True)
    out = closed / "evidence.json"
    out.write_text("x" * 1_000_000)  # the old file is overwritten completely
    subprocess.run([*appliance, "audit", "export", "--home", home, "--out", out], check=True, capture_output=True)
    assert json.loads(out.read_text())["events"]
    key = home / "state" / "keys" / "audit.pub"
    subprocess.run([*appliance, "audit", "check", out, "--key", key], check=True, capture_output=True)


def test_a_command_is_not_talked_out_of_its_confinement(tmp_path: Path) -> None:
    """The supervisor tells a command that it is confined already. When anybody else says so, the command checks it."""
    give_to_user(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "users", "list", "--home", tmp_path],
        capture_output=True, text=True, check=False, cwd=PROJECT, env={**os.environ, "APPLIANCE_CONFINED": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "Error: APPLIANCE_CONFINED is set, but this command is not confined; unset the variable\n"
