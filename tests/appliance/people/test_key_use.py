"""The limits of API keys: what is counted, for whom, and that many processes together never let more through."""

from __future__ import annotations

import multiprocessing

import pytest

from appliance.audit.details.turns import Failure as TurnProblem
from appliance.audit.details.turns import FinishedAnswer, LostAnswer, UnfinishedAnswer
from appliance.audit.event import Actor, Content
from appliance.audit.log import AuditLog
from appliance.database.transactions import Database, DatabaseError, open_database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.allowance import DAY_US
from appliance.people.api_keys import ApiKeys
from appliance.people.key_rights import MOST_REQUESTS_PER_MINUTE
from appliance.people.key_use import KeyLimitError, KeyUse, tokens_of
from appliance.turns.request import ToolCall
from tests.fakes import done
from tests.webui.conftest import FAST_PASSWORDS

ROOT = Actor("", "root", "cli")
NOON_US = 20_000 * DAY_US + DAY_US // 2
SECOND_US = 1_000_000


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.us = NOON_US

    def __call__(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def key_id(database: Database, log: AuditLog) -> str:
    """A key of a person's; its limits are what the tests say."""
    accounts = Accounts(AccountStore(log, passwords=FAST_PASSWORDS))
    ada = accounts.create_user("ada", None, [Role.USER], by=ROOT)
    return ApiKeys(database, log).create(ada, "script", by=ROOT)[0].id


@pytest.fixture
def use(database: Database, clock: Clock) -> KeyUse:
    return KeyUse(database, clock_us=clock)


def takes(use: KeyUse, key_id: str, per_minute: int, times: int) -> int:
    """How many of so many requests are let through."""

    def take() -> bool:
        try:
            use.take_request(key_id, "script", per_minute)
        except KeyLimitError:
            return False
        return True

    return sum(take() for _ in range(times))


def test_requests_come_back_one_by_one(use: KeyUse, key_id: str, clock: Clock) -> None:
    standings = [use.take_request(key_id, "script", 3) for _ in range(3)]
    assert [(s.limit, s.remaining, s.reset_s) for s in standings] == [(3, 2, 20.0), (3, 1, 40.0), (3, 0, 60.0)]
    with pytest.raises(KeyLimitError) as refused:
        use.take_request(key_id, "script", 3)
    assert (refused.value.code, refused.value.retry_after_s) == ("rate_limit_exceeded", 20.0)
    assert refused.value.standing.remaining == 0
    assert refused.value.details.values() == {"key": "script", "limit": 3, "of": "requests a minute"}
    clock.us += 20 * SECOND_US - 1
    assert takes(use, key_id, 3, 1) == 0
    clock.us += 1
    assert takes(use, key_id, 3, 5) == 1
    clock.us += 60 * SECOND_US
    assert takes(use, key_id, 3, 5) == 3


@pytest.mark.parametrize("per_minute", [1, 7, 61])
def test_the_whole_limit_is_there_at_once_and_not_one_more(use: KeyUse, key_id: str, per_minute: int) -> None:
    assert takes(use, key_id, per_minute, per_minute + 3) == per_minute


def test_the_highest_limit_is_one_that_can_be_counted(use: KeyUse, key_id: str) -> None:
    most = MOST_REQUESTS_PER_MINUTE
    assert [use.take_request(key_id, "script", most).remaining for _ in range(2)] == [most - 1, most - 2]


def test_a_flood_beyond_the_limit_waits_for_no_writer(
    use: KeyUse, key_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use.take_request(key_id, "script", 1)
    monkeypatch.setattr(Database, "write", lambda *_, **__: pytest.fail("a refused request wants to write"))
    assert takes(use, key_id, 1, 100) == 0


def test_a_limit_that_is_lowered_holds_at_once(use: KeyUse, key_id: str) -> None:
    assert takes(use, key_id, 60, 30) == 30
    assert takes(use, key_id, 6, 9) == 3  # half of the minute is used up


def test_a_clock_that_is_set_back_locks_no_key_out(use: KeyUse, key_id: str, clock: Clock) -> None:
    assert takes(use, key_id, 2, 3) == 2
    clock.us -= 365 * DAY_US
    assert takes(use, key_id, 2, 3) == 2


def test_tokens_are_counted_until_the_day_ends(use: KeyUse, key_id: str, clock: Clock) -> None:
    use.spend(key_id, 60)
    use.check_tokens(key_id, "script", 100)
    standing = use.tokens(key_id, 100)
    assert (standing.remaining, standing.reset_s) == (40, 12 * 3600)
    use.spend(key_id, 70)
    with pytest.raises(KeyLimitError) as refused:
        use.check_tokens(key_id, "script", 100)
    assert (refused.value.code, refused.value.retry_after_s) == ("quota_spent", 12 * 3600)
    assert use.tokens(key_id, 100).remaining == 0
    clock.us += DAY_US // 2
    use.check_tokens(key_id, "script", 100)
    use.spend(key_id, 1)
    assert use.tokens(key_id, 100).remaining == 99


def test_one_key_uses_nothing_of_another(database: Database, log: AuditLog, use: KeyUse, key_id: str) -> None:
    ada = Accounts(AccountStore(log, passwords=FAST_PASSWORDS)).find("ada")
    other = ApiKeys(database, log).create(ada, "script", by=ROOT)[0].id  # the same label, too
    assert takes(use, key_id, 1, 2) == 1
    use.spend(key_id, 100)
    assert takes(use, other, 1, 2) == 1
    assert use.tokens(other, 100).remaining == 100


def test_tokens_that_cannot_be_stored_are_counted_and_stored_with_the_next(
    database: Database, use: KeyUse, key_id: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", fail)
        with pytest.raises(DatabaseError):
            use.spend(key_id, 100)
    with pytest.raises(KeyLimitError):
        use.check_tokens(key_id, "script", 100)
    after_restart = KeyUse(database, clock_us=clock)
    assert after_restart.tokens(key_id, 1000).remaining == 1000
    use.spend(key_id, 1)
    assert after_restart.tokens(key_id, 1000).remaining == 899


def test_a_request_that_cannot_be_counted_is_not_let_through(
    use: KeyUse, key_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(Database, "write", fail)
    with pytest.raises(DatabaseError):
        use.take_request(key_id, "script", 10)


def test_many_workers_at_once_never_let_more_through(database: Database, database_url: str, key_id: str) -> None:
    """Real processes, each with connections of its own, that begin together."""
    database.close()
    fork = multiprocessing.get_context("fork")
    together, passed = fork.Barrier(4), fork.SimpleQueue()

    def work() -> None:
        opened = open_database(database_url)
        use = KeyUse(opened, clock_us=Clock())
        together.wait(60)
        use.spend(key_id, 1000)
        passed.put(takes(use, key_id, 10, 8))
        use.spend(key_id, 1000)
        opened.close()

    workers = [fork.Process(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sum(passed.get() for _ in workers) == 10
    after = KeyUse(database, clock_us=Clock())
    assert takes(after, key_id, 10, 1) == 0
    assert after.tokens(key_id, 10_000).remaining == 2_000


def test_what_a_turn_used_is_what_its_answer_says() -> None:
    call = ToolCall("c", "f", "é" * 10)
    about = {"conversation": None, "reasoning": "r" * 9, "tool_calls": (call,)}
    end = done(prompt_tokens=20, completion_tokens=5)
    assert tokens_of(Content("x", FinishedAnswer(done=end, **about))) == 25  # type: ignore[arg-type]
    left = UnfinishedAnswer(prompt_tokens=20, **about)  # type: ignore[arg-type]
    assert tokens_of(Content("four", left)) == 20 + 9  # 4 + 9 + 20 bytes, rounded up to tokens
    unseen = UnfinishedAnswer(prompt_tokens=None, conversation=None, reasoning="", tool_calls=())
    assert tokens_of(Content("", unseen)) == 0
    lost = LostAnswer(failure=TurnProblem(code="interrupted", message="."), prompt_event=1, **about)  # type: ignore[arg-type]
    assert tokens_of(Content("", lost)) == 8
    assert tokens_of(Content("a question")) == 0
    assert tokens_of(None) == 0
