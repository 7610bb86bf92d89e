"""Floods: nobody fills the record with prompts that cannot be answered, with denials, or with a day's turns."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from appliance.audit.details.denials import PromptTooLarge
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog, RecordError
from appliance.audit.repeated import MAX_SOURCES, WINDOW_S, RepeatedDenials
from appliance.audit.review import _NAMES_IN_LOG, MAX_NAMES, actor_names
from appliance.database.tables import recorded_bytes
from appliance.database.transactions import Database, open_database
from appliance.people.accounts import Role
from appliance.people.allowance import DAY_US, EVENT_BYTES, MIB, Allowance, Limits, PromptTooLargeError, QuotaSpentError
from appliance.people.usage import _KEPT_AFTER
from appliance.turns.engine import TokenCount
from appliance.turns.events import AnswerDelta, Started
from appliance.turns.request import Message, Tool, TurnRequest
from tests.fakes import FakeEngine, done
from tests.webui.conftest import Browser, MakeSite, Site
from tests.webui.served import gunicorn, write_release
from webui.app import create_app
from webui.denials import record_counts

COMPLETIONS = "/v1/chat/completions"
STRANGER = Actor("", "(no valid key)", "api", "10.0.0.9")


def ask(site: Site, key: str, text: str) -> tuple[int, str]:
    body = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": text}]}
    answer = site.app.test_client().post(COMPLETIONS, json=body, headers={"Authorization": f"Bearer {key}"})
    return answer.status_code, answer.get_json()["error"]["code"] if answer.status_code != 200 else ""


def database_bytes(site: Site) -> int:
    directory = site.services.config.home / "state" / "database"
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())


def denials(log: AuditLog) -> list[Content]:
    events = [log.get(number) for number in range(1, log.size() + 1)]
    return [event.content for event in events if event.header.action == "denied" and event.content is not None]


def test_prompts_that_cannot_fit_are_refused_by_size_and_not_kept(site: Site) -> None:
    key = site.add_key(site.add_user("ada"))
    text = "x" * (16 * 4096 + 1)  # the release has 4,096 tokens of context
    before = database_bytes(site)
    assert [ask(site, key, text) for _ in range(24)] == [(400, "context_length_exceeded")] * 24
    assert database_bytes(site) - before < 200_000
    assert site.engine.requests == []
    record_counts(site.app)
    first, rest = denials(site.services.record)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert first == Content("prompt_too_large", PromptTooLarge(size_bytes=65_537, limit_bytes=65_536, sha256=digest))
    assert rest.details.values()["count"] == 23
    assert ask(site, key, text[1:]) == (200, "")


@pytest.mark.parametrize("where", ["system", "assistant", "tools", "stop and many messages"])
def test_size_counts_wherever_it_stands(where: str, sqlite: Database) -> None:
    long = "é" * 600
    messages = {
        "system": (Message("system", long), Message("user", "x")),
        "assistant": (Message("user", "x"), Message("assistant", "", reasoning=long)),
        "tools": (Message("user", "x"),),
        "stop and many messages": (Message("user", "x" * 999),),
    }[where]
    tools = (Tool("t", "", {"description": long}),) if where == "tools" else ()
    stop = ("yy",) if where.startswith("stop") else ()
    request = TurnRequest("t", "u", messages, seed=1, tools=tools, stop=stop)
    with pytest.raises(PromptTooLargeError):
        Allowance(sqlite, Limits(1000, MIB)).check("u", request)


def test_a_question_that_cannot_fit_is_not_kept_in_its_conversation(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    conversation = site.services.conversations.create(ada.id, title="Long")
    headers = {"X-CSRF-Token": browser.token(), "Origin": "http://localhost", "Accept": "application/json"}
    body = {"text": "x" * 70_000, "effort": "low"}
    response = browser.client.post(f"/chat/{conversation.id}/turns", json=body, headers=headers)
    assert (response.status_code, response.get_json()["error"]["code"]) == (413, "prompt_too_large")
    assert site.services.conversations.messages(ada.id, conversation.id) == []
    assert site.denials() == ["prompt_too_large"]


def test_a_body_that_is_refused_unread_is_recorded_with_its_size(site: Site) -> None:
    key = site.add_key(site.add_user("ada"))
    status, code = ask(site, key, "x" * 1_000_000)
    assert (status, code) == (413, "request_too_large")
    (content,) = denials(site.services.record)
    assert content.text == "body_too_large"
    assert content.details.values()["size_bytes"] > 1_000_000


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The statements that the database gets meanwhile."""
    seen: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement != "BEGIN" and "FROM settings" not in statement:  # these are read once in a while, by no request
            seen.append(statement.split()[0])

    sa.event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(database.engine, "before_cursor_execute", note)


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}])
def test_a_flood_of_strangers_is_two_events_and_costs_one_read_each(site: Site, header: dict[str, str]) -> None:
    client = site.app.test_client()
    assert client.get("/v1/models", headers=header).status_code == 401
    with statements(site.services.record.database) as seen:
        for _ in range(200):
            assert client.get("/v1/models", headers=header).status_code == 401
    assert seen.count("SELECT") <= 200
    assert seen.count("BEGIN") <= 200 // _KEPT_AFTER  # the page of usage counts refusals, many in one transaction
    record_counts(site.app)
    first, rest = denials(site.services.record)
    assert first.text == "invalid_api_key"
    assert (rest.text, rest.details.values()["count"]) == ("invalid_api_key, 200 more times", 200)


def test_a_role_that_is_missing_floods_no_more_than_a_key(site: Site) -> None:
    browser = site.browser(site.add_user("ada"))
    for path in itertools.islice(itertools.cycle(["/review", "/review/1", "/admin"]), 60):
        assert browser.get(path).status_code == 403
    record_counts(site.app)
    first, rest = denials(site.services.record)
    assert (first.text, rest.details.values()["count"]) == ("missing_role", 59)
    assert rest.details.values()["subjects"] == ["admin.index", "review.event", "review.index"]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_rest_of_a_minute_is_one_event_when_the_minute_is_over() -> None:
    clock, events = Clock(), list[NewEvent]()
    repeated = RepeatedDenials(events.append, clock_s=clock)
    for _ in range(5):
        repeated.record(STRANGER, "invalid_api_key", "api.list_models")
    repeated.record(STRANGER, "another", "api.list_models")
    assert len(events) == 2
    clock.now_s += WINDOW_S - 1
    repeated.record_due()
    assert len(events) == 2
    clock.now_s += 1
    repeated.record_due()
    assert len(events) == 3
    assert events[2].content is not None
    assert events[2].content.details.values() == {"count": 4, "within_s": 60.0, "subjects": ["api.list_models"]}
    assert (events[2].actor, events[2].subject) == (STRANGER, "api.list_models")
    repeated.record(STRANGER, "invalid_api_key", "x")  # a new minute, a new first event
    assert len(events) == 4


def test_a_stranger_with_many_addresses_gets_no_event_for_each() -> None:
    clock, events = Clock(), list[NewEvent]()
    repeated = RepeatedDenials(events.append, clock_s=clock)
    for number in range(5000):
        actor = Actor("", "(no valid key)", "api", f"fd00:0:0:{number:x}::1")
        repeated.record(actor, "invalid_api_key", "api.list_models")
    assert len(events) == MAX_SOURCES
    assert len(repeated._sources) <= MAX_SOURCES + 1
    repeated.record_due(all_of_it=True)
    assert len(events) == MAX_SOURCES + 1
    assert events[-1].content is not None
    assert events[-1].content.details.values()["count"] == 5000 - MAX_SOURCES
    assert len(events[-1].content.details.values()["addresses"]) == 16


@pytest.mark.parametrize("address", ["10.0.0.9", "2001:db8::9", "::ffff:10.0.0.9"])
def test_what_cannot_be_recorded_is_neither_answered_nor_forgotten(address: str) -> None:
    stranger = replace(STRANGER, address=address)
    clock, events, broken = Clock(), list[NewEvent](), [True]

    def append(event: NewEvent) -> None:
        if broken[0]:
            raise RecordError("the disk is full")
        events.append(event)

    repeated = RepeatedDenials(append, clock_s=clock)
    with pytest.raises(RecordError):
        repeated.record(stranger, "invalid_api_key", "x")
    broken[0] = False
    for _ in range(3):
        repeated.record(stranger, "invalid_api_key", "x")
    broken[0] = True
    clock.now_s += WINDOW_S
    with pytest.raises(RecordError):
        repeated.record_due()
    broken[0] = False
    repeated.record_due()
    assert [event.content.details.values().get("count") for event in events if event.content] == [None, 2]


def test_a_worker_that_ends_in_order_records_what_it_has_counted(site: Site) -> None:
    home = site.services.config.home
    write_release(home / "current", "gpt-oss-fake")
    with gunicorn(home, site.engine.doorbell) as port:
        for _ in range(4):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/v1/models")
            assert connection.getresponse().status == 401
            connection.close()
    first, rest = denials(site.services.record)
    assert (first.text, rest.details.values()["count"]) == ("invalid_api_key", 3)


def test_a_days_bytes_are_one_limit_for_all_workers_and_its_refusal_one_event(make_site: MakeSite) -> None:
    long = AnswerDelta("word " * 30_000)
    site = make_site(FakeEngine(lambda _: [Started(20, 0.0), long, done()]), daily_mib_per_user=1)
    ada, bob = site.add_user("ada"), site.add_user("bob")
    key, other = site.add_key(ada), site.add_key(bob)
    statuses = [ask(site, key, f"Again {number}")[0] for number in range(12)]
    assert statuses[:6] == [200] * 6
    assert statuses[-1] == 429
    second_worker = make_second_worker(site)
    assert ask(second_worker, key, "And again") == (429, "quota_spent")
    assert ask(site, other, "Hello") == (200, "")
    assert site.denials() == ["quota_spent"]
    day_bytes = sum(
        len(event.content.text) for event in site.events() if event.content and event.header.actor.name == "ada"
    )
    assert day_bytes < 2 * MIB


def make_second_worker(site: Site) -> Site:
    return Site(site.services, site.engine, create_app(site.services))


def test_a_new_day_begins_with_nothing_spent(sqlite: Database) -> None:
    now = [20_000 * DAY_US]
    allowance = Allowance(sqlite, Limits(1000, MIB), clock_us=lambda: now[0])
    allowance.spend("u", Content("x" * MIB))
    with pytest.raises(QuotaSpentError) as caught:
        allowance.check_texts("u", [b"x"])
    assert (caught.value.is_first, caught.value.retry_after_s) == (True, 86_400)
    with pytest.raises(QuotaSpentError) as caught:
        Allowance(sqlite, Limits(1000, MIB), clock_us=lambda: now[0]).check_texts("u", [b"x"])
    assert not caught.value.is_first
    now[0] += DAY_US
    allowance.check_texts("u", [b"x"])


def test_small_turns_are_counted_in_memory_until_the_process_ends(sqlite: Database) -> None:
    first, second = (Allowance(sqlite, Limits(1000, 1000)) for _ in range(2))
    first.spend("u", Content("x" * 2000))
    second.check_texts("u", [b"x"])  # the first worker still holds back at most a mebibyte
    first.keep()
    with pytest.raises(QuotaSpentError):
        second.check_texts("u", [b"x"])


def test_turns_that_end_at_once_are_each_counted_once(sqlite: Database) -> None:
    allowance = Allowance(sqlite, Limits(1000, MIB))
    content = Content("x" * 1000)
    with ThreadPoolExecutor(max_workers=8) as threads:
        for _ in range(20):
            allowance.spend("u", content)
            for kept in [threads.submit(allowance.keep) for _ in range(8)]:
                kept.result()
    with sqlite.read() as connection:
        counted = connection.scalar(sa.select(recorded_bytes.c.bytes))
    assert counted == 20 * (1000 + EVENT_BYTES + len("{}"))


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/site.sqlite3")
    yield database
    database.close()


QUOTA: dict[str, object] = {"daily_mib_per_user": 1}


def chat_headers(browser: Browser) -> dict[str, str]:
    return {"X-CSRF-Token": browser.token(), "Origin": "http://localhost", "Accept": "application/json"}


def test_questions_of_a_conversation_that_is_too_long_are_not_kept(site: Site) -> None:
    site.engine.answer = lambda _: TokenCount(1, 4096)  # by size alone
    ada = site.add_user("ada")
    browser = site.browser(ada)
    conversation = site.services.conversations.create(ada.id, title="Long")
    path, headers = f"/chat/{conversation.id}/turns", chat_headers(browser)
    body = {"text": "x" * 22_000, "effort": "low"}  # the answer repeats it, and a third one does not fit
    answers = [browser.client.post(path, json=body, headers=headers, buffered=True) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200, 413, 413, 413, 413, 413]
    kept = site.services.conversations.messages(ada.id, conversation.id)
    assert [message.role for message in kept] == ["user", "assistant"]
    assert site.denials() == ["prompt_too_large"] * 5


def test_questions_whose_answer_nobody_waits_for_are_counted(make_site: MakeSite) -> None:
    site = make_site(**QUOTA)
    site.engine.answer = lambda _: TokenCount(1, 4096)
    ada = site.add_user("ada")
    browser = site.browser(ada)
    headers, statuses = chat_headers(browser), []
    before = database_bytes(site)
    for _ in range(40):
        conversation = site.services.conversations.create(ada.id, title="Left")
        body = {"text": "x" * 40_000, "effort": "low"}
        answer = browser.client.post(f"/chat/{conversation.id}/turns", json=body, headers=headers, buffered=False)
        statuses.append(answer.status_code)
        answer.close()  # before the first line is read
    assert statuses[0] == 200
    assert statuses[-1] == 429
    prompts = [event for event in site.events() if event.header.action == "prompt"]
    assert len(prompts) == statuses.count(200)  # none of the refused questions was asked
    assert database_bytes(site) - before < 8 * MIB  # the text as event and message, two search indexes, SQLite's log


def test_conversations_and_keys_are_counted(make_site: MakeSite) -> None:
    site = make_site(**QUOTA)
    browser = site.browser(site.add_user("ada"))
    headers = chat_headers(browser)
    made = [browser.client.post("/chat", json={"text": "Hi"}, headers=headers).status_code for _ in range(1100)]
    assert made[0] == 201
    assert made[-1] == 429
    assert browser.post("/account/keys", label="one more", scope="models").status_code == 429
    assert site.denials() == ["quota_spent"]


def test_names_that_strangers_type_do_not_fill_the_filter(site: Site) -> None:
    rita = site.browser(site.add_user("rita", Role.REVIEWER))
    typed = [NewEvent(Actor("", f"a{number:05}", "web"), "sign_in", "denied") for number in range(3000)]
    with site.services.record.database.write(serial=True) as connection:
        site.services.record.append_many_in(connection, typed)
    page = rita.get("/review").text
    assert page.count("<option value=") < MAX_NAMES + 20
    assert '<option value="rita">' in page
    assert "a02999" in re.sub(r"(?s)<datalist.*?</datalist>", "", rita.get("/review?user=a02999").text)
    with statements(site.services.record.database) as seen:
        actor_names(site.services.record)
    assert len(seen) == 2
    plan = site.services.record.database.engine.connect().exec_driver_sql(
        "EXPLAIN QUERY PLAN " + _NAMES_IN_LOG[True].replace(":limit", "9")
    )
    assert not [step for step in plan if step[3].startswith("SCAN audit_events")]
