"""What administrators see of people and end: the list, sessions, keys and links."""

from __future__ import annotations

import pytest

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.tables import users
from appliance.database.transactions import Database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, LinkError, Role
from appliance.people.api_keys import ApiKeys, KeyRefusedError
from appliance.people.directory import PAGE_PEOPLE, Search, find_people, find_person
from appliance.people.groups import Groups
from appliance.people.oversight import Oversight
from appliance.people.sessions import Sessions
from appliance.people.users import AccountError, NoLongerAdminError
from tests.webui.conftest import FAST_PASSWORDS, PASSWORD

ROOT = Actor("", "root", "cli")


@pytest.fixture
def accounts(log: AuditLog) -> Accounts:
    return Accounts(AccountStore(log, passwords=FAST_PASSWORDS))


def newest(log: AuditLog) -> tuple[str, str, str]:
    event = log.get(log.size())
    return event.header.action, event.header.subject, event.content.text if event.content else ""


def test_an_administrator_ends_one_session_or_all(database: Database, log: AuditLog, accounts: Accounts) -> None:
    sessions = Sessions(database, log)
    ada, bob = (accounts.create_user(name, PASSWORD, [Role.USER], by=ROOT) for name in ("ada", "bob"))
    tokens = [sessions.create(ada, address=f"10.0.0.{number}") for number in range(3)]
    of_bob = sessions.create(bob, address="10.0.0.9")
    second = next(s for s in sessions.list_sessions(ada.id, own_token="") if s.address == "10.0.0.1")
    assert Oversight(log).end_sessions(bob.id, second.id, by=ROOT) == 0  # it is not bob's
    assert Oversight(log).end_sessions(ada.id, "no id", by=ROOT) == 0
    assert Oversight(log).end_sessions(ada.id, second.id, by=ROOT) == 1
    assert newest(log) == ("session_ended", "ada", "one session")
    assert [sessions.user(token) is None for token in tokens] == [False, True, False]
    assert Oversight(log).end_sessions(ada.id, by=ROOT) == 2
    assert newest(log) == ("session_ended", "ada", "2 sessions")
    assert [sessions.user(token) for token in tokens] == [None] * 3
    assert sessions.user(of_bob) == bob


def test_the_name_of_a_session_opens_nothing(database: Database, log: AuditLog, accounts: Accounts) -> None:
    sessions = Sessions(database, log)
    ada = accounts.create_user("ada", PASSWORD, [Role.USER], by=ROOT)
    sessions.create(ada, address="")
    (session,) = sessions.list_sessions(ada.id, own_token="")
    assert sessions.user(session.id) is None


def test_a_revoked_key_opens_nothing_and_is_one_event(database: Database, log: AuditLog, accounts: Accounts) -> None:
    ada, bob = (accounts.create_user(name, PASSWORD, [Role.USER], by=ROOT) for name in ("ada", "bob"))
    key, secret = ApiKeys(database, log).create(ada, "script", by=ROOT)
    with pytest.raises(AccountError, match="no such API key"):
        Oversight(log).revoke_key(bob.id, key.id, by=ROOT)
    Oversight(log).revoke_key(ada.id, key.id, by=ROOT)
    assert newest(log) == ("api_key_revoked", "ada/script", "by an administrator")
    size = log.size()
    Oversight(log).revoke_key(ada.id, key.id, by=ROOT)
    assert log.size() == size
    with pytest.raises(KeyRefusedError):
        ApiKeys(database, log).authenticate(secret)


def test_a_withdrawn_link_opens_nothing_and_says_so(log: AuditLog, accounts: Accounts) -> None:
    ada = accounts.create_user("ada", None, [Role.USER], by=ROOT)
    bob = accounts.create_user("bob", PASSWORD, [Role.USER], by=ROOT)
    token, other = (accounts.make_reset_link(user.id, by=ROOT) for user in (ada, bob))
    links = Oversight(log).open_links()
    assert {(link.name, link.is_invitation) for link in links} == {("ada", True), ("bob", False)}
    (link,) = Oversight(log).open_links(ada.id)
    with pytest.raises(LinkError, match="no such link"):
        accounts.link_user(link.id)  # what names a link is not the link
    assert Oversight(log).withdraw(link.id, by=ROOT) == "ada"
    assert newest(log) == ("link_withdrawn", "ada", "")
    with pytest.raises(LinkError, match="An administrator withdrew this link"):
        accounts.redeem(token, "ada", PASSWORD, via="web", address="")
    assert accounts.link_user(other) == bob
    with pytest.raises(AccountError, match="ended already"):
        Oversight(log).withdraw(link.id, by=ROOT)


def test_only_an_administrator_ends_access(database: Database, log: AuditLog, accounts: Accounts) -> None:
    ada = accounts.create_user("ada", PASSWORD, [Role.USER], by=ROOT)
    token = Sessions(database, log).create(ada, address="")
    key, _ = ApiKeys(database, log).create(ada, "script", by=ROOT)
    accounts.make_reset_link(ada.id, by=ROOT)
    (link,) = Oversight(log).open_links()
    oversight, by = Oversight(log), ada.actor("web")
    for attempt in (
        lambda: oversight.end_sessions(ada.id, by=by),
        lambda: oversight.revoke_key(ada.id, key.id, by=by),
        lambda: oversight.withdraw(link.id, by=by),
    ):
        with pytest.raises(NoLongerAdminError):
            attempt()
    assert Sessions(database, log).user(token) == ada
    assert Oversight(log).open_links() == [link]


def test_the_list_is_searched_by_name_role_group_and_state(
    database: Database, log: AuditLog, accounts: Accounts
) -> None:
    ada = accounts.create_user("ada", PASSWORD, [Role.USER], by=ROOT, display_name="Ada 100% Lovelace")
    accounts.create_user("grace", None, [Role.USER, Role.REVIEWER], by=ROOT)
    gone = accounts.create_user("gone_away", PASSWORD, [Role.USER], by=ROOT)
    accounts.create_user("root", PASSWORD, [Role.ADMIN], by=ROOT)
    accounts.disable(gone.id, by=ROOT)
    north = Groups(log).create("North", by=ROOT)
    Groups(log).set_groups_of(ada.id, [north.id], by=ROOT)

    def names(search: Search) -> list[str]:
        return [person.user.name for person in find_people(database, search).people]

    assert names(Search()) == ["ada", "gone_away", "grace", "root"]
    assert names(Search(text="LOVE")) == ["ada"]
    assert names(Search(text="%")) == ["ada"]  # not "anything"
    assert names(Search(text="_")) == ["gone_away"]
    assert names(Search(role=Role.REVIEWER)) == ["grace"]
    assert names(Search(role=Role.USER)) == ["ada", "gone_away", "grace"]
    assert names(Search(group_id=north.id)) == ["ada"]
    assert names(Search(state="invited")) == ["grace"]
    assert names(Search(state="disabled")) == ["gone_away"]
    assert names(Search(state="active")) == ["ada", "root"]
    assert names(Search(text="a", role=Role.USER, state="active")) == ["ada"]


def test_the_list_has_pages_and_the_last_stands_for_those_after_it(database: Database) -> None:
    with database.write() as connection:
        for number in range(2 * PAGE_PEOPLE + 1):
            values = {"id": f"{number:03}", "name": f"p{number:03}", "display_name": "", "roles": "user"}
            connection.execute(users.insert().values(**values, disabled=False, created_us=0))
    pages = [find_people(database, Search(page=page)) for page in (1, 2, 3, 99, 0)]
    assert [(found.page, found.pages, found.total, len(found.people)) for found in pages] == [
        (1, 3, 101, 50), (2, 3, 101, 50), (3, 3, 101, 1), (3, 3, 101, 1), (1, 3, 101, 50),
    ]  # fmt: skip
    assert pages[1].people[0].user.name == "p050"


def test_the_list_says_when_somebody_last_signed_in(database: Database, log: AuditLog, accounts: Accounts) -> None:
    ada = accounts.create_user("ada", PASSWORD, [Role.USER], by=ROOT)
    found = find_person(database, ada.id)
    assert found is not None
    assert (found.signed_in_at, found.has_password) == (None, True)
    clock = [1_790_000_000_000_000]
    sessions = Sessions(database, log, clock_us=lambda: clock[0])
    sessions.create(ada, address="")
    clock[0] += 5_000_000
    sessions.create(ada, address="")
    found = find_person(database, ada.id)
    assert found is not None
    assert found.signed_in_at is not None
    assert found.signed_in_at.timestamp() == 1_790_000_005
    assert find_person(database, "nobody") is None
