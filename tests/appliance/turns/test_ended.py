"""The files of turns that are over: found by their owners' readers, for a while, and never too many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.turns.ended import KEPT_S, EndedTurns
from appliance.turns.events import AnswerDelta
from appliance.turns.journal import Head, Kept, claim, open_reader

NOW_S = 1_000_000.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "turns" / "ended"


def store(directory: Path, **limits: int) -> EndedTurns:
    return EndedTurns(directory, clock_s=lambda: NOW_S, **limits)


def end(ended: EndedTurns, path: Path, *, age_s: float, size_bytes: int = 10) -> None:
    """Put the file of a turn there that ended so long ago."""
    user, _, turn = path.name.partition(".")
    place = ended.place(user, turn)
    place.write_bytes(b"x" * size_bytes)
    os.utime(place, (NOW_S - age_s, NOW_S - age_s))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_file_of_a_turn_that_is_over_is_read_to_its_end(directory: Path) -> None:
    ended, path = store(directory), directory.parent / "u1.r1"
    journal = claim(path, lambda: None)
    journal.begin(Head("r1", "", 0.0, include=("a", "b")))
    journal.write(AnswerDelta("said"))
    journal.write(Kept("r1"))
    journal.close(ended.place("u1", "r1"))
    assert open_reader(path) is None
    reader = ended.find("u1", "r1")
    assert reader is not None
    assert reader.head == Head("r1", "", 0.0, include=("a", "b"))
    assert [entry.event for entry in reader.read(0)] == [AnswerDelta("said"), Kept("r1")]
    assert not reader.has_owner()
    reader.close()
    ended.remove("u1", "r1")
    assert ended.find("u1", "r1") is None
    ended.remove("u1", "r1")


def test_a_file_that_lacks_a_part_is_removed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.turns.journal.MAX_FILE_BYTES", 10)
    ended, path = store(directory), directory.parent / "u1.r1"
    journal = claim(path, lambda: None)
    journal.begin(Head("r1", "", 0.0))
    journal.write(AnswerDelta("more than ten bytes"))
    journal.close(ended.place("u1", "r1"))
    assert not path.exists()
    assert ended.find("u1", "r1") is None


def test_a_file_that_cannot_be_moved_is_removed(directory: Path) -> None:
    path = directory.parent / "u1.r1"
    journal = claim(path, lambda: None)
    journal.begin(Head("r1", "", 0.0))
    journal.close(directory / "no" / "such" / "directory")
    assert not path.exists()


def test_a_place_that_was_taken_at_once_is_left_to_its_new_owner(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, path = store(directory), directory.parent / "u1.r1"
    journal = claim(path, lambda: None)
    journal.begin(Head("r1", "", 0.0))
    rename, others = Path.rename, []

    def and_taken(self: Path, to: Path) -> Path:
        moved = rename(self, to)
        others.append(claim(path, lambda: None))
        return moved

    monkeypatch.setattr(Path, "rename", and_taken)
    journal.close(ended.place("u1", "r1"))
    assert path.exists()
    others[0].close()


def test_files_go_when_they_are_old(directory: Path) -> None:
    ended = store(directory)
    for name, age_s in (("u1.old", KEPT_S + 1), ("u1.young", KEPT_S - 1), ("u2.new", 0)):
        end(ended, Path(name), age_s=age_s)
    ended.make_room()
    assert names(directory) == ["u1.young", "u2.new"]


def test_the_oldest_of_a_person_and_of_all_make_room(directory: Path) -> None:
    ended = store(directory, most_bytes_per_person=25, most_bytes=40)
    for name, age_s in (("u1.a", 5), ("u1.b", 4), ("u1.c", 3), ("u2.a", 2), ("u3.a", 1), ("u3.b", 0)):
        end(ended, Path(name), age_s=age_s)
    ended.make_room()
    assert names(directory) == ["u1.c", "u2.a", "u3.a", "u3.b"]


def test_a_directory_that_does_not_exist_has_nothing(directory: Path) -> None:
    ended = store(directory)
    ended.make_room()
    ended.remove("u1", "r1")
    assert ended.find("u1", "r1") is None
