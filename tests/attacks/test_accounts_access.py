"""Access that was taken away and is still used: sessions, keys, and answers that are still being written."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path

import pytest

from appliance.audit.log import AuditLog
from appliance.config import init_state
from appliance.database.tables import api_keys, sessions
from appliance.database.transactions import DatabaseError, now_us, open_database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role, User
from appliance.people.api_keys import ApiKeys
from appliance.people.key_rights import KeyRights, Scope
from appliance.people.passwords import Passwords
from appliance.people.sessions import MOST_SESSIONS
from appliance.turns import permits
from appliance.turns.events import AnswerDelta, Started, TurnEvent
from appliance.turns.request import TurnRequest
from tests.fakes import FakeEngine, Gate, done
from tests.waiting import HELD_S
from tests.webui.conftest import PASSWORD, SYSTEM, Browser, MakeSite, Site
from tests.webui.served import gunicorn, write_release

NEW = "another quite long phrase"
BODY = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hi"}]}


def as_key(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def opens(site: Site, secret: str) -> int:
    return site.app.test_client().get("/v1/models", headers=as_key(secret)).status_code


# Sessions and keys


def change_own_password(site: Site, user: User, browser: Browser, **form: str) -> None:
    form = {"current_password": PASSWORD, "new_password": NEW, **form}
    assert browser.post("/account/password", **form).status_code == 303


def use_a_link(site: Site, user: User, browser: Browser, **form: str) -> None:
    link = site.services.accounts.make_reset_link(user.id, by=SYSTEM)
    form = {"password": NEW, "password_again": NEW, **form}
    assert site.browser().post(f"/welcome/{link}", **form).status_code == 303


CHANGES = [change_own_password, use_a_link]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("keys_too", [True, False])
def test_a_stolen_session_and_a_stolen_key_end_with_the_password(
    site: Site, change: Callable[..., None], keys_too: bool
) -> None:
    ada = site.add_user("ada")
    own, stolen, key = site.browser(ada), site.browser(ada), site.add_key(ada)
    other = site.add_key(site.add_user("bob"))
    before = own.client.get_cookie("session")
    assert before is not None
    change(site, ada, own, **({"end_keys": "yes"} if keys_too else {}))
    assert stolen.get("/account").status_code == 302
    assert opens(site, key) == (401 if keys_too else 200)
    assert opens(site, other) == 200
    copied = site.browser()
    copied.client.set_cookie("session", before.value)
    assert copied.get("/account").status_code == 302
    if change is change_own_password:  # the person's own browser goes on, under a new token
        assert own.get("/account").status_code == 200


def test_a_password_that_changes_during_a_sign_in_opens_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who knows the old password signs in at the very moment in which it is changed."""
    ada = site.add_user("ada")
    is_right = Passwords.is_right

    def change_meanwhile(self: Passwords, password: str, encoded: str | None) -> bool:
        right = is_right(self, password, encoded)
        monkeypatch.setattr(Passwords, "is_right", is_right)
        site.services.accounts.set_password(ada.id, NEW, by=SYSTEM)
        return right

    monkeypatch.setattr(Passwords, "is_right", change_meanwhile)
    browser = site.browser()
    assert browser.post("/sign-in", name="ada", password=PASSWORD).status_code == 401
    assert browser.get("/account").status_code == 302
    assert site.browser().post("/sign-in", name="ada", password=NEW).status_code == 303


def test_a_person_has_so_many_sessions_and_no_more(site: Site) -> None:
    ada = site.add_user("ada")
    tokens = [site.services.sessions.create(ada, address=str(n)) for n in range(MOST_SESSIONS + 5)]
    alive = [site.services.sessions.user(token) is not None for token in tokens]
    assert alive == [False] * 5 + [True] * MOST_SESSIONS


def test_the_page_ends_keys_unless_told_otherwise(site: Site) -> None:
    ada = site.add_user("ada")
    site.add_key(ada)
    link = site.services.accounts.make_reset_link(ada.id, by=SYSTEM)
    for page in (site.browser(ada).get("/account").text, site.browser().get(f"/welcome/{link}").text):
        assert '<input type="checkbox" name="end_keys" value="yes" checked>' in page


def test_sessions_end_with_the_roles_and_keys_by_choice(site: Site) -> None:
    ada = site.add_user("ada")
    browser, key = site.browser(ada), site.add_key(ada)
    root = site.browser(site.add_user("root", Role.ADMIN))
    path = f"/admin/users/{ada.id}/roles"
    assert 'name="end_keys" value="yes" checked' in root.post(path, admin="yes", user="yes").text
    site.services.accounts.set_roles(ada.id, [Role.USER, Role.ADMIN], by=SYSTEM, end_keys=False)
    assert browser.get("/account").status_code == 302
    assert opens(site, key) == 200
    site.services.accounts.set_roles(ada.id, [Role.USER], by=SYSTEM)
    assert opens(site, key) == 401


def test_an_administrator_who_changes_the_own_roles_stays_signed_in_here_alone(site: Site) -> None:
    root = site.add_user("root", Role.ADMIN)
    site.add_user("other", Role.ADMIN)
    here, elsewhere = site.browser(root), site.browser(root)
    path = f"/admin/users/{root.id}/roles"
    response = here.post(path, admin="yes", user="yes", confirmed="yes")
    assert response.status_code == 303
    assert here.get("/chat").status_code == 200
    assert elsewhere.get("/admin").status_code == 302
    assert here.post(path, user="yes", confirmed="yes").headers["Location"] == "/"
    assert here.get("/admin").status_code == 403


def test_a_person_sees_where_the_account_is_signed_in_and_ends_the_others(site: Site) -> None:
    ada = site.add_user("ada")
    own, other = site.browser(ada), site.browser(ada)
    assert "End all others" in own.get("/account").text
    assert own.post("/account/sessions/end-others", confirmed="yes").status_code == 303
    assert other.get("/account").status_code == 302
    page = own.get("/account").text
    assert "End all others" not in page
    assert "(this browser)" in page


# The ends of keys


def set_key_end(site: Site, end_us: int) -> None:
    with site.services.record.database.write() as connection:
        connection.execute(api_keys.update().values(expires_us=end_us))


def test_a_key_past_its_end_is_refused_with_its_own_words_and_recorded(site: Site) -> None:
    ada = site.add_user("ada")
    key = site.add_key(ada)
    set_key_end(site, now_us() - 1)
    response = site.app.test_client().get("/v1/models", headers=as_key(key))
    assert response.json is not None
    assert (response.status_code, response.json["error"]["code"]) == (401, "api_key_expired")
    assert "makes a new one" in response.json["error"]["message"]
    event = site.events()[-1]
    assert (event.header.action, event.header.actor.name, site.denials()) == ("denied", "ada", ["api_key_expired"])
    assert "Ended" in site.browser(ada).get("/account").text


def test_a_key_says_when_it_ends_and_the_page_warns(site: Site) -> None:
    ada = site.add_user("ada")
    browser, key = site.browser(ada), site.add_key(ada)
    response = site.app.test_client().get("/v1/models", headers=as_key(key))
    assert response.headers["X-API-Key-Expires"].endswith(" GMT")
    assert "tag-warn" not in browser.get("/account").text
    set_key_end(site, now_us() + 3 * 24 * 3600 * 1_000_000 + 60_000_000)
    assert "In 3 days" in browser.get("/account").text


def ends_of(site: Site, user: User) -> list[datetime | None]:
    return [key.expires_at for key in site.services.api_keys.list_keys(user.id)]


def test_a_key_lasts_as_long_as_was_chosen(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    day = (datetime.now(UTC) + timedelta(days=10)).date()
    for form in ({}, {"ends": "30"}, {"ends": "365"}, {"ends": "date", "end_date": day.isoformat()}):
        assert browser.post("/account/keys", label="x", scope="models", **form).status_code == 200, form
    on_date, year, month, default = ends_of(site, ada)
    assert on_date is not None
    assert on_date.date() == day
    for end, days in ((default, 90), (month, 30), (year, 365)):
        assert end is not None
        assert abs(end - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=5)


ENDLESS = [
    {"ends": "never"}, {"ends": "date", "end_date": "9999-12-31"}, {"ends": "date", "end_date": "2001-01-01"},
    {"ends": "date", "end_date": ""}, {"ends": "date", "end_date": "soon"}, {"ends": "100000"}, {"ends": "-1"},
    {"ends": "0"}, {"ends": ""}, {"ends": "1e9"}, {"ends": "99999999999999"}, {"ends": "367"},
]  # fmt: skip


@pytest.mark.parametrize("form", ENDLESS, ids=str)
def test_no_key_is_made_that_practically_never_ends(site: Site, form: dict[str, str]) -> None:
    ada = site.add_user("ada")
    assert site.browser(ada).post("/account/keys", label="x", scope="models", **form).status_code == 400
    assert ends_of(site, ada) == []


def test_a_key_without_an_end_needs_the_setting(make_site: MakeSite) -> None:
    site = make_site(endless_api_keys=True)
    ada = site.add_user("ada")
    assert site.browser(ada).post("/account/keys", label="x", scope="models", ends="never").status_code == 200
    assert ends_of(site, ada) == [None]


# Answers under way


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check access at every event, so that no test waits for half a second."""
    monkeypatch.setattr(permits, "CHECK_INTERVAL_S", 0.0)


class Endless:
    """An engine's script that writes until nobody listens; it pauses until its gate opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def __call__(self, request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        yield AnswerDelta("Half ")
        self.gate.wait(HELD_S)
        for _ in range(100_000):
            yield AnswerDelta("word ")
        yield done()


def disable(site: Site, user: User) -> None:
    site.services.accounts.disable(user.id, by=SYSTEM)


def end_the_session(site: Site, user: User) -> None:
    with site.services.record.database.write() as connection:
        connection.execute(sessions.delete().where(sessions.c.user_id == user.id))


def take_the_role(site: Site, user: User) -> None:
    site.services.accounts.set_roles(user.id, [Role.REVIEWER], by=SYSTEM, end_keys=False)


def revoke_the_key(site: Site, user: User) -> None:
    (key,) = site.services.api_keys.list_keys(user.id)
    site.services.api_keys.revoke(user.id, key.id, by=SYSTEM)


def let_the_key_end(site: Site, user: User) -> None:
    set_key_end(site, now_us() - 1)


def take_the_scope(site: Site, user: User) -> None:
    (key,) = site.services.api_keys.list_keys(user.id)
    site.services.api_keys.change(key.id, lambda now: KeyRights(frozenset({Scope.MODELS})), by=SYSTEM)


def replace_the_password(site: Site, user: User) -> None:
    site.services.accounts.set_password(user.id, NEW, by=SYSTEM)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (disable, "The account was disabled"),
        (revoke_the_key, "The API key was revoked"),
        (let_the_key_end, "The API key has ended"),
        (take_the_role, "The role that this needs was taken away"),
        (take_the_scope, "The scope that this needs was taken from the API key"),
        (replace_the_password, "The API key was revoked"),
    ],
)
def test_a_stream_of_the_api_ends_with_the_access(
    make_site: MakeSite, change: Callable[[Site, User], None], why: str
) -> None:
    script = Endless()
    site = make_site(FakeEngine(script))
    ada = site.add_user("ada")
    response = site.app.test_client().post(
        "/v1/chat/completions", json={**BODY, "stream": True}, headers=as_key(site.add_key(ada)), buffered=False
    )
    lines = (line if isinstance(line, str) else line.decode() for line in response.response)
    while "Half" not in next(lines):
        pass
    change(site, ada)
    script.gate.set()
    rest = list(lines)
    error = json.loads(rest[-1].removeprefix("data: "))["error"]
    assert (error["code"], error["message"]) == ("access_ended", f"{why}. The answer was cancelled.")
    assert len(rest) < 1000
    assert_cancelled(site, why)


@pytest.mark.usefixtures("impatient")
def test_a_whole_answer_of_the_api_is_not_given_after_the_end_of_access(make_site: MakeSite) -> None:
    script = Endless()
    site = make_site(FakeEngine(script))
    ada = site.add_user("ada")
    key = site.add_key(ada)
    answered: list[tuple[int, str]] = []

    def ask() -> None:
        response = site.app.test_client().post("/v1/chat/completions", json=BODY, headers=as_key(key))
        answered.append((response.status_code, response.json["error"]["code"]))  # type: ignore[index]

    thread = threading.Thread(target=ask)
    thread.start()
    while not site.engine.requests:  # until the turn has begun
        thread.join(0.01)
    disable(site, ada)
    script.gate.set()
    thread.join(HELD_S)
    assert answered == [(401, "access_ended")]
    assert_cancelled(site, "The account was disabled", has_begun=False)  # nobody sees when the first word arrives


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (disable, "The account was disabled"),
        (end_the_session, "The session has ended"),
        (take_the_role, "The session has ended"),
        (replace_the_password, "The session has ended"),
    ],
)
def test_an_answer_in_the_chat_ends_with_the_access(
    make_site: MakeSite, change: Callable[[Site, User], None], why: str
) -> None:
    script = Endless()
    site = make_site(FakeEngine(script))
    ada = site.add_user("ada")
    browser = site.browser(ada)
    headers = {"X-CSRF-Token": browser.token(), "Origin": "http://localhost", "Accept": "application/json"}
    made = browser.client.post("/chat", json={"text": "Hi"}, headers=headers).json
    assert made is not None
    path = f"/chat/{made['id']}/turns"
    response = browser.client.post(path, json={"text": "Hi", "effort": "low"}, headers=headers, buffered=False)
    lines = (line if isinstance(line, str) else line.decode() for line in response.response)
    while "Half" not in next(lines):
        pass
    change(site, ada)
    script.gate.set()
    end = json.loads(list(lines)[-1])
    assert end["complete"] is False
    assert "Your access ended while this was being answered." in end["html"]
    assert_cancelled(site, why)


def assert_cancelled(site: Site, why: str, *, has_begun: bool = True) -> None:
    """The answer is recorded as cancelled, with the reason and the text so far, and the engine has stopped."""
    (answer,) = [event for event in site.events() if event.header.action == "answer"]
    assert answer.header.outcome == "cancelled"
    assert answer.content is not None
    assert answer.content.text.startswith("Half ") or not (has_begun or answer.content.text)
    assert answer.content.details.values()["failure"]["message"] == f"{why}. The answer was cancelled."
    for _ in range(1000):
        if site.engine.cancelled:
            break
        threading.Event().wait(0.01)  # the engine notices when it writes
    assert len(site.engine.cancelled) == 1


def test_the_check_is_asked_at_most_twice_a_second_while_words_flow() -> None:
    now = [0.0]
    asked: list[float] = []

    def permit() -> None:
        asked.append(now[0])

    with FakeEngine() as engine:
        guarded = permits.permitted(engine.client, permit, clock_s=lambda: now[0])
        engine.script = lambda request: [AnswerDelta("x")] * 100 + [done()]
        with guarded.turn(TurnRequest(id="t", user="u", messages=(), seed=1)) as turn:
            for _ in turn:
                now[0] += 0.1
    assert 15 <= len(asked) <= 20
    assert min(b - a for a, b in itertools.pairwise(asked)) >= permits.CHECK_INTERVAL_S


def test_a_check_that_fails_ends_the_answer() -> None:
    def permit() -> str | None:
        raise DatabaseError("the disk is gone")

    with FakeEngine(lambda request: [AnswerDelta("x"), AnswerDelta("y"), done()]) as engine:
        guarded = permits.permitted(engine.client, permit, clock_s=iter(range(100)).__next__)
        with guarded.turn(TurnRequest(id="t", user="u", messages=(), seed=1)) as turn:
            last = list(turn)[-1]
    assert getattr(last, "code", None) == "access_ended"


def test_disabling_from_the_command_line_ends_a_stream_of_another_process(tmp_path: Path, gate: Gate) -> None:
    """A real gunicorn; the account is disabled through another connection, as `appliance users disable` does it."""
    write_release(tmp_path / "release", "gpt-oss-fake")
    (tmp_path / "current").symlink_to("release")
    init_state(tmp_path)
    database = open_database(f"sqlite:///{tmp_path}/state/database/appliance.sqlite3")
    log = AuditLog(database)
    accounts = Accounts(AccountStore(log))
    user = accounts.create_user("ada", None, [Role.USER], by=SYSTEM)
    _, secret = ApiKeys(database, log).create(user, "test", by=SYSTEM)
    with FakeEngine(gate.script) as engine, gunicorn(tmp_path, engine.doorbell) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {**as_key(secret), "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps({**BODY, "stream": True}), headers)
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        accounts.disable(user.id, by=SYSTEM)
        rest = response.read().decode()
        connection.close()
    assert "The account was disabled. The answer was cancelled." in rest
    assert "[DONE]" not in rest
    database.close()
