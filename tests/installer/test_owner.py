"""Root installs for another user: who owns the files, under any umask, and what is refused before the copy."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from installer.errors import OwnerError, ReachError
from installer.owner import SERVICE_USER as DEFAULT_USER
from installer.owner import Owner, find_owner, hand_over
from tests.conftest import WAY_IS_OPEN, require
from tests.in_child import in_child
from tests.installer.archives import Sender
from tests.unprivileged import SERVICE_UID, let_through

as_root = pytest.mark.skipif("os.geteuid() != 0", reason="only root installs for another user")
INSTALLER = [sys.executable, "-m", "installer.cli"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that everybody can reach."""
    require(WAY_IS_OPEN, "a mount namespace in which an unprivileged user can reach this checkout")
    let_through(tmp_path)
    return tmp_path


def install_under(umask: int, archive: Path, sender: Sender, prefix: Path) -> subprocess.CompletedProcess[str]:
    command = [*INSTALLER, "install", str(archive), "--root", str(sender.root_path), "--prefix", str(prefix)]
    return subprocess.run(
        [*command, "--user", str(SERVICE_UID)], capture_output=True, text=True, check=False, umask=umask
    )


def as_service_user(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, user=SERVICE_UID, group=SERVICE_UID, extra_groups=(), capture_output=True, text=True, check=False,
        cwd="/",
    )  # fmt: skip


def faults(site: Path) -> list[str]:
    """Paths outside state/ that the service user cannot read, or can write."""
    found = []
    for path in (site, *(path for top in ("releases", "store") for path in (site / top, *(site / top).rglob("*")))):
        if path.is_symlink():
            continue
        told = path.stat()
        if told.st_uid != 0 or told.st_mode & 0o022:
            found.append(f"{path} can be written")
        if not told.st_mode & stat.S_IROTH or (path.is_dir() and not told.st_mode & stat.S_IXOTH):
            found.append(f"{path} cannot be read")
    return found


@pytest.fixture(scope="module")
def site(release_1: Path, sender: Sender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that root installed under the strictest umask."""
    require(WAY_IS_OPEN, "a mount namespace in which an unprivileged user can reach this checkout")
    site = tmp_path_factory.mktemp("owned") / "site"
    let_through(site)
    done = install_under(0o077, release_1, sender, site)
    assert done.returncode == 0, done.stderr
    return site


@as_root
def test_release_is_roots_and_readable_and_state_the_users(site: Path) -> None:
    assert faults(site) == []
    state = site / "state"
    assert (state.stat().st_uid, stat.S_IMODE(state.stat().st_mode)) == (SERVICE_UID, 0o700)
    assert {path.stat().st_uid for path in (state / "trust", *(state / "trust").rglob("*"))} == {0}
    ran = as_service_user(site / "current" / "venv" / "bin" / "appliance", "selftest", "--release", site / "current")
    assert ran.returncode == 0, ran.stderr


@as_root
def test_the_user_who_has_the_state_keeps_it(site: Path) -> None:
    assert find_owner(None, site) == find_owner(str(SERVICE_UID), site)


@as_root
def test_a_site_that_an_older_installer_made_for_root_is_mended_by_one_command(place: Path) -> None:
    site = place / "site"
    for name in ("releases/1.0/venv", "store/sha256/ab", "state/database"):
        (site / name).mkdir(parents=True)
    for name, mode in (("releases/1.0/receipt.json", 0o600), ("releases/1.0/venv/run", 0o777)):
        (site / name).touch()
        (site / name).chmod(mode)
    for path in (site, site / "releases", site / "releases" / "1.0"):
        path.chmod(0o700)
    done = subprocess.run(
        [*INSTALLER, "own", "--prefix", site, "--user", str(SERVICE_UID)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{site}/state belongs to {pwd.getpwuid(SERVICE_UID).pw_name} now" in done.stdout
    assert faults(site) == []
    assert (site / "state" / "database").stat().st_uid == SERVICE_UID


@as_root
def test_what_the_user_put_in_the_way_of_root_is_not_followed(place: Path) -> None:
    """An intruder may put links into state/. The files behind them keep their owners."""
    victim = place / "victim"
    victim.mkdir()
    (victim / "file").write_text("root's")
    (victim / "file").chmod(0o600)
    site = place / "site"
    (site / "state").mkdir(parents=True)
    (site / "state" / "directory").symlink_to(victim)
    (site / "state" / "link").symlink_to(victim / "file")
    (site / "releases").mkdir()
    (site / "releases" / "link").symlink_to(victim / "file")
    hand_over(site, Owner("nobody", SERVICE_UID, SERVICE_UID))
    assert (victim.stat().st_uid, (victim / "file").stat().st_uid) == (0, 0)
    assert stat.S_IMODE((victim / "file").stat().st_mode) == 0o600


@as_root
def test_a_second_name_of_another_s_file_is_not_given_away_or_opened(place: Path) -> None:
    """Where fs.protected_hardlinks is 0, anybody can give a file of root a second name in their own directory."""
    secret = place / "secret"
    secret.touch(mode=0o600)
    site, owner = place / "site", Owner("nobody", SERVICE_UID, SERVICE_UID)
    for name in ("state", "state/trust", "releases", "store"):
        (site / name).mkdir(parents=True)
    for name in ("releases", "store", "state/trust"):
        os.link(secret, site / name / "name")
    hand_over(site, owner)
    os.link(secret, site / "state" / "name")
    with pytest.raises(OwnerError, match=f"{site}/state/name has a second name elsewhere"):
        hand_over(site, owner)
    assert (secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode)) == (0, 0o600)


@as_root
def test_no_program_of_the_user_s_becomes_one_that_runs_as_root(place: Path) -> None:
    """Whoever owns state/ can put a directory of their own in the place of state/trust, which is given to root."""
    site, owner = place / "site", Owner("nobody", SERVICE_UID, SERVICE_UID)
    for name in ("state/trust", "releases"):
        (site / name).mkdir(parents=True)
    hand_over(site, owner)
    (site / "state" / "trust").rename(site / "state" / "elsewhere")
    program = site / "state" / "trust" / "shell"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    for path in (program.parent, program):
        os.chown(path, SERVICE_UID, SERVICE_UID)
    program.chmod(0o6755)
    hand_over(site, owner)
    assert (program.stat().st_uid, stat.S_IMODE(program.stat().st_mode)) == (0, 0o755)


@as_root
def test_what_the_user_exchanges_meanwhile_is_neither_given_away_nor_a_failure(place: Path) -> None:
    """A running appliance makes and removes files in state/; an intruder exchanges directories and links, too."""
    victim, site = place / "victim", place / "site"
    (victim / "inner").mkdir(parents=True)
    (victim / "inner" / "file").touch(mode=0o600)
    (site / "state" / "there").mkdir(parents=True)
    (site / "releases").mkdir()
    (site / "state" / "round").symlink_to("round")  # a link to itself
    before = {path: (path.stat().st_uid, path.stat().st_mode) for path in (victim, *victim.rglob("*"))}
    over = threading.Event()
    thread = threading.Thread(target=exchange, args=(site / "state", victim, over))
    thread.start()
    try:
        for _ in range(2000):
            hand_over(site, Owner("nobody", SERVICE_UID, SERVICE_UID))
    finally:
        over.set()
        thread.join()
    assert {path: (path.stat().st_uid, path.stat().st_mode) for path in (victim, *victim.rglob("*"))} == before


def exchange(state: Path, victim: Path, over: threading.Event) -> None:
    """Put directories and files, then links to the victim's, in each other's places."""
    while not over.is_set():
        for name, goal in (("inner", victim / "inner"), ("trust", victim)):
            (state / name).mkdir(exist_ok=True)
            (state / name / "file").touch()
            (state / name / "file").unlink()
            (state / name).rmdir()
            (state / name).symlink_to(goal)
            (state / name).unlink()


@as_root
def test_what_the_site_has_accepted_is_roots_again(place: Path) -> None:
    """Somebody ran `chown -R` on state/ by hand."""
    site = place / "site"
    (site / "state" / "trust" / "root_history").mkdir(parents=True)
    (site / "state" / "trust" / "timestamp.json").touch(mode=0o666)
    for path in (site / "state", *(site / "state").rglob("*")):
        os.chown(path, SERVICE_UID, SERVICE_UID)
    hand_over(site, Owner("nobody", SERVICE_UID, SERVICE_UID))
    trust = site / "state" / "trust"
    assert {path.stat().st_uid for path in (trust, *trust.rglob("*"))} == {0}
    assert stat.S_IMODE((trust / "timestamp.json").stat().st_mode) == 0o644


@as_root
def test_a_place_that_the_user_cannot_reach_is_refused_before_anything_is_copied(
    release_1: Path, sender: Sender, place: Path
) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    done = install_under(0o022, release_1, sender, closed / "site")
    assert done.returncode == 1
    assert done.stderr.startswith(f"installer: {ReachError.__name__}: the user ")
    assert f"because {closed} is closed to them: choose another prefix" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(closed.iterdir()) == []


@as_root
def test_an_interpreter_that_the_user_cannot_execute_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python3").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(closed / "python3"))
    with pytest.raises(ReachError, match=f"because {closed} is closed to them: run the installer with a Python"):
        find_owner(str(SERVICE_UID), place / "site")


@as_root
@pytest.mark.parametrize(
    ("user", "words"),
    [("root", "is root or of root's group"), ("0", "is root or of root's group"), ("no-such-user", "there is no user")],
)
def test_a_user_with_privileges_or_without_an_account_is_refused(place: Path, user: str, words: str) -> None:
    with pytest.raises(OwnerError, match=words):
        find_owner(user, place / "site")


@as_root
def test_an_uid_without_an_account_is_taken(place: Path) -> None:
    assert find_owner("54321", place / "site") == Owner("54321", 54321, 54321)


@as_root
def test_a_system_user_is_made_where_nobody_has_the_state(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = {"root": pwd.getpwnam("root")}
    called: list[list[str]] = []

    def look_up(name: str) -> pwd.struct_passwd:
        return accounts[name]

    def useradd(command: list[str], **_named: Any) -> subprocess.CompletedProcess[str]:
        called.append(command)
        account = (DEFAULT_USER, "x", 971, 971, "", "/nonexistent", "/usr/sbin/nologin")
        accounts[DEFAULT_USER] = pwd.struct_passwd(account)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pwd, "getpwnam", look_up)
    monkeypatch.setattr(subprocess, "run", useradd)
    assert find_owner(None, place / "site") == Owner(DEFAULT_USER, 971, 971)
    assert find_owner(None, place / "site") == Owner(DEFAULT_USER, 971, 971)
    ((program, *arguments),) = called
    assert Path(program).name == "useradd"
    assert arguments[0] == "--system"
    assert arguments[-1] == DEFAULT_USER


@as_root
def test_a_host_without_useradd_is_told_what_to_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", look_up)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(OwnerError, match=rf"adduser -S -D -H {DEFAULT_USER}\), then run this again with --user"):
        find_owner(None, place / "site")


@as_root
def test_no_user_is_made_for_a_place_that_nobody_could_reach(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", look_up)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a user was made"))
    (place / "closed").mkdir(mode=0o700)
    with pytest.raises(ReachError):
        find_owner(None, place / "closed" / "site")


def test_an_ordinary_user_installs_for_themselves(tmp_path: Path) -> None:
    def ask(_: int) -> list[Owner | None]:
        if os.geteuid() == 0:
            os.setresuid(SERVICE_UID, SERVICE_UID, SERVICE_UID)
        with pytest.raises(OwnerError, match="only root"):
            find_owner("nobody", tmp_path)
        return [find_owner(None, tmp_path)]

    assert in_child(ask) == [None]


def test_nothing_that_is_no_site_is_given_away(tmp_path: Path) -> None:
    let_through(tmp_path)
    (tmp_path / "file").touch()
    done = subprocess.run([*INSTALLER, "own", "--prefix", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "file").stat().st_uid == os.geteuid()
