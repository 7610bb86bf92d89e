"""A turn's file has one owner and any number of readers, and all of them see its owner's death."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from appliance.turns.events import AnswerDelta, Failed, ReasoningDelta, Started, ToolCallDelta
from appliance.turns.journal import (
    ConversationBusyError,
    Entry,
    Head,
    Journal,
    Kept,
    Reader,
    claim,
    open_reader,
    remove_dead,
)
from tests.fakes import done

HEAD = Head("t1", "q1", 12.5)
EVENTS = [
    Started(20, 0.5), ReasoningDelta("half \ud800\n"), AnswerDelta("a\0b 😀"), ToolCallDelta(0, "c", None, "{"),
    done(malformed=True, token_ids=()), Failed("engine_stopped", "m", 1.5), Kept("m1"), Kept(None),
]  # fmt: skip
OWNER = """
import sys
from pathlib import Path
from appliance.turns.events import AnswerDelta
from appliance.turns.journal import Head, claim
journal = claim(Path(sys.argv[1]), lambda: None)
journal.begin(Head("t0", "q0", 0))
journal.write(AnswerDelta("of the dead"))
print("owned", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turns" / "u1.c1"


def nobody_died() -> None:
    raise AssertionError("nobody has died here")


def owned(path: Path) -> Journal:
    journal = claim(path, nobody_died)
    journal.begin(HEAD)
    return journal


def reader_of(path: Path) -> Reader:
    reader = open_reader(path)
    assert reader is not None
    return reader


def leave_a_dead_one(path: Path) -> None:
    """Leave what a process leaves that was killed in the middle of its turn."""
    command = [sys.executable, "-c", OWNER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "owned\n"
        owner.kill()


def test_what_is_written_is_read_as_it_was_in_order_and_numbered(path: Path) -> None:
    journal = owned(path)
    for event in EVENTS:
        journal.write(event)  # type: ignore[arg-type]
    reader = reader_of(path)
    assert reader.head == HEAD
    entries = reader.read(0)
    assert [entry.event for entry in entries] == EVENTS
    assert [entry.number for entry in entries] == list(range(1, len(EVENTS) + 1))
    assert [entry.at_s for entry in entries] == sorted(entry.at_s for entry in entries)
    assert reader.read(0) == []
    journal.write(AnswerDelta("later"))
    (later,) = reader.read(0)
    assert (later.number, later.event) == (len(EVENTS) + 1, AnswerDelta("later"))


def test_the_sampled_tokens_are_for_the_record_alone(path: Path) -> None:
    journal, reader = owned(path), reader_of(path)
    journal.write(done(token_ids=(200_001, 200_002)))
    assert "200001" not in path.read_text()
    assert [entry.event for entry in reader.read(0)] == [done(token_ids=())]


def test_a_long_answer_is_read_in_pieces_without_a_loss(path: Path) -> None:
    journal, reader = owned(path), reader_of(path)
    texts = [f"{number} " + "word " * 2000 for number in range(200)]  # 2 MB, more than is read at once
    for text in texts:
        journal.write(AnswerDelta(text))
    got: list[Entry] = []
    while entries := reader.read(0):
        assert len(entries) < len(texts)
        got += entries
    assert [entry.event for entry in got] == [AnswerDelta(text) for text in texts]


def test_a_reader_waits_for_what_comes(path: Path) -> None:
    journal, reader = owned(path), reader_of(path)
    writer = threading.Timer(0.2, journal.write, [AnswerDelta("later")])
    writer.start()
    assert [entry.event for entry in reader.read(30)] == [AnswerDelta("later")]
    writer.join()


def test_there_is_one_turn_at_a_time(path: Path) -> None:
    journal = owned(path)
    with pytest.raises(ConversationBusyError):
        claim(path, nobody_died)
    journal.close()
    claim(path, nobody_died).close()
    assert list(path.parent.iterdir()) == []


def test_who_has_it_open_reads_it_to_its_end(path: Path) -> None:
    journal, reader = owned(path), reader_of(path)
    journal.write(AnswerDelta("a"))
    assert reader.has_owner()
    journal.write(Kept("m"))
    journal.close()
    assert open_reader(path) is None
    assert [entry.event for entry in reader.read(0)] == [AnswerDelta("a"), Kept("m")]
    assert not reader.has_owner()


def test_a_turn_that_is_being_prepared_has_no_head(path: Path) -> None:
    journal, reader = claim(path, nobody_died), reader_of(path)
    assert reader.head is None
    assert not journal.is_stopped()
    journal.begin(HEAD)
    assert reader.head == HEAD


def test_the_death_of_the_owner_is_seen_and_buried_once(path: Path) -> None:
    leave_a_dead_one(path)
    reader = reader_of(path)
    assert not reader.has_owner()
    assert [entry.event for entry in reader.read(0)] == [AnswerDelta("of the dead")]
    buried = list[int]()
    journal = claim(path, lambda: buried.append(1))
    assert buried == [1]
    assert reader.read(0) == []  # a reader of the last turn gets nothing of the next one
    journal.begin(HEAD)
    assert reader_of(path).head == HEAD
    assert not remove_dead(path, nobody_died)


def test_a_dead_one_that_cannot_be_buried_stays_for_the_next_time(path: Path) -> None:
    leave_a_dead_one(path)

    def fail() -> None:
        raise RuntimeError("the record cannot be written")

    with pytest.raises(RuntimeError):
        claim(path, fail)
    buried = list[int]()
    assert remove_dead(path, lambda: buried.append(1))
    assert buried == [1]
    assert not path.exists()


def test_of_many_who_find_a_dead_one_only_one_gets_its_place(path: Path) -> None:
    leave_a_dead_one(path)
    start, got, refused = threading.Barrier(8), list[Journal](), list[int]()

    def try_it() -> None:
        start.wait()
        try:
            got.append(claim(path, lambda: None))
        except ConversationBusyError:
            refused.append(1)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    with pytest.raises(ConversationBusyError):
        claim(path, nobody_died)


def test_stop_is_for_one_turn_and_gone_with_it(path: Path) -> None:
    journal = owned(path)
    (path.parent / "another.stop").touch()
    assert not journal.is_stopped()
    (path.parent / "t1.stop").touch()
    assert journal.is_stopped()
    journal.close()
    assert [left.name for left in path.parent.iterdir()] == ["another.stop"]


def test_a_stop_that_comes_too_late_leaves_nothing(path: Path) -> None:
    journal, reader = owned(path), reader_of(path)
    assert reader.head == HEAD
    reader.stop()
    assert journal.is_stopped()
    journal.close()
    claim(path, nobody_died)  # the next turn has the file's name already
    reader.stop()
    assert [left.name for left in path.parent.iterdir()] == [path.name]


def test_a_disk_that_takes_half_of_the_beginning_refuses_the_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = claim(path, nobody_died)
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(OSError, match="No space left"):
        journal.begin(HEAD)


def test_a_link_in_the_place_of_the_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    target = tmp_path / "target"
    target.write_text("keep")
    path.symlink_to(target)
    assert open_reader(path) is None
    with pytest.raises(ConversationBusyError):
        claim(path, nobody_died)
    assert target.read_text() == "keep"


def test_a_disk_that_takes_no_more_ends_the_file_and_not_the_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal, reader = owned(path), reader_of(path)
    journal.write(AnswerDelta("a"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    journal.write(AnswerDelta("b"))
    monkeypatch.undo()
    journal.write(AnswerDelta("c"))
    assert [entry.event for entry in reader.read(0)] == [AnswerDelta("a")]
    assert "nobody can read along" in caplog.text
