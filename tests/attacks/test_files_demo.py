"""`make demo` by root: a user without privileges serves the site, wherever the checkout lies."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require
from tests.unprivileged import PROJECT, let_through

as_root = pytest.mark.skipif("os.geteuid() != 0", reason="only root needs another user")


def place_of_demo(checkout: Path) -> str:
    """The directory in which `make demo` of this checkout builds and serves."""
    (checkout / ".ci").mkdir(parents=True)
    shutil.copy(PROJECT / ".ci" / "demo-dir", checkout / ".ci" / "demo-dir")
    command = [str(checkout / ".ci" / "demo-dir")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@as_root
def test_a_checkout_that_everybody_can_reach_holds_its_demo(tmp_path: Path) -> None:
    let_through(tmp_path)
    assert place_of_demo(tmp_path / "checkout") == ".demo"


@as_root
@pytest.mark.parametrize("closed", ["closed", "closed/inner"])
def test_a_checkout_that_only_root_can_reach_is_served_elsewhere(tmp_path: Path, closed: str) -> None:
    let_through(tmp_path)
    checkout = tmp_path / closed / "checkout"
    checkout.mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    assert place_of_demo(checkout) == "/var/lib/gpt-oss-demo"


def test_root_gives_the_demos_state_to_nobody(tmp_path: Path) -> None:
    require(shutil.which("make") is not None, "make")
    done = subprocess.run(
        ["make", "--dry-run", "demo", f"DEMO_DIR={tmp_path}"], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    (install,) = [line for line in done.stdout.splitlines() if "installer install" in line]
    assert ("--user nobody" in install) == (os.geteuid() == 0)
    (serve,) = [line for line in done.stdout.splitlines() if "appliance serve" in line]
    assert f"--home {tmp_path}/site" in serve
