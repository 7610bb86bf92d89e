"""Many people from a table: all or none, every bad line is named, and the rules of two administrators hold."""

from __future__ import annotations

import pytest

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.bulk import MOST_PEOPLE, BulkError, add_people, parse_people
from appliance.people.four_eyes import ALONE
from appliance.people.groups import Groups
from appliance.people.users import NoLongerAdminError
from tests.webui.conftest import FAST_PASSWORDS, PASSWORD

ROOT = Actor("", "root", "cli")


@pytest.fixture
def accounts(log: AuditLog) -> Accounts:
    return Accounts(AccountStore(log, passwords=FAST_PASSWORDS))


def faults(text: str) -> list[str]:
    with pytest.raises(BulkError) as refused:
        parse_people(text)
    return [str(fault) for fault in refused.value.faults]


@pytest.mark.parametrize(
    "text",
    [
        "ada,Ada Lovelace,user reviewer,North gate",
        "\ufeffName,Display name,Roles,Group\r\n\r\n ada , Ada Lovelace ,USER+reviewer,North  gate\r\n",
        "ada;Ada Lovelace;user reviewer;North gate\n",
        'ada,"Ada Lovelace","user reviewer",North gate',
    ],
)
def test_a_table_is_read_as_spreadsheets_write_it(text: str) -> None:
    (person,) = parse_people(text)
    assert (person.name, person.display_name, person.group) == ("ada", "Ada Lovelace", "North gate")
    assert person.roles == {Role.USER, Role.REVIEWER}


def test_what_is_left_out_is_an_ordinary_person() -> None:
    (person,) = parse_people("ada")
    assert (person.display_name, person.roles, person.group) == ("", frozenset({Role.USER}), "")


def test_every_bad_line_is_named() -> None:
    name, *others = faults("ada\nno name\nada,again\nbob,,boss\neve,,user,g,more\n")
    assert name.startswith("Line 2: A user name has 1 to 64 characters")
    assert others == [
        "Line 3: ada stands in line 1, too.",
        "Line 4: There is no role boss; the roles are user, reviewer and admin.",
        "Line 5: There are 5 columns; the columns are name, display name, roles, group.",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Line 1: There is nobody in this table."),
        ("name,display name\n", "Line 1: There is nobody in this table."),
        ('ada,"Ada', "Line 1: The line cannot be read: unexpected end of data."),
        ("\n".join(f"p{number}" for number in range(MOST_PEOPLE + 1)), "Line 501: A table has at most 500 people."),
    ],
)
def test_what_is_no_table_is_refused_in_words(text: str, said: str) -> None:
    assert faults(text) == [said]


def test_everybody_is_added_with_a_link_and_a_group(log: AuditLog, accounts: Accounts) -> None:
    north = Groups(log).create("North", by=ROOT)
    added = add_people(log, parse_people("ada,Ada L,user,North\nbob\n"), by=ROOT)
    assert [name for name, _ in added] == ["ada", "bob"]
    assert accounts.find("ada").display_name == "Ada L"
    assert Groups(log).members(north.id) == ["ada"]
    for name, token in added:
        assert accounts.redeem(token, "", PASSWORD, via="web", address="").name == name


def test_one_bad_line_keeps_everybody_out(log: AuditLog, accounts: Accounts) -> None:
    accounts.create_user("bob", PASSWORD, [Role.USER], by=ROOT)
    size = log.size()
    with pytest.raises(BulkError) as refused:
        add_people(log, parse_people("ada\nbob\neve,,,Nowhere\n"), by=ROOT)
    assert [str(fault) for fault in refused.value.faults] == [
        "Line 2: The name bob is taken.", "Line 3: There is no group Nowhere; make it first.",
    ]  # fmt: skip
    assert [user.name for user in accounts.list_users()] == ["bob"]
    assert log.size() == size


def test_a_reviewer_in_a_table_needs_the_second_administrator_as_ever(log: AuditLog, accounts: Accounts) -> None:
    one = accounts.create_user("one", PASSWORD, [Role.ADMIN], by=ROOT)
    add_people(log, parse_people("early,,reviewer"), by=one.actor("web"))  # there is no second one yet
    created = log.get(log.size() - 1)
    assert created.content is not None
    assert ALONE in created.content.text
    accounts.create_user("two", PASSWORD, [Role.ADMIN], by=ROOT)
    for role in ("reviewer", "admin", "user admin"):
        with pytest.raises(BulkError, match="one line is wrong") as refused:
            add_people(log, parse_people(f"ada\neve,,{role}"), by=one.actor("web"))
        assert "Another administrator must confirm" in str(refused.value.faults[0])
    assert [user.name for user in accounts.list_users()] == ["early", "one", "two"]


def test_only_an_administrator_adds_people(log: AuditLog, accounts: Accounts) -> None:
    ada = accounts.create_user("ada", PASSWORD, [Role.USER], by=ROOT)
    with pytest.raises(NoLongerAdminError):
        add_people(log, parse_people("eve"), by=ada.actor("web"))
