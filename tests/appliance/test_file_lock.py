"""Who owns a file: who asks takes no lock, so nobody who begins at that moment takes the asker for an owner."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appliance.config import Config, init_state
from appliance.file_lock import is_owned, is_owned_at, own
from appliance.runtime.site_lock import SiteLockError, is_served, lock_site
from appliance.turns.journal import open_reader, remove_dead


def at_every_step_of(ask: Callable[[], object], begin: Callable[[], None]) -> None:
    """`begin` after each call that `ask` makes of the kernel, as another process might in that moment."""
    refused: list[BaseException] = []
    steps = 0

    def step(_frame: object, event: str, _call: object) -> None:  # not called within itself
        nonlocal steps
        if event == "c_return":
            steps += 1
            try:
                begin()
            except BaseException as exc:
                refused.append(exc)

    sys.setprofile(step)
    try:
        ask()
    finally:
        sys.setprofile(None)
    assert steps > 1
    assert refused == []


@pytest.fixture
def config(tmp_path: Path) -> Config:
    init_state(tmp_path)
    return Config(home=tmp_path, release_dir=tmp_path, database_url="sqlite://")


def test_a_doctor_that_looks_never_keeps_an_appliance_from_starting(config: Config) -> None:
    def serve() -> None:
        for descriptor in lock_site(config):
            os.close(descriptor)

    serve()  # the file of the lock is there from the first start on
    at_every_step_of(lambda: is_served(config), serve)


def test_a_site_that_is_served_is_seen_and_served_once(config: Config) -> None:
    assert not is_served(config)
    locks = lock_site(config)
    assert is_served(config)
    with pytest.raises(SiteLockError, match="already being served"):
        lock_site(config)
    for descriptor in locks:
        os.close(descriptor)
    assert not is_served(config)


def test_who_reads_along_never_keeps_a_dead_turn_from_being_removed(tmp_path: Path) -> None:
    path = tmp_path / "user.conversation"
    path.touch()  # as the kernel leaves it when the owner dies
    reader = open_reader(path)
    assert reader is not None

    def remove() -> None:
        os.link(path, kept)
        assert remove_dead(path, lambda: None)
        kept.rename(path)

    kept = tmp_path / "kept"
    with closing(reader):
        at_every_step_of(reader.has_owner, remove)


def test_only_one_owns_a_file_and_its_death_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    one, other = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert not is_owned_at(path)
    assert own(one)
    assert is_owned(other)
    assert is_owned_at(path)
    assert not is_owned(one)  # nobody else
    assert not own(other)
    os.close(one)
    assert not is_owned(other)
    assert own(other, wait=True)
    os.close(other)


def test_who_may_only_read_a_file_cannot_own_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        own(descriptor)
    os.close(descriptor)
    assert not is_owned_at(path)
