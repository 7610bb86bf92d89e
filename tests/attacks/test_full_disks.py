"""A disk that becomes full at any moment of an installation: one sentence, and the site is as it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import installer.install
from installer.errors import StorageFullError
from installer.inspection import differences_of
from installer.site import Site
from tests.attacks.tampering_page import counted
from tests.attacks.test_kills import NEW, OLD, Scene, scene, without_self_test
from tests.conftest import require
from tests.installer.archives import listing
from tests.unprivileged import let_through

__all__ = ["scene", "without_self_test"]  # fixtures


@pytest.fixture(autouse=True)
def without_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else fills the disk after the installer has found room enough."""
    monkeypatch.setattr(installer.install, "check_space", lambda *_, **__: None)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; `remount` changes its size."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", tmp_path], capture_output=True, check=False
    )
    require(done.returncode == 0, "a tmpfs")
    let_through(tmp_path)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def leave_free(disk: Path, free_bytes: int) -> None:
    """Give the file system so many free bytes."""
    status = os.statvfs(disk)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used + free_bytes}", disk], check=True)


def test_a_first_install_on_a_disk_that_fills_leaves_nothing(scene: Scene, disk: Path) -> None:
    for tried in range(1, 100):
        leave_free(disk, tried * (24 << 10))
        try:
            scene.install_old(disk / "site")
            break
        except StorageFullError:
            assert listing(disk) == {}, tried
    print(f"first install: {tried - 1} full disks")
    assert tried - 1 >= counted("full disks in a first install")
    assert differences_of(Site(disk / "site"), OLD, hash_all=True) == ()


def test_an_update_on_a_disk_that_fills_changes_nothing(scene: Scene, disk: Path) -> None:
    site = disk / "site"
    leave_free(disk, 64 << 20)
    scene.install_old(site)
    before = listing(site)
    for tried in range(1, 100):
        leave_free(disk, tried * (200 << 10))
        try:
            scene.upgrade(site)
            break
        except StorageFullError:
            assert listing(site) == before, tried
    print(f"update: {tried - 1} full disks")
    assert tried - 1 >= counted("full disks in an update")
    assert differences_of(Site(site), NEW, hash_all=True) == ()
