"""The owner of `state/` exchanges directories and links while root works in it: nothing elsewhere changes.

tests/installer/test_owner.py does the same to what gives `state/` away. Root may fail with a sentence; these are the
functions below the sentences, so an OSError is let pass.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from installer.durable import remove_tree
from installer.site import Site
from tests.installer.archives import listing

ACCEPTED, REMOVED = 20, 200  # how often root works; the thread exchanges many times as often
FILES = {"root_history/1.root.json": b"root", "targets.json": b"t", "snapshot.json": b"s", "timestamp.json": b"time"}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of somebody else's, with the names that root is about to use."""
    victim = tmp_path / "victim"
    (victim / "root_history").mkdir(parents=True)
    for name in (*FILES, "inner"):
        (victim / name).write_bytes(b"theirs")
    return victim


@contextmanager
def exchanging(work: Callable[[], object]) -> Iterator[None]:
    """Do this again and again in a thread, whatever comes of it."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            with suppress(OSError):
                work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def in_place_of(path: Path, victim: Path) -> Callable[[], object]:
    """What lies under a name, then a link to the victim's, then what lay there again."""
    aside = path.with_name("aside")

    def exchange() -> None:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        try:
            path.symlink_to(victim)
            path.unlink()
        finally:
            aside.rename(path)

    return exchange


@pytest.mark.parametrize("name", ["trust", "trust/root_history", "trust/targets.json", "trust/.targets.json.new"])
def test_what_is_accepted_is_written_nowhere_else(name: str, victim: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.prefix.mkdir()
    before = listing(victim)
    goal = victim / name.partition("/")[2].lstrip(".").removesuffix(".new")
    with exchanging(in_place_of(site.state / name, goal)):
        for _ in range(ACCEPTED):
            with suppress(OSError):
                site.accept_metadata(FILES)
    assert listing(victim) == before
    site.accept_metadata(FILES)
    assert {path.read_bytes() for path in site.trust.rglob("*.json")} == set(FILES.values())


def test_what_is_removed_is_removed_nowhere_else(victim: Path, tmp_path: Path) -> None:
    top = tmp_path / "state"
    before = listing(victim)
    with exchanging(in_place_of(top / "outer" / "inner", victim)):
        for _ in range(REMOVED):
            with suppress(OSError):
                (top / "outer" / "inner").mkdir(parents=True)
                remove_tree(top)
    assert listing(victim) == before
    remove_tree(top)
    assert not top.exists()
