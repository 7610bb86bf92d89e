"""A kill before any change of the file system: the site then serves the old release or the new one, whole, and the next
run ends what was begun."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import installer.install
from installer.inspection import differences_of
from installer.site import Site, open_site
from tests.attacks.killed import kills
from tests.attacks.tampering_page import counted
from tests.installer.archives import Sender, listing, release_files
from tests.installer.test_install import run_install
from tests.unprivileged import let_through

OLD, NEW = "1.0", "2.0"
DAMAGED = Path("model", "weights-00001.bin")


@dataclass(frozen=True)
class Scene:
    """Two releases of one sender, and a site that serves the older one."""

    sender: Sender
    old: Path
    new: Path
    site: Path

    def upgrade(self, place: Path) -> object:
        return run_install(self.new, self.sender, place)

    def install_old(self, place: Path) -> object:
        return run_install(self.old, self.sender, place)

    def roll_back(self, place: Path) -> object:
        with open_site(place) as site:
            return site.roll_back()


@pytest.fixture(scope="module", autouse=True)
def without_self_test() -> object:
    """The self-test changes nothing, and would take most of the time of an installation this small."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(installer.install, "run_self_test", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    directory = tmp_path_factory.mktemp("kills")
    sender = Sender.make(directory / "sender")
    old = sender.archive(release_files(OLD), "old", version=1)
    new = sender.archive(release_files(NEW, extra={"model/weights-00002.bin": bytes(3 << 20)}), "new", version=2)
    run_install(old, sender, directory / "site")
    return Scene(sender, old, new, directory / "site")


@pytest.fixture
def copies(tmp_path: Path) -> Callable[[Path | None], Callable[[], Path]]:
    """Makes a function that copies a site, or makes room for one, each time in a directory of its own."""
    numbers = itertools.count()

    def of(site: Path | None) -> Callable[[], Path]:
        def fresh() -> Path:
            place = tmp_path / str(next(numbers)) / "site"
            place.parent.mkdir()
            let_through(place)
            if site is not None:
                subprocess.run(["cp", "-a", site, place], check=True)  # hard links stay hard links
            return place

        return fresh

    return of


def serves_whole(place: Path) -> str | None:
    """The version that the site serves; it must be as it was installed. None if it serves none."""
    version = Site(place).pointed("current")
    if version is None:
        assert not os.path.lexists(place / "current")
    else:
        assert differences_of(Site(place), version, hash_all=True) == ()
    return version


def is_tidy(place: Path) -> bool:
    """Whether nothing lies about that a kill left."""
    return not [name for name in listing(place) if Path(name).name.startswith(".") or name.endswith(".part")]


def test_a_kill_before_any_change_of_a_first_install(scene: Scene, copies: Callable[..., Callable[[], Path]]) -> None:
    killed = 0
    for number, place in kills(scene.install_old, copies(None)):
        killed += 1
        assert serves_whole(place) in (None, OLD), number
        scene.install_old(place)
        assert serves_whole(place) == OLD, number
        assert is_tidy(place), number
    print(f"first install: {killed} kills")
    assert killed >= counted("kills of a first install")


def test_a_kill_before_any_change_of_an_update(scene: Scene, copies: Callable[..., Callable[[], Path]]) -> None:
    killed, served = 0, set()
    for number, place in kills(scene.upgrade, copies(scene.site)):
        killed += 1
        served.add(serves_whole(place))
        scene.upgrade(place)
        assert serves_whole(place) == NEW, number
        assert Site(place).pointed("previous") == OLD, number
        assert is_tidy(place), number
    print(f"update: {killed} kills")
    assert killed >= counted("kills of an update")
    assert served == {OLD, NEW}, "some kills came before the switch, some after it"


def test_a_kill_before_any_change_of_a_repair(scene: Scene, copies: Callable[..., Callable[[], Path]]) -> None:
    damaged = copies(scene.site)()
    weights = damaged / "releases" / OLD / DAMAGED
    weights.chmod(0o644)
    weights.write_bytes(b"damaged" + weights.read_bytes())
    killed = 0
    for number, place in kills(scene.install_old, copies(damaged)):
        killed += 1
        scene.install_old(place)
        assert serves_whole(place) == OLD, number
        assert is_tidy(place), number
    print(f"repair: {killed} kills")
    assert killed >= counted("kills of a repair by installing again")


def test_a_kill_before_any_change_of_a_rollback(scene: Scene, copies: Callable[..., Callable[[], Path]]) -> None:
    updated = copies(scene.site)()
    scene.upgrade(updated)
    killed, served = 0, set()
    for number, place in kills(scene.roll_back, copies(updated)):
        killed += 1
        served.add(serves_whole(place))
        if Site(place).pointed("current") == NEW:
            scene.roll_back(place)
        assert serves_whole(place) == OLD, number
    print(f"rollback: {killed} kills")
    assert killed >= counted("kills of a rollback")
    assert served == {OLD, NEW}


def test_kills_that_do_not_come_are_told_from_a_command_that_fails(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError

    with pytest.raises(AssertionError, match="failed by itself"):
        list(kills(fail, copies_of_nothing(tmp_path)))
    made = [len(list(place.iterdir())) for _, place in kills(make_fifty, copies_of_nothing(tmp_path))]
    assert made == [0, 1, 30], "before the first, then before the first after another, and the thirtieth of these"


def copies_of_nothing(directory: Path) -> Callable[[], Path]:
    def fresh() -> Path:
        place = Path(tempfile.mkdtemp(dir=directory)) / "place"
        place.mkdir()
        return place

    return fresh


def make_fifty(place: Path) -> None:
    for number in range(50):
        (place / str(number)).mkdir()
