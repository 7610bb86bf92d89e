"""Groups: who is in them, that every change is an event, and that only an administrator changes them."""

from __future__ import annotations

import pytest

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.groups import MAX_GROUPS, Groups
from appliance.people.users import AccountError, NoLongerAdminError, User
from tests.webui.conftest import FAST_PASSWORDS

ROOT = Actor("", "root", "cli")


@pytest.fixture
def ada(log: AuditLog) -> User:
    return Accounts(AccountStore(log, passwords=FAST_PASSWORDS)).create_user("ada", None, [Role.USER], by=ROOT)


@pytest.fixture
def groups(log: AuditLog) -> Groups:
    return Groups(log)


def events(log: AuditLog) -> list[tuple[str, str]]:
    found = [log.get(number) for number in range(1, log.size() + 1)]
    return [(e.header.subject, e.content.text) for e in found if e.header.action == "group_changed" and e.content]


def test_a_person_is_in_exactly_the_groups_that_were_chosen(log: AuditLog, groups: Groups, ada: User) -> None:
    north, south = (groups.create(name, by=ROOT) for name in ("  North   gate ", "South"))
    assert north.name == "North gate"
    groups.set_groups_of(ada.id, [north.id, south.id], by=ROOT)
    assert [(group.name, group.members) for group in groups.of_person(ada.id)] == [("North gate", 1), ("South", 1)]
    groups.set_groups_of(ada.id, [south.id], by=ROOT)
    assert [group.name for group in groups.of_person(ada.id)] == ["South"]
    assert (groups.members(north.id), groups.members(south.id)) == ([], ["ada"])
    groups.remove(south.id, by=ROOT)
    assert groups.of_person(ada.id) == []
    assert events(log) == [
        ("North gate", "made"), ("South", "made"), *sorted([("North gate", "with ada"), ("South", "with ada")],
        key=lambda said: {"North gate": north.id, "South": south.id}[said[0]]),
        ("North gate", "without ada"), ("South", "removed"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\nb\x00", "a\u202eb"])
def test_what_is_no_name_of_a_group_is_refused(groups: Groups, name: str) -> None:
    with pytest.raises(AccountError, match="The name of a group has 1 to 64 printable characters"):
        groups.create(name, by=ROOT)
    assert groups.list_groups() == []


def test_two_groups_never_have_one_name_and_there_is_a_most(groups: Groups) -> None:
    for number in range(MAX_GROUPS):
        groups.create(f"g{number}", by=ROOT)
    with pytest.raises(AccountError, match="There is a group g7 already"):
        groups.create("g7", by=ROOT)
    with pytest.raises(AccountError, match="as many as there can be"):
        groups.create("one more", by=ROOT)


def test_a_group_that_is_not_there_changes_nothing(log: AuditLog, groups: Groups, ada: User) -> None:
    north = groups.create("North", by=ROOT)
    with pytest.raises(AccountError, match="no such group"):
        groups.set_groups_of(ada.id, [north.id, "0000"], by=ROOT)
    assert groups.of_person(ada.id) == []
    assert events(log) == [("North", "made")]


def test_only_an_administrator_changes_groups(groups: Groups, ada: User) -> None:
    by = ada.actor("web")
    with pytest.raises(NoLongerAdminError):
        groups.create("North", by=by)
    north = groups.create("North", by=ROOT)
    with pytest.raises(NoLongerAdminError):
        groups.set_groups_of(ada.id, [north.id], by=by)
    with pytest.raises(NoLongerAdminError):
        groups.remove(north.id, by=by)
    assert groups.members(north.id) == []
