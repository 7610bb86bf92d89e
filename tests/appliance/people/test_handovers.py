"""What waits for the next page: seen once, by the holder of the token alone, for minutes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from appliance.people.handovers import KEPT_S, MAX_BYTES, MOST_PER_HOLDER, HandoverError, Handovers

SECRET = b"sk-something-secret"


@pytest.fixture
def handovers(tmp_path: Path) -> Handovers:
    return Handovers(tmp_path / "handovers")


def test_it_is_taken_once_and_read_as_often_as_one_likes(handovers: Handovers) -> None:
    name = handovers.leave("token", SECRET)
    assert [handovers.read("token", name) for _ in range(2)] == [SECRET, SECRET]
    assert handovers.take("token", name) == SECRET
    assert handovers.take("token", name) is None
    assert handovers.read("token", name) is None


def test_of_many_that_take_it_at_once_one_gets_it(handovers: Handovers) -> None:
    for _ in range(20):
        name, got, begin = handovers.leave("token", SECRET), list[bytes | None](), threading.Barrier(4)

        def take(name: str = name, got: list[bytes | None] = got, begin: threading.Barrier = begin) -> None:
            begin.wait()
            got.append(handovers.take("token", name))

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got, key=bool) == [None, None, None, SECRET]


@pytest.mark.parametrize("other", ["", "token2", "\udc80"])
def test_another_token_gets_nothing_and_leaves_it_there(handovers: Handovers, other: str) -> None:
    name = handovers.leave("token", SECRET)
    assert handovers.take(other, name) is None
    assert handovers.take("token", name) == SECRET


def test_the_directory_gives_nothing_away_and_no_file_passes_for_another(handovers: Handovers, tmp_path: Path) -> None:
    names = [handovers.leave("token", SECRET), handovers.leave("token", b"x" * 40)]
    files = sorted((tmp_path / "handovers").iterdir())
    for file in files:
        content = file.read_bytes() + file.name.encode()
        assert not any(part in content for part in (SECRET, b"token", b"x" * 8))
        assert file.stat().st_mode & 0o777 == 0o600
    one, other = files
    one.write_bytes(other.read_bytes())
    assert [handovers.read("token", name) for name in names].count(None) == 1


@pytest.mark.parametrize("damage", [b"", b"short", bytes(200)])
def test_a_damaged_file_is_gone(handovers: Handovers, tmp_path: Path, damage: bytes) -> None:
    name = handovers.leave("token", SECRET)
    next((tmp_path / "handovers").iterdir()).write_bytes(damage)
    assert handovers.read("token", name) is None


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 22 + "/", "x" * 21, "é" * 22])
def test_a_name_is_no_path(handovers: Handovers, name: str) -> None:
    assert handovers.take("token", name) is None


@pytest.mark.parametrize("later_s", [KEPT_S + 5, -KEPT_S - 5])
def test_it_ends_after_minutes_and_after_the_clock_jumped(tmp_path: Path, later_s: float) -> None:
    name = Handovers(tmp_path / "handovers").leave("token", SECRET)
    later = Handovers(tmp_path / "handovers", clock_s=lambda: time.time() + later_s)
    assert later.read("token", name) is None
    later.leave("other", b"")
    assert len(list((tmp_path / "handovers").iterdir())) == 1  # the old one is removed


def test_one_holder_keeps_few_and_takes_no_room_from_others(handovers: Handovers, tmp_path: Path) -> None:
    other = handovers.leave("other", SECRET)
    names = [handovers.leave("token", SECRET) for _ in range(MOST_PER_HOLDER + 5)]
    assert len(list((tmp_path / "handovers").iterdir())) == MOST_PER_HOLDER + 1
    assert handovers.read("token", names[-1]) == SECRET
    assert handovers.read("other", other) == SECRET


def test_what_cannot_be_kept_is_refused(tmp_path: Path, handovers: Handovers) -> None:
    with pytest.raises(HandoverError, match="more than"):
        handovers.leave("token", bytes(MAX_BYTES + 1))
    (tmp_path / "file").write_text("")
    with pytest.raises(HandoverError, match="could not be kept"):
        Handovers(tmp_path / "file").leave("token", SECRET)
