"""Quotas: the strictest decides, processes together let no more through, and no place is lost with its process."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Event

import pytest

from appliance.audit.details.denials import QuotaReached
from appliance.audit.details.turns import FinishedAnswer
from appliance.audit.event import Actor, Content
from appliance.audit.log import AuditLog
from appliance.database.transactions import Database, open_database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.allowance import DAY_US
from appliance.people.groups import Groups
from appliance.people.quotas import Quota, Quotas
from appliance.people.turn_places import QuotaReachedError, TurnPlaces
from appliance.people.usage import Usage
from appliance.people.users import AccountError, NoLongerAdminError, User
from tests.appliance.people.test_key_use import NOON_US, Clock
from tests.fakes import done
from tests.waiting import HELD_S
from tests.webui.conftest import FAST_PASSWORDS, PASSWORD

ROOT = Actor("", "root", "cli")
ANSWER = Content("x", FinishedAnswer(conversation=None, reasoning="", tool_calls=(), done=done()))  # 27 tokens


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(log: AuditLog) -> Accounts:
    return Accounts(AccountStore(log, passwords=FAST_PASSWORDS))


@pytest.fixture
def ada(accounts: Accounts) -> User:
    return accounts.create_user("ada", PASSWORD, [Role.USER], by=ROOT)


@pytest.fixture
def quotas(log: AuditLog) -> Quotas:
    return Quotas(log)


@pytest.fixture
def usage(database: Database, clock: Clock) -> Usage:
    return Usage(database, clock_us=clock)


@pytest.fixture
def places(database: Database, usage: Usage, clock: Clock) -> TurnPlaces:
    return TurnPlaces(database, usage, clock_us=clock)


def refusal(places: TurnPlaces, user: User, turn: str = "one more") -> QuotaReachedError:
    with pytest.raises(QuotaReachedError) as refused:
        places.take(user.id, "", turn)
    return refused.value


def test_the_strictest_of_person_groups_and_everybody_decides_limit_by_limit(
    log: AuditLog, quotas: Quotas, accounts: Accounts, ada: User
) -> None:
    groups = Groups(log)
    north, south = (groups.create(name, by=ROOT) for name in ("North", "South"))
    groups.set_groups_of(ada.id, [north.id, south.id], by=ROOT)
    quotas.give("everybody", "", Quota(1000, 100, 9), by=ROOT)
    quotas.give("group", north.id, Quota(tokens_per_day=500), by=ROOT)
    quotas.give("group", south.id, Quota(tokens_per_day=700, requests_per_day=100), by=ROOT)
    quotas.give("person", ada.id, Quota(tokens_per_day=900, concurrent_turns=2), by=ROOT)

    def held(user: User) -> dict[str, tuple[int, str]]:
        return {of: (limit.most, limit.whose) for of, limit in quotas.holding(user.id).items()}

    assert held(ada) == {
        "tokens_per_day": (500, "the group North"), "requests_per_day": (100, "the group South"),
        "concurrent_turns": (2, "your account"),
    }  # fmt: skip
    bob = accounts.create_user("bob", PASSWORD, [Role.USER], by=ROOT)
    assert {whose for _, whose in held(bob).values()} == {"everybody"}
    groups.remove(north.id, by=ROOT)
    assert held(ada)["tokens_per_day"] == (700, "the group South")
    quotas.give("person", ada.id, Quota(), by=ROOT)
    assert held(ada)["concurrent_turns"] == (9, "everybody")


def test_a_change_is_an_event_and_no_change_is_none(log: AuditLog, quotas: Quotas, ada: User) -> None:
    quotas.give("person", ada.id, Quota(tokens_per_day=5000), by=ROOT)
    event = log.get(log.size())
    assert event.content is not None
    assert (event.header.action, event.header.subject) == ("quota_changed", "ada")
    assert event.content.text == "person: no limit -> 5,000 tokens a day"
    size = log.size()
    quotas.give("person", ada.id, Quota(tokens_per_day=5000), by=ROOT)
    assert log.size() == size


@pytest.mark.parametrize("quota", [Quota(tokens_per_day=-1), Quota(requests_per_day=10**10), Quota(None, None, 10**6)])
def test_a_limit_out_of_range_is_refused(log: AuditLog, quotas: Quotas, ada: User, quota: Quota) -> None:
    size = log.size()
    with pytest.raises(AccountError, match="is a whole number from 0 to"):
        quotas.give("person", ada.id, quota, by=ROOT)
    assert (quotas.get("person", ada.id), log.size()) == (Quota(), size)


def test_only_an_administrator_gives_quotas_and_only_to_who_is_there(quotas: Quotas, ada: User) -> None:
    with pytest.raises(NoLongerAdminError):
        quotas.give("person", ada.id, Quota(1), by=ada.actor("web"))
    for kind, holder in (("person", "nobody"), ("group", "none"), ("everybody", "x")):
        with pytest.raises(AccountError, match="There is no such"):
            quotas.give(kind, holder, Quota(1), by=ROOT)  # type: ignore[arg-type]
    assert quotas.holding(ada.id) == {}


def test_requests_of_a_day_are_counted_as_they_begin(
    quotas: Quotas, places: TurnPlaces, usage: Usage, clock: Clock, accounts: Accounts, ada: User
) -> None:
    accounts.create_user("root", PASSWORD, [Role.ADMIN], by=ROOT)
    quotas.give("everybody", "", Quota(requests_per_day=2), by=ROOT)
    assert places.take(ada.id, "", "t1")
    usage.turn_ended(ada.id, "", ANSWER, is_counted=True)
    places.take(ada.id, "key", "t2")
    error = refusal(places, ada)
    assert error.sentence == (
        "The quota of everybody is 2 requests a day, and it is used up; it is there again on 2024-10-05 at 00:00 UTC. "
        "An administrator (root) can change it."
    )
    assert (error.code, error.retry_after_s) == ("quota_spent", DAY_US / 2e6)
    assert error.details == QuotaReached(limit=2, of="requests a day", whose="everybody")
    assert [(use.used, use.left) for use in places.uses(ada.id)] == [(2, 0)]
    clock.us += DAY_US
    places.take(ada.id, "", "t3")


def test_tokens_of_a_day_are_those_of_all_its_answers(
    quotas: Quotas, places: TurnPlaces, usage: Usage, clock: Clock, ada: User
) -> None:
    usage.turn_ended(ada.id, "key", ANSWER)  # before there was a quota
    quotas.give("person", ada.id, Quota(tokens_per_day=54), by=ROOT)
    places.take(ada.id, "", "t1")
    usage.turn_ended(ada.id, "", ANSWER, is_counted=True)
    assert "the quota of your account is 54 tokens a day" in str(refusal(places, ada))
    clock.us += DAY_US
    places.take(ada.id, "", "t2")


def test_places_are_given_back(quotas: Quotas, places: TurnPlaces, ada: User) -> None:
    quotas.give("person", ada.id, Quota(concurrent_turns=2), by=ROOT)
    places.take(ada.id, "", "t1")
    places.take(ada.id, "", "t2")
    error = refusal(places, ada, "t3")
    assert (error.code, "it is there again as soon as one of them ends" in str(error)) == ("too_many_running", True)
    places.give_back("t1")
    places.give_back("t1")
    places.take(ada.id, "", "t3")
    refusal(places, ada)
    places.give_back_later("t2")
    assert [use.used for use in places.uses(ada.id)] == [1]
    places.take(ada.id, "", "t4")
    refusal(places, ada)


def test_a_refused_turn_is_not_counted(quotas: Quotas, places: TurnPlaces, ada: User) -> None:
    quotas.give("person", ada.id, Quota(requests_per_day=5, concurrent_turns=1), by=ROOT)
    places.take(ada.id, "", "t1")
    for _ in range(7):
        assert refusal(places, ada).code == "too_many_running"
    assert {use.limit.of: use.used for use in places.uses(ada.id)} == {"requests_per_day": 1, "concurrent_turns": 1}


def test_zero_lets_nothing_through_and_no_quota_costs_nothing(
    database: Database, quotas: Quotas, places: TurnPlaces, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes(**_: object) -> None:
        pytest.fail("a person without a quota costs no transaction")

    with monkeypatch.context() as watched:
        watched.setattr(database, "write", writes)
        assert not places.take(ada.id, "", "t1")
    quotas.give("person", ada.id, Quota(requests_per_day=0), by=ROOT)
    assert refusal(places, ada).details == QuotaReached(limit=0, of="requests a day", whose="your account")


def _take(url: str, user_id: str, name: str, times: int) -> None:
    database = open_database(url)
    places = TurnPlaces(database, Usage(database, clock_us=lambda: NOON_US), clock_us=lambda: NOON_US)
    taken = 0
    for number in range(times):
        try:
            places.take(user_id, "", f"{name}-{number}")
            taken += 1
        except QuotaReachedError:
            pass
    database.close()
    os._exit(taken)


def test_processes_together_let_no_more_through(database_url: str, quotas: Quotas, ada: User) -> None:
    quotas.give("person", ada.id, Quota(requests_per_day=17), by=ROOT)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_take, args=(database_url, ada.id, str(number), 10)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(worker.exitcode or 0 for worker in workers) == 17


def _hold(url: str, user_id: str, is_taken: Event, end: Event) -> None:
    database = open_database(url)
    TurnPlaces(database, Usage(database), clock_us=lambda: NOON_US).take(user_id, "", "of another process")
    is_taken.set()
    end.wait(HELD_S)
    os._exit(0)  # as a killed process ends


def test_a_dead_process_holds_no_place(database_url: str, quotas: Quotas, places: TurnPlaces, ada: User) -> None:
    quotas.give("person", ada.id, Quota(concurrent_turns=1), by=ROOT)
    context = multiprocessing.get_context("spawn")
    is_taken, end = context.Event(), context.Event()
    worker = context.Process(target=_hold, args=(database_url, ada.id, is_taken, end))
    worker.start()
    assert is_taken.wait(HELD_S)
    refusal(places, ada)
    end.set()
    worker.join()
    places.take(ada.id, "", "mine")
    refusal(places, ada)
