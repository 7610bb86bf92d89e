"""Accounts, sessions, keys and links: what each lets in and refuses, and that all of it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import argon2
import pytest
import sqlalchemy as sa

from appliance.audit.event import Actor, Content
from appliance.audit.log import AuditLog, RecordError
from appliance.database.tables import api_keys, links, sessions, users
from appliance.database.transactions import Database, DatabaseError
from appliance.people.account_store import AccountStore
from appliance.people.accounts import (
    ALL_ROLES,
    LINK_LIFETIME_S,
    AccountError,
    Accounts,
    LinkError,
    Role,
    User,
    UserNotFoundError,
)
from appliance.people.api_keys import DEFAULT_DAYS, ApiKeys, KeyRefusedError
from appliance.people.approvals import LIFETIME_S, Approvals
from appliance.people.four_eyes import Change, SecondNeededError
from appliance.people.passwords import PasswordRuleError, Passwords, check_password
from appliance.people.sessions import LONGEST_SESSION_S, Sessions
from appliance.people.sign_in import SignIn, SignInError
from appliance.people.sign_in_limits import PAIR
from tests.appliance.records import Clock

SYSTEM = Actor("", "appliance", "system")
ROOT = Actor("", "root", "cli")
PASSWORD = "correct horse battery"
SECOND_US = 1_000_000


@dataclass
class House:
    database: Database
    log: AuditLog
    clock: Clock
    accounts: Accounts
    signing_in: SignIn
    sessions: Sessions
    keys: ApiKeys

    def add(self, name: str = "ada", *roles: Role) -> User:
        return self.accounts.create_user(name, PASSWORD, roles or {Role.USER}, by=SYSTEM)

    def sign_in(self, name: str = "ada", password: str = PASSWORD, address: str = "10.0.0.2") -> User:
        return self.signing_in.authenticate(name, password, via="web", address=address)

    def last(self) -> tuple[str, str, str, str]:
        header = self.log.get(self.log.size()).header
        return header.actor.name, header.action, header.outcome, header.subject


@pytest.fixture
def house(database: Database, log: AuditLog) -> House:
    clock = Clock()
    passwords = Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    store = AccountStore(log, passwords=passwords, clock_us=clock)
    return House(
        database, log, clock,
        Accounts(store),
        SignIn(store),
        Sessions(database, log, idle_s=3600, clock_us=clock),
        ApiKeys(database, log, clock_us=clock),
    )  # fmt: skip


def stored_bytes(database: Database, *tables: sa.Table) -> str:
    with database.read() as connection:
        return str([tuple(row) for table in tables for row in connection.execute(sa.select(table))])


# Users


def test_created_user_can_be_found_by_id_and_name_in_any_case(house: House) -> None:
    ada = house.accounts.create_user(" ada ", PASSWORD, {Role.USER, Role.REVIEWER}, by=ROOT, display_name="Ada  L.")
    assert (ada.name, ada.display_name, set(ada.roles)) == ("ada", "Ada L.", {Role.USER, Role.REVIEWER})
    assert house.accounts.get(ada.id) == house.accounts.find("ADA") == ada
    assert house.accounts.list_users() == [ada]
    assert house.last() == ("root", "user_created", "ok", "ada")


@pytest.mark.parametrize("name", ["", " ", "-ada", "a b", "ada\n2", "a" * 65, "ädä", "ada/../x", "nul\0", "Ada"])
def test_what_is_no_user_name_is_refused(house: House, name: str) -> None:
    with pytest.raises(AccountError, match="user name"):
        house.accounts.create_user(name, PASSWORD, {Role.USER}, by=ROOT)
    assert house.log.size() == 0


def test_name_can_be_taken_once(house: House) -> None:
    house.add()
    with pytest.raises(AccountError, match="taken"):
        house.add("ada")
    assert (len(house.accounts.list_users()), house.log.size()) == (1, 1)


def test_a_role_of_no_release_is_said_by_whichever_database_holds_it(house: House) -> None:
    """SQLite has a number for each row, so it lists the others. PostgreSQL has none and refuses the list."""
    house.add()
    with house.database.write() as connection:
        connection.execute(users.update().values(roles="emperor"))
    words = "a role that this release does not know"
    if house.database.is_sqlite:
        (damaged,) = house.accounts.list_users().damaged
        assert words in str(damaged)
    else:
        with pytest.raises(DatabaseError, match=words):
            house.accounts.list_users()


def test_account_needs_a_role(house: House) -> None:
    with pytest.raises(AccountError, match="role"):
        house.accounts.create_user("ada", PASSWORD, [], by=ROOT)


def test_unknown_user_is_said_to_be_unknown(house: House) -> None:
    with pytest.raises(UserNotFoundError):
        house.accounts.find("nobody")
    with pytest.raises(UserNotFoundError):
        house.accounts.disable("no such id", by=ROOT)


def test_roles_change_at_once_and_are_recorded(house: House) -> None:
    ada = house.add()
    token = house.sessions.create(ada, address="x")
    assert house.accounts.set_roles(ada.id, {Role.REVIEWER}, by=ROOT).roles == {Role.REVIEWER}
    assert house.sessions.user(token) is None
    assert house.last() == ("root", "roles_changed", "ok", "ada")
    event = house.log.get(house.log.size())
    assert event.content == Content("user -> reviewer")


@pytest.mark.parametrize(
    "change",
    [
        lambda house, user: house.accounts.disable(user.id, by=ROOT),
        lambda house, user: house.accounts.set_roles(user.id, {Role.USER}, by=ROOT),
    ],
)
def test_last_administrator_cannot_be_lost(house: House, change: Callable[[House, User], None]) -> None:
    ada = house.add("ada", Role.ADMIN)
    other = house.add("bob", Role.ADMIN)
    house.accounts.disable(other.id, by=ROOT)
    with pytest.raises(AccountError, match="last administrator"):
        change(house, ada)
    house.accounts.enable(other.id, by=SYSTEM)
    change(house, ada)


def test_account_change_that_cannot_be_recorded_does_not_happen(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = house.add()
    token = house.sessions.create(ada, address="x")
    monkeypatch.setattr(house.log, "damage", "for this test")
    for change in (
        lambda: house.add("bob"),
        lambda: house.accounts.disable(ada.id, by=ROOT),
        lambda: house.accounts.set_password(ada.id, "another good password", by=ROOT),
        lambda: house.keys.create(ada, "laptop", by=ROOT),
        lambda: house.sign_in(),
    ):
        with pytest.raises(RecordError):
            change()
    monkeypatch.undo()
    assert [user.name for user in house.accounts.list_users()] == ["ada"]
    assert house.sessions.user(token) == ada
    assert house.keys.list_keys(ada.id) == []
    assert house.sign_in() == ada


# Passwords


@pytest.mark.parametrize(
    "password",
    ["", "short", "elevenchars", "x" * 1025, "aaaaaaaaaaaaaa", "abababababab", "Password1234", "qwertyuiop12",
     "passw0rd!2026", "christopher1", "1-Christopher", "123456789012"],
)  # fmt: skip
def test_weak_password_is_refused(password: str) -> None:
    with pytest.raises(PasswordRuleError):
        check_password(password, name="christopher")


@pytest.mark.parametrize("password", [PASSWORD, "christopher likes long walks", "ünïcödé påsswörd", "Tr0ub4dor&3xyz"])
def test_good_password_is_accepted(password: str) -> None:
    check_password(password, name="christopher")


def test_password_is_kept_as_argon2id_alone(house: House) -> None:
    house.add()
    kept = stored_bytes(house.database, users)
    assert "$argon2id$" in kept
    assert PASSWORD not in kept


def test_default_cost_is_above_what_owasp_asks_for() -> None:
    assert "$argon2id$v=19$m=65536,t=3,p=1$" in Passwords().hash("x")


def test_hash_of_other_parameters_is_renewed_at_sign_in(house: House) -> None:
    ada = house.add()
    old = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    with house.database.write() as connection:
        connection.execute(users.update().values(password_hash=old))
    house.sign_in()
    assert old not in stored_bytes(house.database, users)
    assert house.sign_in() == ada


def test_new_password_replaces_the_old_and_ends_sessions(house: House) -> None:
    ada = house.add()
    token = house.sessions.create(ada, address="x")
    house.accounts.set_password(ada.id, "another good password", by=ROOT)
    assert house.last() == ("root", "password_changed", "ok", "ada")
    assert house.sessions.user(token) is None
    with pytest.raises(SignInError):
        house.sign_in()
    assert house.sign_in(password="another good password") == ada


# Signing in


def test_sign_in_is_recorded_with_who_and_where(house: House) -> None:
    ada = house.add()
    assert house.sign_in("ADA ") == ada
    header = house.log.get(house.log.size()).header
    assert (header.action, header.outcome, header.actor) == ("sign_in", "ok", Actor(ada.id, "ada", "web", "10.0.0.2"))


@pytest.mark.parametrize(
    ("name", "password", "reason"),
    [("ada", "wrong", "wrong name or password"), ("nobody", PASSWORD, "wrong name or password"),
     ("gone", PASSWORD, "disabled account"), ("nameless", "", "wrong name or password"),
     ("x" * 5000, PASSWORD, "wrong name or password"), ("nul\0", "\0\ud800", "wrong name or password")],
)  # fmt: skip
def test_every_failure_looks_the_same_and_is_recorded(house: House, name: str, password: str, reason: str) -> None:
    house.add()
    house.accounts.disable(house.add("gone").id, by=ROOT)
    house.accounts.create_user("nameless", None, {Role.USER}, by=ROOT)
    with pytest.raises(SignInError) as caught:
        house.sign_in(name, password)
    assert (str(caught.value), caught.value.retry_after_s) == ("The name or the password is wrong.", 0)
    event = house.log.get(house.log.size())
    assert (event.header.action, event.header.outcome) == ("sign_in", "denied")
    assert event.content == Content(reason)
    assert len(event.header.actor.name) <= 64


def test_unknown_name_takes_a_hash_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str | None] = []
    is_right = Passwords.is_right

    def counted(self: Passwords, password: str, encoded: str | None) -> bool:
        checked.append(encoded)
        return is_right(self, password, encoded)

    monkeypatch.setattr(Passwords, "is_right", counted)
    with pytest.raises(SignInError):
        house.sign_in("nobody")
    assert checked == [None]


def test_guessing_is_slowed_then_possible_again(house: House) -> None:
    ada = house.add()
    for _ in range(PAIR.burst):
        with pytest.raises(SignInError) as caught:
            house.sign_in(password="wrong")
        assert caught.value.retry_after_s == 0
    with pytest.raises(SignInError) as caught:
        house.sign_in()  # even the right one
    assert caught.value.retry_after_s == pytest.approx(PAIR.every_s)
    assert house.last() == ("ada", "sign_in", "denied", "ada")
    assert house.log.get(house.log.size()).content == Content("too many attempts")
    house.clock.wait(PAIR.every_s)
    with pytest.raises(SignInError) as caught:
        house.sign_in(password="wrong")
    assert caught.value.retry_after_s == 0
    house.clock.wait(PAIR.every_s)
    assert house.sign_in() == ada
    for _ in range(PAIR.burst):  # success has filled the allowance again
        with pytest.raises(SignInError) as caught:
            house.sign_in(password="wrong")
        assert caught.value.retry_after_s == 0


# Sessions


def test_session_belongs_to_its_user_until_it_ends(house: House) -> None:
    ada = house.add()
    token = house.sessions.create(ada, address="10.0.0.2")
    assert house.sessions.user(token) == ada
    assert house.sessions.user(token + "x") is None
    house.sessions.end(token, by=ada.actor("web"))
    assert house.sessions.user(token) is None
    assert house.last() == ("ada", "sign_out", "ok", "ada")
    size = house.log.size()
    house.sessions.end(token, by=ada.actor("web"))
    assert house.log.size() == size


def test_session_ends_when_idle_and_lives_on_when_used(house: House) -> None:
    token = house.sessions.create(house.add(), address="x")
    for _ in range(3):
        house.clock.wait(3500)
        assert house.sessions.user(token) is not None
    house.clock.wait(3601)
    assert house.sessions.user(token) is None


def test_session_ends_for_good_after_a_week(house: House) -> None:
    token = house.sessions.create(house.add(), address="x")
    for _ in range(LONGEST_SESSION_S // 3500):
        house.clock.wait(3500)
        assert house.sessions.user(token) is not None
    house.clock.wait(3500)
    assert house.sessions.user(token) is None


def test_disabled_user_has_no_session_and_no_key(house: House) -> None:
    ada = house.add()
    token = house.sessions.create(ada, address="x")
    _, secret = house.keys.create(ada, "laptop", by=ROOT)
    house.accounts.disable(ada.id, by=ROOT)
    assert (house.sessions.user(token), house.keys.user(secret)) == (None, None)
    house.accounts.enable(ada.id, by=ROOT)
    assert house.sessions.user(token) is None  # it was ended, not hidden
    assert house.keys.user(secret) is not None


def test_all_other_sessions_of_a_user_can_be_ended(house: House) -> None:
    ada, bob = house.add(), house.add("bob")
    own, *others = [house.sessions.create(ada, address=f"10.0.0.{n}") for n in range(3)]
    of_bob = house.sessions.create(bob, address="x")
    listed = house.sessions.list_sessions(ada.id, own_token=own)
    assert sorted((one.address, one.is_own) for one in listed) == [
        ("10.0.0.0", True), ("10.0.0.1", False), ("10.0.0.2", False),
    ]  # fmt: skip
    assert house.sessions.end_others(ada, own_token=own, by=ada.actor("web")) == 2
    assert house.last() == ("ada", "sign_out", "ok", "ada")
    assert [house.sessions.user(token) for token in (own, *others, of_bob)] == [ada, None, None, bob]
    size = house.log.size()
    assert house.sessions.end_others(ada, own_token=own, by=ada.actor("web")) == 0
    assert house.log.size() == size


# API keys


def test_key_acts_for_its_user_until_revoked(house: House) -> None:
    ada = house.add()
    key, secret = house.keys.create(ada, "  my\nlaptop ", by=ada.actor("web"))
    assert secret.startswith("gpo_")
    assert (key.label, key.used_at) == ("my laptop", None)
    assert house.last() == ("ada", "api_key_created", "ok", "ada/my laptop")
    assert house.keys.user(secret) == ada
    (listed,) = house.keys.list_keys(ada.id)
    assert listed.used_at is not None
    house.keys.revoke(ada.id, key.id, by=ada.actor("web"))
    assert house.keys.user(secret) is None
    assert house.keys.list_keys(ada.id)[0].revoked_at is not None
    assert house.last() == ("ada", "api_key_revoked", "ok", "ada/my laptop")


def test_key_of_somebody_else_cannot_be_revoked(house: House) -> None:
    ada, bob = house.add(), house.add("bob")
    key, secret = house.keys.create(ada, "laptop", by=ROOT)
    with pytest.raises(AccountError):
        house.keys.revoke(bob.id, key.id, by=ROOT)
    assert house.keys.user(secret) == ada


@pytest.mark.parametrize("label", ["", "  ", "x" * 101])
def test_key_needs_a_label(house: House, label: str) -> None:
    ada = house.add()
    with pytest.raises(AccountError, match="label"):
        house.keys.create(ada, label, by=ROOT)


@pytest.mark.parametrize("secret", ["", "gpo_", "gpo_wrong", "\0", "\ud800"])
def test_wrong_secret_is_nobody(house: House, secret: str) -> None:
    house.keys.create(house.add(), "laptop", by=ROOT)
    assert house.keys.user(secret) is None
    assert house.sessions.user(secret) is None


def test_secrets_are_kept_as_hashes_alone(house: House) -> None:
    ada = house.add()
    _, secret = house.keys.create(ada, "laptop", by=ROOT)
    link = house.accounts.make_reset_link(ada.id, by=ROOT)
    tokens = [house.sessions.create(ada, address="x"), link, secret]
    kept = stored_bytes(house.database, sessions, api_keys, links, users)
    assert not any(token in kept for token in tokens)


# One-time links


def test_first_link_makes_the_first_administrator_with_the_roles_it_names(house: House) -> None:
    token = house.accounts.make_first_admin_link()
    assert token is not None
    assert house.log.get(1).content == Content("a new account with the roles admin,reviewer,user")
    assert house.accounts.link_user(token) is None
    user = house.accounts.redeem(token, "root", PASSWORD, via="web", address="10.0.0.1", display_name="The admin")
    assert (user.name, user.roles) == ("root", ALL_ROLES)
    assert house.log.get(2).content == Content("admin,reviewer,user")
    assert house.sign_in("root") == user
    assert house.accounts.make_first_admin_link() is None


def test_newer_first_link_ends_the_older(house: House) -> None:
    old, new = house.accounts.make_first_admin_link(), house.accounts.make_first_admin_link()
    assert old is not None
    assert new is not None
    with pytest.raises(LinkError):
        house.accounts.link_user(old)
    house.accounts.redeem(new, "root", PASSWORD, via="web", address="x")


def test_first_link_is_worthless_once_an_administrator_exists(house: House) -> None:
    token = house.accounts.make_first_admin_link()
    assert token is not None
    house.add("root", Role.ADMIN)
    with pytest.raises(LinkError):
        house.accounts.redeem(token, "eve", PASSWORD, via="web", address="x")
    assert [user.name for user in house.accounts.list_users()] == ["root"]


def test_link_works_once_and_survives_a_refused_try(house: House) -> None:
    house.add("taken")
    token = house.accounts.make_first_admin_link()
    assert token is not None
    with pytest.raises(PasswordRuleError):
        house.accounts.redeem(token, "rita", "weak", via="web", address="x")
    for name, why in (("no name", "begins with a letter"), ("taken", "is taken"), ("Rita", "choose rita instead")):
        with pytest.raises(AccountError, match=why):
            house.accounts.redeem(token, name, PASSWORD, via="web", address="x")
    assert house.accounts.redeem(token, "rita", PASSWORD, via="web", address="x").roles == ALL_ROLES
    with pytest.raises(LinkError) as caught:
        house.accounts.redeem(token, "rita2", PASSWORD, via="web", address="x")
    assert caught.value.why == "used"


def test_link_expires(house: House) -> None:
    token = house.accounts.make_reset_link(house.add().id, by=ROOT)
    house.clock.wait(LINK_LIFETIME_S + 1)
    with pytest.raises(LinkError, match="expired"):
        house.accounts.redeem(token, "ada", PASSWORD, via="web", address="x")


def test_reset_link_sets_the_password_of_its_user_alone(house: House) -> None:
    ada = house.add()
    session = house.sessions.create(ada, address="x")
    token = house.accounts.make_reset_link(ada.id, by=ROOT)
    assert house.accounts.link_user(token) == ada
    assert house.accounts.redeem(token, "eve", "another good password", via="web", address="x") == ada
    assert house.last() == ("ada", "password_changed", "ok", "ada")
    assert house.sessions.user(session) is None
    assert house.sign_in(password="another good password") == ada
    assert len(house.accounts.list_users()) == 1


@pytest.mark.parametrize("token", ["", "wrong", "\ud800"])
def test_unknown_link_is_refused(house: House, token: str) -> None:
    with pytest.raises(LinkError):
        house.accounts.link_user(token)


# Two administrators (the attacks are in tests/attacks/test_accounts_four_eyes.py)


def test_a_change_that_needs_two_is_asked_for_confirmed_and_recorded(house: House) -> None:
    approvals = Approvals(AccountStore(house.log, clock_us=house.clock))
    root, trent, ada = house.add("root", Role.ADMIN), house.add("trent", Role.ADMIN), house.add()
    with pytest.raises(SecondNeededError) as caught:
        house.accounts.set_roles(ada.id, {Role.REVIEWER}, by=root.actor("web"))
    request = approvals.ask(caught.value.change, by=root.actor("web"))
    assert house.last() == ("root", "approval_requested", "ok", "ada")
    assert approvals.open_requests() == [request]
    assert [(one.admin.name, one.why_not) for one in approvals.seconds(request)] == [
        ("root", "root asked for it"), ("trent", None),
    ]  # fmt: skip
    approvals.confirm(request.id, by=trent.actor("web"))
    assert house.accounts.get(ada.id).roles == {Role.REVIEWER}
    assert house.last() == ("trent", "roles_changed", "ok", "ada")
    assert approvals.open_requests() == []


def test_a_request_that_nobody_decides_expires(house: House) -> None:
    approvals = Approvals(AccountStore(house.log, clock_us=house.clock))
    root, ada = house.add("root", Role.ADMIN), house.add()
    house.add("trent", Role.ADMIN)
    approvals.ask(Change("roles", ada.id, "ada", ada.roles, frozenset({Role.ADMIN})), by=root.actor("web"))
    house.clock.wait(LIFETIME_S + 1)
    assert approvals.open_requests() == []
    assert house.last() == ("appliance", "approval_expired", "ok", "ada")
    size = house.log.size()
    assert approvals.open_requests() == []
    assert house.log.size() == size


def test_a_key_ends_at_its_time(house: House) -> None:
    _, secret = house.keys.create(house.add(), "laptop", by=ROOT)
    house.clock.wait(DEFAULT_DAYS * 24 * 3600 - 1)
    assert house.keys.user(secret) is not None
    house.clock.wait(1)
    with pytest.raises(KeyRefusedError) as caught:
        house.keys.authenticate(secret)
    assert caught.value.why == "expired"


def test_one_person_has_so_many_keys_and_no_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.people.api_keys.MAX_KEYS", 2)
    ada = house.add()
    first, _ = house.keys.create(ada, "1", by=ROOT)
    house.keys.create(ada, "2", by=ROOT)
    with pytest.raises(AccountError, match="ada has 2 API keys"):
        house.keys.create(ada, "3", by=ROOT)
    house.keys.revoke(ada.id, first.id, by=ROOT)
    house.keys.create(ada, "3", by=ROOT)
