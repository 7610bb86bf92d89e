"""The machine's clock jumps, because a battery died or a time server was wrong. Nobody is locked out, and nothing that
should end lasts for ever.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.transactions import ClockError, open_database
from appliance.engine.harmony import Vocabulary
from appliance.engine.jobs import Job
from appliance.engine.scheduler import Scheduler
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, LinkError, Role, User
from appliance.people.approvals import Approvals
from appliance.people.four_eyes import Change
from appliance.people.refusal_notes import Due, RefusalNotes
from appliance.people.sessions import Sessions
from appliance.people.sign_in import SignIn, SignInError
from appliance.turns.events import Done, EngineEvent
from appliance.turns.interrupted import LostTurns
from appliance.turns.request import Message, TurnRequest
from appliance.turns.run import run_turn
from tests.appliance.engine.conftest import vocabulary, vocabulary_file  # noqa: F401 - fixtures
from tests.appliance.records import Clock
from tests.attacks.test_accounts_guessing import Door
from tests.fakes import FakeEngine, FakeModel
from tests.webui.conftest import FAST_PASSWORDS, PASSWORD, SYSTEM

DAY_S = 24 * 3600.0
YEAR_S = 365 * 24 * 3600.0
HOME = "10.0.0.2"


@pytest.fixture
def door(tmp_path: Path, empty_database: Path) -> Iterator[Door]:
    path = tmp_path / "door.sqlite3"
    path.write_bytes(empty_database.read_bytes())
    database = open_database(f"sqlite:///{path}")
    log, clock = AuditLog(database), Clock()
    store = AccountStore(log, passwords=FAST_PASSWORDS, clock_us=clock)
    yield Door(database, log, clock, Accounts(store), SignIn(store))
    database.close()


@pytest.fixture
def ada(door: Door) -> User:
    return door.accounts.create_user("ada", PASSWORD, [Role.USER], by=SYSTEM)


@pytest.mark.parametrize("back_s", [3600.0, YEAR_S, 30 * YEAR_S])
@pytest.mark.parametrize("address", [HOME, "203.0.113.9"])
def test_a_clock_that_is_set_back_locks_nobody_out(door: Door, ada: User, back_s: float, address: str) -> None:
    """It used to lock out everybody who had signed in, or failed to, in the minutes before."""
    door.knock(password=PASSWORD)
    with contextlib.suppress(SignInError):
        door.knock(address=address)
    door.clock.wait(-back_s)
    assert door.knock(password=PASSWORD, address=address) == ada


def test_guessing_stays_as_slow_after_the_clock_was_set_back(door: Door, ada: User) -> None:
    assert door.guesses(100, lambda _: HOME) == 5
    door.clock.wait(-YEAR_S)
    assert door.guesses(100, lambda _: HOME) == 5
    door.clock.wait(60)
    assert door.guesses(100, lambda _: HOME) == 1


def test_the_own_password_is_confirmed_after_the_clock_was_set_back(door: Door, ada: User) -> None:
    door.sign_in.confirm(ada, PASSWORD, via="web", address=HOME)
    door.clock.wait(-YEAR_S)
    door.sign_in.confirm(ada, PASSWORD, via="web", address=HOME)


def test_a_session_of_the_future_opens_nothing(door: Door, ada: User) -> None:
    """It would last until then. A correction by minutes ends no session."""
    sessions = Sessions(door.database, door.log, clock_us=door.clock)
    token = sessions.create(ada, address=HOME)
    door.clock.wait(-600)
    assert sessions.user(token) == ada
    door.clock.wait(-YEAR_S)
    assert sessions.user(token) is None
    assert sessions.list_sessions(ada.id, own_token=token) == []


def test_a_link_of_the_future_opens_nothing(door: Door, ada: User) -> None:
    token = door.accounts.make_reset_link(ada.id, by=SYSTEM)
    door.clock.wait(-600)
    assert door.accounts.link_user(token) is not None
    door.clock.wait(-YEAR_S)
    with pytest.raises(LinkError) as caught:
        door.accounts.link_user(token)
    assert caught.value.why == "expired"
    assert not door.accounts.has_link(ada.id)


def test_a_request_of_the_future_is_not_confirmed(door: Door, ada: User) -> None:
    approvals = Approvals(AccountStore(door.log, passwords=FAST_PASSWORDS, clock_us=door.clock))
    mallory, trent = (door.accounts.create_user(name, PASSWORD, [Role.ADMIN], by=SYSTEM) for name in ("mal", "trent"))
    wanted = Change("roles", ada.id, "ada", ada.roles, ada.roles | {Role.REVIEWER})
    approvals.ask(wanted, by=mallory.actor("web"))
    door.clock.wait(-600)
    assert len(approvals.open_requests()) == 1
    door.clock.wait(-YEAR_S)
    assert approvals.open_requests() == []
    assert trent.roles == {Role.ADMIN}


def test_refusals_are_recorded_again_after_the_clock_was_set_back() -> None:
    """Otherwise they would be counted but not recorded until the clock has caught up."""
    notes, now_us = RefusalNotes(), int(YEAR_S * 2e6)
    assert notes.count(HOME, now_us) == Due(HOME)
    assert notes.count(HOME, now_us) is None
    now_us -= int(YEAR_S * 1e6)
    assert notes.ended(now_us) == [(HOME, 1)]
    assert notes.count(HOME, now_us) == Due(HOME)


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S, -30 * YEAR_S, 30 * YEAR_S])
def test_a_clock_that_jumps_within_a_turn_leaves_it_whole(door: Door, jump_s: float) -> None:
    log = AuditLog(door.database, clock_us=door.clock)
    request = TurnRequest("t", "a1", (Message("user", "Hi"),), seed=1)
    with FakeEngine() as engine:
        turn = run_turn(log, engine.client, Actor("a1", "ada", "web"), request, conversation_id=None)
        next(turn)
        door.clock.wait(jump_s)
        assert LostTurns(log).close() == 0  # the turn runs
        assert isinstance(list(turn)[-1], Done)
    assert LostTurns(log).close() == 0
    assert turn.prompt_event is not None
    assert turn.answer_event == turn.prompt_event + 1
    assert log.get(turn.answer_event).header.outcome == "ok"


def test_who_waits_in_the_queue_waits_by_a_clock_that_nobody_sets(
    vocabulary: Vocabulary,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def set_by_somebody() -> float:
        raise AssertionError("the wall clock was asked")

    monkeypatch.setattr(time, "time", set_by_somebody)
    monkeypatch.setattr(time, "time_ns", set_by_somebody)
    prompt, sent = vocabulary.encode("a question"), list[EngineEvent]()
    reply = vocabulary.encoding.encode("<|channel|>final<|message|>yes<|return|>", allowed_special="all")
    scheduler = Scheduler(FakeModel({tuple(prompt): reply}, slots=1), vocabulary, queue_limit=10)
    for number in range(3):
        request = TurnRequest(f"t{number}", f"user-{number}", (Message("user", "x"),), seed=1)
        scheduler.submit(Job(request, list(prompt), sent.append))
    while scheduler.step():
        pass
    assert len([event for event in sent if isinstance(event, Done)]) == 3


def test_before_1970_nothing_is_written_that_could_not_be_read_again(
    door: Door, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One account made under such a clock stopped every command and page that lists accounts."""
    accounts = Accounts(AccountStore(door.log, passwords=FAST_PASSWORDS))
    monkeypatch.setattr(time, "time_ns", lambda: -1_000)
    for write in (
        lambda: accounts.create_user("bob", PASSWORD, [Role.USER], by=SYSTEM),
        lambda: accounts.disable(ada.id, by=SYSTEM),
    ):
        with pytest.raises(ClockError, match="before 1970; set it"):
            write()
    assert [user.name for user in accounts.list_users()] == ["ada"]
