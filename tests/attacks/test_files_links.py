"""The owner of state/ puts links into it and waits for root to start the appliance or a command."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.config import ConfigError, init_state
from tests.unprivileged import SERVICE_UID, give_to_user

pytestmark = pytest.mark.skipif("os.geteuid() != 0", reason="the attack is on root")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of root's with a file in it."""
    (tmp_path / "victim").mkdir(mode=0o755)
    (tmp_path / "victim" / "file").touch(mode=0o600)
    return tmp_path / "victim"


def untouched(victim: Path) -> bool:
    paths = (victim, victim / "file")
    return {path.stat().st_uid for path in paths} == {0} and [path.name for path in victim.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["keys", "tmp", "database", "signer"])
def test_a_directory_that_is_a_link_gives_nothing_of_roots_away(tmp_path: Path, victim: Path, name: str) -> None:
    home = tmp_path / "site"
    home.mkdir()
    give_to_user(home)
    (home / "state" / name).symlink_to(victim)
    with contextlib.suppress(ConfigError):  # the user may not write there
        init_state(home)
    assert untouched(victim)


@pytest.mark.parametrize(
    ("link", "refused"),
    [(os.symlink, "Too many levels of symbolic links"), (os.link, "it has a second name")],
)
def test_the_lock_is_not_followed(
    tmp_path: Path, victim: Path, link: Callable[[Path, Path], None], refused: str
) -> None:
    home = tmp_path / "site"
    home.mkdir()
    give_to_user(home)
    link(victim / "file", home / "state" / "supervisor.lock")
    command = [sys.executable, "-m", "appliance.cli", "serve", "--port", "0", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"supervisor.lock: cannot be used: {refused}" in done.stderr
    assert untouched(victim)


def test_what_root_makes_is_the_owners(tmp_path: Path) -> None:
    give_to_user(tmp_path)
    init_state(tmp_path)
    assert {path.stat().st_uid for path in (tmp_path / "state").rglob("*")} == {SERVICE_UID}
    assert os.geteuid() == 0
