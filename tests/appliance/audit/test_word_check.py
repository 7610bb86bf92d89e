"""An index that hides words or invents them is found, and made anew. Each attack changes the index alone."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from appliance.audit import word_check
from appliance.audit.details.indexed import INDEX_VERSION
from appliance.audit.details.turns import Beside, PromptDetails
from appliance.audit.erasure import erase
from appliance.audit.event import Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.audit.pages import check_pages
from appliance.audit.reindex import reindex
from appliance.audit.review import Filter, search
from appliance.audit.word_check import NoRoomError
from appliance.audit.words import index_words, remove_words
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import Database
from appliance.turns.request import Tool, TurnRequest
from tests.appliance.records import SYSTEM, fill

TOOL = {"type": "object", "properties": {"zone": {"type": "string"}, "area": {"type": "string"}}}
SECRET = "the secret plan of ada-lovelace"


@pytest.fixture
def log(database: Database) -> AuditLog:
    """Sixty events. Somebody wants to hide number 31."""
    log = AuditLog(database)
    fill(log, 30)
    log.append(NewEvent(SYSTEM, "prompt", subject="turn", content=Content(SECRET)))
    fill(log, 29)
    return log


def found(log: AuditLog) -> list[str]:
    """The findings, the same alone and with the help of another process."""
    alone = [str(fault) for fault in check_pages(log.database).faults]
    assert [str(fault) for fault in check_pages(log.database, processes=2).faults] == alone
    return alone


def hits(log: AuditLog, words: str) -> list[int]:
    return [row.sequence for row in search(log, SYSTEM, Filter(text=words, actions=("prompt",))).rows]


def forget(log: AuditLog) -> None:
    """Remove the words as an erasure does, without erasing."""
    with log.database.write() as connection:
        remove_words(log.database, connection, [(31, SECRET)])


def forget_one_word(log: AuditLog) -> None:
    forget(log)
    with log.database.write() as connection:
        index_words(log.database, connection, [(31, SECRET.replace("secret", ""))])


def exchange(log: AuditLog) -> None:
    """Replace its words by as many others."""
    forget(log)
    with log.database.write() as connection:
        index_words(log.database, connection, [(31, SECRET.replace("secret", "public"))])


def move(log: AuditLog) -> None:
    """Let the words lead to an event that does not exist."""
    forget(log)
    with log.database.write() as connection:
        index_words(log.database, connection, [(10**9, SECRET)])


def turn_around(log: AuditLog) -> None:
    """Change the order of words: a search for a name with a hyphen needs it."""
    forget(log)
    with log.database.write() as connection:
        index_words(log.database, connection, [(31, "the secret plan of lovelace-ada")])


ATTACKS = [forget, forget_one_word, exchange, move, turn_around]


def test_index_of_an_untouched_log_fits(log: AuditLog) -> None:
    assert found(log) == []
    erase(log, 1, 20, by=SYSTEM, reason="retention", pause=lambda _: None)
    assert found(log) == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_event_that_a_search_no_longer_finds_is_named_and_found_again_after_a_rebuild(
    log: AuditLog, attack: Callable[[AuditLog], None]
) -> None:
    assert hits(log, "secret ada-lovelace") == [31]
    attack(log)
    assert hits(log, "secret ada-lovelace") == []
    faults = found(log)
    assert "event 31: the search index lacks words of it, so that a search does not find it" in faults
    assert all(fault.startswith(("event 31:", f"event {10**9}:")) for fault in faults)
    done = reindex(log, by=SYSTEM, pause=lambda _: None)
    assert found(log) == []
    assert hits(log, "secret ada-lovelace") == [31]
    event = log.get(done.last + 1)
    assert (event.header.action, event.header.actor) == ("index_rebuilt", SYSTEM)


def test_words_that_an_event_does_not_hold_are_found(log: AuditLog) -> None:
    """This blames somebody: a search for what was never said leads to their prompt."""
    with log.database.write() as connection:
        if log.database.is_sqlite:
            index_words(log.database, connection, [(7, "treason")])
        else:
            connection.exec_driver_sql("UPDATE audit_words SET words = words || 'treason:99' WHERE sequence = 7")
    assert hits(log, "treason") == [7]
    assert any(fault.startswith("event 7: the search index") for fault in found(log))


def test_words_of_a_content_that_was_taken_away_are_the_trees_to_tell_of(log: AuditLog) -> None:
    """Nobody knows what the index held of it."""
    with log.database.write() as connection:
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence == 31))
    assert found(log) == []


def test_content_that_is_no_json_any_more_ends_no_check(log: AuditLog) -> None:
    with log.database.write() as connection:
        connection.execute(audit_contents.update().where(audit_contents.c.sequence == 31).values(details="{"))
    assert found(log) == []
    assert reindex(log, by=SYSTEM, pause=lambda _: None).last == 60


def test_content_that_is_no_text_any_more_ends_no_check(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    fill(log, 30)
    with sqlite.write() as connection:
        connection.exec_driver_sql("UPDATE audit_contents SET text = CAST(x'ff80' AS TEXT) WHERE sequence = 7")
    assert found(log) == []  # the check of the tree reports that the content is another one
    assert reindex(log, by=SYSTEM, pause=lambda _: None).last == 30


@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_without_room_for_the_copies_is_no_damage(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """SQLite's own refusal: its databases for the check may have no more than four pages."""
    log = AuditLog(sqlite)
    fill(log, 30)
    connected = word_check._connected

    def without_room(path: Path) -> sqlite3.Connection:
        connection = connected(path)
        connection.execute("PRAGMA max_page_count = 4")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(word_check, "_connected", without_room)
        with pytest.raises(NoRoomError, match=r"no room in /.* for copies of it; free space there"):
            check_pages(sqlite, processes=processes)
    assert found(log) == []


def test_a_disk_without_room_for_a_directory_is_no_damage(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(AuditLog(sqlite), 3)

    def full(path: str, _mode: int = 0o777) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr("tempfile._os.mkdir", full)
    with pytest.raises(NoRoomError, match="no room in /"):
        check_pages(sqlite)


def test_events_that_come_during_a_rebuild_are_indexed(log: AuditLog) -> None:
    def append(_: float) -> None:
        log.append(NewEvent(SYSTEM, "prompt", subject="turn", content=Content("meanwhile")))

    reindex(log, by=SYSTEM, pause=append)
    assert found(log) == []
    assert len(hits(log, "meanwhile")) == 1


def test_a_rebuild_that_was_killed_is_said_and_finished_by_another(log: AuditLog) -> None:
    class KilledError(Exception):
        pass

    def kill(_: float) -> None:
        raise KilledError

    fill(log, 400)
    with pytest.raises(KilledError):
        reindex(log, by=SYSTEM, pause=kill)
    assert any("lacks words" in fault for fault in found(log))
    reindex(log, by=SYSTEM, pause=lambda _: None)
    assert found(log) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_words_data SET block = zeroblob(length(block)) WHERE id > 1000",
        "DELETE FROM audit_words_data WHERE id > 1000",
        "DELETE FROM audit_words_idx",
        "UPDATE audit_words_idx SET term = CAST(term || 'z' AS BLOB) WHERE length(term) > 0",
        "UPDATE audit_words_config SET v = 3 WHERE k = 'version'",
        "INSERT INTO audit_words_config VALUES ('pgsz', 64)",
    ],
)
def test_index_whose_tables_were_written_is_found_and_mended(sqlite: Database, statement: str) -> None:
    log = AuditLog(sqlite)
    fill(log, 30)
    many = " ".join(f"w{number}" for number in range(5000))  # several pages, to which the index must lead
    log.append(NewEvent(SYSTEM, "prompt", content=Content(many)))
    with sqlite.write() as connection:
        connection.exec_driver_sql(statement)
    sqlite.close()
    assert any("search index" in fault for fault in found(log)), found(log)
    reindex(log, by=SYSTEM, pause=lambda _: None)
    assert found(log) == []
    assert len(hits(log, "said")) == 23


def test_index_that_splits_words_in_another_way_is_found(sqlite: Database) -> None:
    """Its tables are unchanged, but a search splits its words differently."""
    log = AuditLog(sqlite)
    fill(log, 5)
    with sqlite.write() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = ON")
        connection.exec_driver_sql(
            "UPDATE sqlite_schema SET sql = replace(sql, 'unicode61', 'ascii') WHERE name = 'audit_words'"
        )
    sqlite.close()
    assert any("audit_words in the database is not defined" in fault for fault in found(log)), found(log)


def test_pages_that_were_filled_in_another_order_are_no_fault(sqlite: Database) -> None:
    """Many small transactions, large contents and an erasure leave an index of another shape."""
    log = AuditLog(sqlite)
    for number in range(40):
        text = " ".join(f"word{number * 37 % 11}x{part} again" for part in range(number * 20))
        log.append(NewEvent(SYSTEM, "prompt", subject="turn", content=Content(text)))
    erase(log, 5, 25, by=SYSTEM, reason="retention", pause=lambda _: None)
    assert found(log) == []
    with sqlite.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(audit_events)) == 42


def test_parameters_of_a_tool_are_indexed_as_they_are_stored(database: Database) -> None:
    """Their keys are sorted when they are stored: a client that sorts them otherwise must not break the record."""
    log = AuditLog(database)
    request = TurnRequest("t", "a1", (), seed=5, tools=(Tool("clock", "the time", TOOL),))
    details = PromptDetails(conversation=None, request=request, beside=Beside(), index=INDEX_VERSION)
    sequence = log.append(NewEvent(SYSTEM, "prompt", subject="turn", content=Content("hi", details))).sequence
    assert hits(log, "properties") == [sequence]
    assert found(log) == []
    erase(log, sequence, sequence, by=SYSTEM, reason="retention")
    assert hits(log, "properties") == []
    assert found(log) == []


def test_the_schema_of_an_answer_is_found_and_erased(database: Database) -> None:
    """The model reads it, so nobody can tell it anything there that a search does not find."""
    log = AuditLog(database)
    schema = {"enum": ["smuggled"], "description": "aside"}
    request = TurnRequest("t", "a1", (), seed=5, answer_schema=schema)
    details = PromptDetails(conversation=None, request=request, beside=Beside(schema=51), index=INDEX_VERSION)
    sequence = log.append(NewEvent(SYSTEM, "prompt", subject="turn", content=Content("hi", details))).sequence
    assert hits(log, "smuggled") == hits(log, "aside") == [sequence]
    assert found(log) == []
    erase(log, sequence, sequence, by=SYSTEM, reason="retention")
    assert hits(log, "smuggled") == []
    assert found(log) == []
