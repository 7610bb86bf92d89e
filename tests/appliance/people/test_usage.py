"""Usage: what a turn has used, that many threads and processes lose nothing, and what the lines say."""

from __future__ import annotations

import multiprocessing

import pytest
import sqlalchemy as sa

from appliance.audit.details.turns import FinishedAnswer, UnfinishedAnswer
from appliance.audit.event import Actor, Content
from appliance.audit.log import AuditLog
from appliance.database.tables import usage_by_day
from appliance.database.transactions import Database, DatabaseError, open_database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.allowance import DAY_US
from appliance.people.api_keys import ApiKeys
from appliance.people.groups import Groups
from appliance.people.usage import KEPT_DAYS, Figures, Usage, figures_of
from appliance.people.usage_report import usage_lines
from tests.fakes import done
from tests.webui.conftest import FAST_PASSWORDS

ROOT = Actor("", "root", "cli")
DAY = 20_000
NOON_US = DAY * DAY_US + DAY_US // 2


def answer(**changes: object) -> Content:
    end = done(**{"prompt_tokens": 20, "completion_tokens": 7, "queued_s": 0.5, "prefill_s": 0.25, "decode_s": 1.0,
                  **changes})  # fmt: skip
    return Content("A very private answer", FinishedAnswer(conversation=None, reasoning="", tool_calls=(), done=end))


CUT = Content(
    "x" * 10, UnfinishedAnswer(conversation=None, reasoning="yy", tool_calls=(), prompt_tokens=5, failure=None)
)


def lines(database: Database, by: str, first: int = DAY, last: int = DAY) -> list[tuple[str, int, int, int]]:
    found = usage_lines(database, by, first, last)  # type: ignore[arg-type]
    return [(line.name, line.people, line.figures.requests, line.figures.tokens) for line in found]


def test_a_turn_has_used_what_its_answer_event_says() -> None:
    assert figures_of(answer(), requests=1) == Figures(
        requests=1, tokens_in=20, tokens_out=7, timed=1, first_us=750_000, whole_us=1_750_000, first_most_us=750_000,
        whole_most_us=1_750_000,
    )  # fmt: skip
    assert figures_of(CUT, requests=1) == Figures(requests=1, failed=1, tokens_in=5, tokens_out=3)
    assert figures_of(Content("asked"), requests=1) is None
    assert figures_of(None, requests=1) is None


def test_means_and_the_longest_are_over_the_answers_that_ended(database: Database) -> None:
    usage = Usage(database, clock_us=lambda: NOON_US)
    for queued_s in (0.0, 3.5):
        usage.turn_ended("a1", "", answer(queued_s=queued_s))
    usage.turn_ended("a1", "", CUT)
    (line,) = usage_lines(database, "day", DAY, DAY)
    assert (line.figures.requests, line.figures.failed, line.figures.timed) == (3, 1, 2)
    assert line.figures.first_s == pytest.approx(2.0)
    assert line.figures.whole_s == pytest.approx(3.0)
    assert (line.figures.first_most_us, line.figures.whole_most_us) == (3_750_000, 4_750_000)


def test_lines_are_by_day_person_group_and_key(database: Database, log: AuditLog) -> None:
    accounts = Accounts(AccountStore(log, passwords=FAST_PASSWORDS))
    ada, bob = (accounts.create_user(name, None, [Role.USER], by=ROOT) for name in ("ada", "bob"))
    key, _ = ApiKeys(database, log).create(ada, "=script", by=ROOT)
    groups = Groups(log)
    north, south = (groups.create(name, by=ROOT) for name in ("North", "South"))
    groups.set_groups_of(ada.id, [north.id, south.id], by=ROOT)
    groups.set_groups_of(bob.id, [south.id], by=ROOT)
    now = [NOON_US]
    usage = Usage(database, clock_us=lambda: now[0])
    usage.turn_ended(ada.id, "", answer())
    usage.turn_ended(ada.id, key.id, answer(completion_tokens=80))
    now[0] += DAY_US
    usage.turn_ended(bob.id, "", answer(completion_tokens=1))
    usage.refused("", "")
    usage.keep()
    assert lines(database, "day", DAY - 3, DAY + 3) == [(str(DAY), 1, 2, 127), (str(DAY + 1), 1, 1, 21)]
    assert lines(database, "person", DAY, DAY + 1) == [
        ("ada", 1, 2, 127), ("bob", 1, 1, 21), ("(nobody signed in)", 0, 0, 0),
    ]  # fmt: skip
    assert lines(database, "group", DAY, DAY + 1) == [("South", 2, 3, 148), ("North", 1, 2, 127)]
    assert lines(database, "key") == [("ada/=script", 1, 1, 100), ("ada (the chat)", 1, 1, 27)]
    assert lines(database, "person", DAY + 2, DAY + 9) == []


def test_refusals_cost_no_transaction_each_and_come_with_the_next_turn(database: Database) -> None:
    usage = Usage(database, clock_us=lambda: NOON_US)
    for _ in range(99):
        usage.refused("a1")
    assert usage_lines(database, "day", DAY, DAY) == []
    usage.refused("a1")
    (line,) = usage_lines(database, "day", DAY, DAY)
    assert line.figures == Figures(refused=100)
    usage.refused("a1")
    usage.turn_ended("a1", "", answer())
    (line,) = usage_lines(database, "day", DAY, DAY)
    assert (line.figures.refused, line.figures.requests) == (101, 1)


def test_what_cannot_be_kept_is_kept_with_the_next(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(database, clock_us=lambda: NOON_US)

    def fails(**_: object) -> None:
        raise DatabaseError("full")

    with monkeypatch.context() as broken:
        broken.setattr(database, "write", fails)
        with pytest.raises(DatabaseError):
            usage.turn_ended("a1", "", answer())
    assert usage.pending_tokens("a1", DAY) == 27
    usage.turn_ended("a1", "", answer())
    assert usage.pending_tokens("a1", DAY) == 0
    assert lines(database, "day") == [(str(DAY), 1, 2, 54)]


def test_old_days_are_dropped(database: Database) -> None:
    now = [NOON_US]
    usage = Usage(database, clock_us=lambda: now[0])
    usage.turn_ended("a1", "", answer())
    now[0] += (KEPT_DAYS + 1) * DAY_US
    usage.turn_ended("a1", "", answer())
    with database.read() as connection:
        assert connection.scalars(sa.select(usage_by_day.c.day)).all() == [DAY + KEPT_DAYS + 1]


def _use(url: str, times: int) -> None:
    database = open_database(url)
    usage = Usage(database, clock_us=lambda: NOON_US)
    for _ in range(times):
        usage.turn_ended("a1", "", answer())
    database.close()


def test_processes_together_count_every_turn(database_url: str, database: Database) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_use, args=(database_url, 15)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert lines(database, "day") == [(str(DAY), 1, 45, 45 * 27)]


def test_the_table_holds_no_words(database: Database) -> None:
    Usage(database, clock_us=lambda: NOON_US).turn_ended("a1", "", answer())
    with database.read() as connection:
        rows = connection.execute(sa.select(usage_by_day)).all()
    assert len(rows) == 1
    assert "private" not in repr(rows)
