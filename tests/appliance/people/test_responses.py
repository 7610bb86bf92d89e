"""Kept responses: each person's own alone, for a time, and never more than one person may keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from appliance.audit.log import AuditLog
from appliance.database.tables import kept_responses, users
from appliance.database.transactions import Database
from appliance.errors import ApplianceError
from appliance.people import responses
from appliance.people.responses import (
    DAY_US,
    ChainBrokenError,
    KeptResponse,
    ResponseNotFoundError,
    Responses,
    StillRunningError,
    TooMuchKeptError,
    fail_in,
)
from tests.appliance.records import SYSTEM

ADA, BOB = "ada", "bob"


@dataclass
class Clock:
    """A clock that goes on by a microsecond each time it is read."""

    now_us: int = 100 * DAY_US

    def __call__(self) -> int:
        self.now_us += 1
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakeStore = Callable[..., Responses]


@pytest.fixture
def make_store(database: Database, log: AuditLog, clock: Clock) -> MakeStore:
    with database.write() as connection:
        for name in (ADA, BOB):
            values = {"id": name, "name": name, "display_name": name, "roles": "", "disabled": False, "created_us": 0}
            connection.execute(users.insert().values(values))
    return lambda days=30, **limits: Responses(database, log, days=days, clock_us=clock, **limits)


def new(name: str, before: str | None = None, text: str = "Hi") -> KeptResponse:
    return KeptResponse(name, before, [{"type": "message", "text": text}], {"id": name, "output": []})


def test_a_response_reads_back_as_it_was_kept(make_store: MakeStore) -> None:
    store, kept = make_store(), new("r1", text="☃ \\ud83d '\"")
    store.keep(ADA, kept)
    assert store.get(ADA, "r1") == kept


def test_text_that_no_database_takes_is_replaced(make_store: MakeStore) -> None:
    store = make_store()
    store.keep(ADA, new("r1", text="a\0b\ud83dc"))
    assert store.get(ADA, "r1").input[0]["text"] == "a\ufffdb\ufffdc"


def test_an_id_that_no_database_takes_is_unknown(make_store: MakeStore) -> None:
    store = make_store()
    for act in (store.get, store.chain):
        with pytest.raises(ResponseNotFoundError):
            act(ADA, "a\0b\ud83d")


def test_nobody_reads_continues_or_deletes_another_persons(make_store: MakeStore) -> None:
    store = make_store()
    store.keep(ADA, new("r1"))
    for act in (store.get, store.chain):
        with pytest.raises(ResponseNotFoundError):
            act(BOB, "r1")
    assert store.find(BOB, ["r1"]) == {}
    with pytest.raises(ResponseNotFoundError):
        store.delete(BOB, "r1", by=SYSTEM)
    assert store.get(ADA, "r1").id == "r1"


def test_a_chain_through_another_persons_response_is_broken(make_store: MakeStore) -> None:
    store = make_store()
    store.keep(BOB, new("theirs"))
    store.keep(ADA, new("mine", before="theirs"))
    with pytest.raises(ChainBrokenError):
        store.chain(ADA, "mine")


def test_a_chain_is_read_from_its_beginning_and_branches_apart(make_store: MakeStore) -> None:
    store = make_store()
    for name, before in (("a", None), ("b", "a"), ("c", "b"), ("other", "a")):
        store.keep(ADA, new(name, before))
    assert [kept.id for kept in store.chain(ADA, "c")] == ["a", "b", "c"]
    assert [kept.id for kept in store.chain(ADA, "other")] == ["a", "other"]


def test_a_deleted_response_is_gone_and_its_chain_broken(make_store: MakeStore, log: AuditLog) -> None:
    store = make_store()
    for name, before in (("a", None), ("b", "a")):
        store.keep(ADA, new(name, before, text="secret" if name == "a" else "other"))
    store.delete(ADA, "a", by=SYSTEM)
    header = log.get(log.size()).header
    assert (header.action, header.subject, header.outcome) == ("response_deleted", "a", "ok")
    for act in (store.get, store.chain, lambda user, name: store.delete(user, name, by=SYSTEM)):
        with pytest.raises(ResponseNotFoundError):
            act(ADA, "a")
    with pytest.raises(ChainBrokenError):
        store.chain(ADA, "b")
    with log.database.read() as connection:
        assert "secret" not in "".join(connection.scalars(sa.select(kept_responses.c.input)))


def test_a_chain_has_a_limit(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MAX_CHAIN", 3)
    store = make_store()
    for number in range(4):
        store.keep(ADA, new(f"r{number}", f"r{number - 1}" if number else None))
    assert len(store.chain(ADA, "r2")) == 3
    with pytest.raises(ChainBrokenError):
        store.chain(ADA, "r3")


def test_a_circle_that_somebody_made_in_the_database_ends(make_store: MakeStore) -> None:
    store = make_store()
    store.keep(ADA, new("a", before="b"))
    store.keep(ADA, new("b", before="a"))
    with pytest.raises(ChainBrokenError):
        store.chain(ADA, "a")


def test_a_running_response_is_kept_and_ends_once(make_store: MakeStore, database: Database) -> None:
    store = make_store()
    begun = KeptResponse("r1", None, [], {"id": "r1", "status": "queued", "output": []}, is_running=True)
    store.keep(ADA, begun)
    assert store.get(ADA, "r1") == begun
    with pytest.raises(StillRunningError):
        store.chain(ADA, "r1")
    ended = {"id": "r1", "status": "completed", "output": ["a\0b"]}
    assert store.finish(ADA, "r1", ended)
    assert store.get(ADA, "r1") == KeptResponse("r1", None, [], {**ended, "output": ["a\ufffdb"]})
    assert not store.finish(ADA, "r1", {"id": "r1", "status": "failed"})
    with database.write() as connection:
        fail_in(connection, "r1", "Lost.")
    assert store.chain(ADA, "r1")[0].response["status"] == "completed"
    with database.read() as connection:
        row = connection.execute(sa.select(kept_responses)).one()
    assert row.size_bytes == len(row.input) + len(row.response)


def test_a_lost_response_fails_with_the_reason(make_store: MakeStore, database: Database) -> None:
    store = make_store()
    store.keep(ADA, KeptResponse("r1", None, [], {"id": "r1", "status": "queued", "output": []}, is_running=True))
    with database.write() as connection:
        fail_in(connection, "r1", "Lost.")
        fail_in(connection, "r2", "There is none.")
    kept = store.get(ADA, "r1")
    assert (kept.is_running, kept.response["status"]) == (False, "failed")
    assert kept.response["error"] == {"code": "server_error", "message": "Lost."}


def test_a_lost_response_that_is_damaged_stops_nobody(make_store: MakeStore, database: Database) -> None:
    store = make_store()
    store.keep(ADA, KeptResponse("r1", None, [], {"id": "r1"}, is_running=True))
    with database.write() as connection:
        connection.execute(kept_responses.update().values(response="{"))
        fail_in(connection, "r1", "Lost.")
        assert connection.scalar(sa.select(kept_responses.c.running)) is False
    with pytest.raises(ApplianceError, match="cannot be read"):
        store.get(ADA, "r1")


def test_the_end_of_a_response_makes_room_and_a_removed_one_has_none(make_store: MakeStore, database: Database) -> None:
    store = make_store(most_bytes=2000)
    store.keep(ADA, new("old", text="x" * 800))
    store.keep(ADA, KeptResponse("r1", None, [], {}, is_running=True))
    assert store.finish(ADA, "r1", {"output": "x" * 1800})
    assert left(database) == ["r1"]
    assert not store.finish(ADA, "old", {})


def test_what_is_read_at_once_has_a_limit(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MAX_LOADED_BYTES", 1000)
    monkeypatch.setattr(responses, "_BATCH", 1)
    store = make_store()
    store.keep(ADA, new("a", text="x" * 600))
    store.keep(ADA, new("b", before="a", text="x" * 600))
    assert store.get(ADA, "a").id == "a"
    for act in (lambda: store.chain(ADA, "b"), lambda: store.find(ADA, ["a", "b"])):
        with pytest.raises(TooMuchKeptError):
            act()


def test_an_old_response_is_not_read_and_then_removed(make_store: MakeStore, clock: Clock, database: Database) -> None:
    store = make_store(days=30)
    store.keep(ADA, new("old"))
    clock.now_us += 30 * DAY_US
    with pytest.raises(ResponseNotFoundError):
        store.get(ADA, "old")
    store.keep(BOB, new("young"))
    assert left(database) == ["young"]
    clock.now_us += 30 * DAY_US
    store.remove_old()
    assert left(database) == []


@pytest.mark.parametrize("limits", [{"most": 2}, {"most_bytes": 2000}])
def test_the_oldest_of_a_person_make_room(make_store: MakeStore, database: Database, limits: dict[str, int]) -> None:
    store = make_store(**limits)
    store.keep(BOB, new("theirs", text="x" * 800))
    for name in ("a", "b", "c"):
        store.keep(ADA, new(name, text="x" * 800))
    assert left(database) == ["b", "c", "theirs"]


def test_an_account_takes_its_responses_with_it(make_store: MakeStore, database: Database) -> None:
    store = make_store()
    store.keep(ADA, new("a"))
    store.keep(BOB, new("b"))
    with database.write() as connection:
        connection.execute(users.delete().where(users.c.id == ADA))
    assert left(database) == ["b"]


@pytest.mark.parametrize("damage", ["{", "7", '{"id": 7}'])
def test_a_damaged_response_says_so(make_store: MakeStore, database: Database, damage: str) -> None:
    store = make_store()
    store.keep(ADA, new("a"))
    with database.write() as connection:
        connection.execute(kept_responses.update().values(input=damage))
    with pytest.raises(ApplianceError, match="cannot be read"):
        store.get(ADA, "a")


def left(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.scalars(sa.select(kept_responses.c.id)))
