"""A kill before any change that repair, removal and uninstallation make: the same command then ends what was begun, and
until then the site serves what it served, or says that it is damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import installer.repair
from bundler.cli import main as bundler_main
from installer.accepted import read_trust
from installer.errors import NoReleaseError
from installer.formats.manifest import LAUNCHER
from installer.inspection import differences_of
from installer.removal import prune, remove_release, uninstall
from installer.root_update import site_roots, update_roots
from installer.site import Site, open_existing_site
from tests.attacks.killed import kills
from tests.attacks.tampering_page import counted
from tests.attacks.test_kills import DAMAGED, NEW, OLD, Scene, copies, is_tidy, scene, serves_whole, without_self_test
from tests.installer.archives import NOW
from tests.installer.test_repair import CODE, is_well, rewrite, run_repair

__all__ = ["copies", "scene", "without_self_test"]  # fixtures
Copies = Callable[..., Callable[[], Path]]


@pytest.fixture(scope="module", autouse=True)
def without_self_test_of_repair() -> object:
    """As for an installation: it changes nothing."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(installer.repair, "run_self_test", lambda *_: None)
        yield


@pytest.fixture
def updated(scene: Scene, copies: Copies) -> Path:
    """A site that serves the newer release and has the older one."""
    place = copies(scene.site)()
    scene.upgrade(place)
    return place


def in_site(work: Callable[[Site], object]) -> Callable[[Path], object]:
    def run(place: Path) -> object:
        with open_existing_site(place) as site:
            return work(site)

    return run


def test_a_kill_before_any_change_of_a_repair_of_single_files(scene: Scene, updated: Path, copies: Copies) -> None:
    release = updated / "releases" / NEW
    rewrite(release / DAMAGED, b"damaged")
    rewrite(release / CODE, b"damaged")
    (release / LAUNCHER).unlink()
    (release / "receipt.json").unlink()
    (release / "model" / "more").mkdir()
    killed = 0
    for number, place in kills(lambda place: run_repair(scene.new, scene.sender, place), copies(updated)):
        killed += 1
        assert Site(place).named("current") == NEW, number
        run_repair(scene.new, scene.sender, place)
        assert serves_whole(place) == NEW, number
        assert is_tidy(place), number
    assert is_well(place, scene.sender)
    print(f"repair of single files: {killed} kills")
    assert killed >= counted("kills of a repair of single files")


def test_a_kill_before_any_change_of_a_removal(updated: Path, copies: Copies) -> None:
    (updated / "state" / "packed" / OLD).mkdir(parents=True)
    (updated / "state" / "packed" / OLD / "weights").write_text("packed")
    remove, tidy_up = in_site(lambda site: remove_release(site, OLD)), in_site(lambda site: prune(site, 1))
    killed = 0
    for number, place in kills(remove, copies(updated)):
        killed += 1
        assert serves_whole(place) == NEW, number
        if os.path.lexists(place / "releases" / OLD):
            assert differences_of(Site(place), OLD, hash_all=True) == (), number
            remove(place)
        else:
            tidy_up(place)
        assert (os.listdir(place / "releases"), is_tidy(place), orphans(place)) == ([NEW], True, []), number
        assert not os.path.lexists(place / "previous"), number
        assert os.listdir(place / "state" / "packed") == [], number
    print(f"removal: {killed} kills")
    assert killed >= counted("kills of a removal")


def orphans(place: Path) -> list[Path]:
    """Blobs that no release has any more."""
    return [path for path in (place / "store").rglob("*") if path.is_file() and path.stat().st_nlink == 1]


def test_a_kill_before_any_change_of_a_pruning(updated: Path, copies: Copies) -> None:
    tidy_up = in_site(lambda site: prune(site, 1))
    killed = 0
    for number, place in kills(tidy_up, copies(updated)):
        killed += 1
        assert serves_whole(place) == NEW, number
        tidy_up(place)
        assert (os.listdir(place / "releases"), is_tidy(place), orphans(place)) == ([NEW], True, []), number
        assert serves_whole(place) == NEW, number
    print(f"pruning: {killed} kills")
    assert killed >= counted("kills of a pruning")


def test_a_kill_before_any_change_of_an_update_of_roots(scene: Scene, copies: Copies, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    shutil.copytree(scene.sender.directory / "keys", keys)
    assert (
        CliRunner().invoke(bundler_main, ["trust", "rotate", "--role", "targets", "--keys", str(keys)]).exit_code == 0
    )
    root = (keys / "root.json").read_bytes()
    update = in_site(lambda site: update_roots(site, [root], NOW).after)
    killed = 0
    for number, place in kills(update, copies(scene.site)):
        killed += 1
        assert serves_whole(place) == OLD, number
        assert site_roots(Site(place))[-1].signed.version in (1, 2), number
        assert update(place) == 2, number
        assert read_trust(Site(place).trust) == read_trust(Site(place).trust_copy), number
        assert is_tidy(place), number
    print(f"update of roots: {killed} kills")
    assert killed >= counted("kills of an update of roots")


def test_a_kill_before_any_change_of_an_uninstallation(updated: Path, copies: Copies) -> None:
    for purge in (False, True):
        leave = in_site(lambda site, purge=purge: uninstall(site, purge=purge))  # type: ignore[misc]
        killed = 0
        for number, place in kills(leave, copies(updated)):
            killed += 1
            if os.path.lexists(place):
                try:
                    leave(place)
                except NoReleaseError:  # nothing but the empty prefix was left
                    assert os.listdir(place) == [], number
            left = set(os.listdir(place)) if place.exists() else set()
            assert left == (set() if purge else {"state", "trust"}), number
        print(f"uninstallation{', with state/' if purge else ''}: {killed} kills")
        assert killed >= counted(f"kills of an uninstallation{', with state/' if purge else ''}")
