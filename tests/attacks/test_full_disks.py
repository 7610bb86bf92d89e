"""A disk that becomes full at any moment: one sentence that is true, and the site is as it was, or goes on later.

A quota answers the same as a disk without room or without inodes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import installer.damage
import installer.install
from bundler.cli import main as bundler_main
from installer.commands.service import after_install
from installer.errors import ExportError, ServiceError, StorageFullError
from installer.export import export_record
from installer.inspection import differences_of
from installer.root_update import site_roots, update_roots
from installer.site import Site, open_site
from tests.attacks.tampering_page import counted
from tests.attacks.test_kills import DAMAGED, NEW, OLD, Scene, scene, without_self_test
from tests.attacks.test_kills_leaving import without_self_test_of_repair
from tests.conftest import require
from tests.installer.archives import NOW, listing
from tests.installer.test_repair import CODE, rewrite, run_repair
from tests.unprivileged import let_through

__all__ = ["scene", "without_self_test", "without_self_test_of_repair"]  # fixtures


@pytest.fixture(autouse=True)
def without_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else fills the disk after the installer has found room enough."""
    for module in (installer.install, installer.damage):
        monkeypatch.setattr(module, "check_space", lambda *_, **__: None)


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


def leave_files(disk: Path, count: int) -> None:
    """Let so many more files and directories be made."""
    status = os.statvfs(disk)
    subprocess.run(["mount", "-o", f"remount,nr_inodes={status.f_files - status.f_ffree + count}", disk], check=True)


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


def refusal(work: Callable[[], object]) -> str | None:
    """What the command says of the full disk; None if it ends well."""
    try:
        work()
    except StorageFullError as exc:
        return str(exc)
    return None


def test_a_first_install_without_inodes_leaves_nothing(scene: Scene, disk: Path) -> None:
    """What it has accepted is remembered only with the release; otherwise the next run would call it lost."""
    tried = 0
    for count in inodes(disk, scene.install_old, None):
        leave_files(disk, count)
        said = refusal(lambda: scene.install_old(disk / "site"))
        if said is None:
            break
        tried += 1
        if f"release {OLD} is installed, and no release is current" not in said:
            assert listing(disk) == {}, count
    print(f"first install: {tried} disks without inodes")
    assert tried >= counted("disks without inodes in a first install")
    assert differences_of(Site(disk / "site"), OLD, hash_all=True) == ()
    assert Site(disk / "site").pointed("current") == OLD


def inodes(disk: Path, work: Callable[[Path], object], site: Path | None) -> Iterator[int]:
    """Numbers of inodes: few at the beginning, and each one where the command needs its last ones."""
    copy = disk / "copy"
    if site is not None:
        subprocess.run(["cp", "-a", site, copy], check=True)
    before = os.statvfs(disk).f_ffree
    work(copy)
    needed = before - os.statvfs(disk).f_ffree
    shutil.rmtree(copy)
    yield from range(2, needed - 12, 16)
    yield from range(needed - 12, needed + 10)


def test_an_update_without_inodes_changes_nothing_or_says_what(scene: Scene, disk: Path) -> None:
    site = disk / "site"
    scene.install_old(site)
    before, tried = listing(site), 0
    for count in inodes(disk, scene.upgrade, site):
        leave_files(disk, count)
        said = refusal(lambda: scene.upgrade(site))
        if said is None:
            break
        tried += 1
        if f"release {NEW} is installed, and {OLD} stays the current one" in said:
            assert Site(site).receipt(NEW) is not None, count
        else:
            assert listing(site) == before, count
        assert Site(site).pointed("current") == OLD, count
    print(f"update: {tried} disks without inodes")
    assert tried >= counted("disks without inodes in an update")
    assert differences_of(Site(site), NEW, hash_all=True) == ()
    assert Site(site).pointed("current") == NEW


@pytest.mark.parametrize("kind", ["bytes", "inodes"])
def test_a_repair_on_a_full_disk_goes_on_later(kind: str, scene: Scene, disk: Path) -> None:
    site = disk / "site"
    scene.install_old(site)
    release = site / "releases" / OLD
    rewrite(release / DAMAGED, b"damaged")
    rewrite(release / CODE, b"damaged")
    (release / "receipt.json").unlink()
    for tried in range(100):
        if kind == "bytes":
            leave_free(disk, tried * (16 << 10))
        else:
            leave_files(disk, 3 * tried)
        said = refusal(lambda: run_repair(scene.old, scene.sender, site))
        if said is None:
            break
        assert "nothing was changed" in said or "what was put back stays" in said
        assert not [name for name in listing(site) if Path(name).name.startswith(".")], tried
    print(f"repair: {tried} full disks, {kind}")
    assert tried >= counted(f"full disks in a repair, {kind}")
    assert differences_of(Site(site), OLD, hash_all=True) == ()


def test_an_update_of_roots_without_inodes_accepts_all_or_nothing(scene: Scene, disk: Path) -> None:
    site, keys = disk / "site", disk / "keys"
    scene.install_old(site)
    shutil.copytree(scene.sender.directory / "keys", keys)
    rotated = CliRunner().invoke(bundler_main, ["trust", "rotate", "--role", "targets", "--keys", str(keys)])
    assert rotated.exit_code == 0
    before, root = listing(site), (keys / "root.json").read_bytes()

    def update() -> None:
        with open_site(site) as opened:
            update_roots(opened, [root], NOW)

    for tried in range(10):
        leave_files(disk, tried)
        said = refusal(update)
        if said is None:
            break
        assert "nothing was changed" in said
        assert listing(site) == before, tried
    print(f"update of roots: {tried} disks without inodes")
    assert tried >= counted("disks without inodes in an update of roots")
    assert site_roots(Site(site))[-1].signed.version == 2


def test_a_keeper_that_finds_no_inode_leaves_the_release_installed(scene: Scene, disk: Path) -> None:
    site = disk / "site"
    scene.install_old(site)
    leave_files(disk, 0)
    with pytest.raises(ServiceError, match="the release is installed and current, but the keeper"):
        after_install(site, None, wanted=False)
    leave_files(disk, 10)
    assert after_install(site, None, wanted=False)[0] == {"service": None}
    assert (site / "service" / "keeper").stat().st_mode & 0o777 == 0o555


def test_an_export_on_a_full_disk_leaves_record_and_no_half_file(scene: Scene, disk: Path) -> None:
    """Neither the exported file nor its key is left, so that the same command can be typed again."""
    site, out = disk / "site", disk / "out"
    scene.install_old(site)
    (site / "state" / "signer").mkdir()
    (site / "state" / "signer" / "checkpoints").touch()
    (site / "state" / "keys").mkdir()
    (site / "state" / "keys" / "audit.pub").write_bytes(bytes(40_000))
    launcher = site / "releases" / OLD / "venv" / "bin" / "appliance"
    rewrite(launcher, b'#!/bin/sh\nprintf "a record" > "${7}"\n')
    launcher.chmod(0o755)
    leave_free(disk, 16 << 10)
    with pytest.raises(ExportError, match="the record's public key cannot be written"):
        export_record(Site(site), out, dict(os.environ))
    assert not [path for path in disk.iterdir() if path.name != "site"]
    leave_free(disk, 1 << 20)
    export_record(Site(site), out, dict(os.environ))
    assert (out.read_bytes(), out.with_name("out.pub").stat().st_size) == (b"a record", 40_000)
    with pytest.raises(ExportError, match=f"{out} exists"):
        export_record(Site(site), out, dict(os.environ))
    out.unlink()
    with pytest.raises(ExportError, match=f"{out}.pub exists"):
        export_record(Site(site), out, dict(os.environ))
