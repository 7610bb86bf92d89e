"""The library of prompts: whose they are, what is refused, and that changes of the site's are events."""

from __future__ import annotations

import pytest

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.prompts import (
    MAX_TEXT_CHARS,
    MAX_TITLE_CHARS,
    MOST,
    PromptError,
    PromptNotFoundError,
    Prompts,
)
from appliance.people.users import NoLongerAdminError, User
from tests.webui.conftest import FAST_PASSWORDS

ROOT = Actor("", "root", "cli")


@pytest.fixture
def people(log: AuditLog) -> tuple[User, User]:
    accounts = Accounts(AccountStore(log, passwords=FAST_PASSWORDS))
    ada, eve = (accounts.create_user(name, None, [Role.USER], by=ROOT) for name in ("ada", "eve"))
    return ada, eve


@pytest.fixture
def library(log: AuditLog) -> Prompts:
    return Prompts(log)


def as_actor(user: User) -> Actor:
    return Actor(user.id, user.name, "web")


def said(log: AuditLog) -> list[tuple[str, str]]:
    found = [log.get(number) for number in range(1, log.size() + 1)]
    return [
        (e.header.subject, e.content.text) for e in found if e.header.action == "shared_prompt_changed" and e.content
    ]


def test_own_prompts_are_kept_by_title_and_nobody_elses(
    log: AuditLog, library: Prompts, people: tuple[User, User]
) -> None:
    ada, eve = people
    before = log.size()
    for title in ("zebra", " An   apple ", "Mango"):
        library.add(ada.id, title, f"\n{title}\r\nline\n\n", by=as_actor(ada))
    assert [(one.title, one.text) for one in library.of(ada.id)] == [
        ("An apple", " An   apple \nline"), ("Mango", "Mango\nline"), ("zebra", "zebra\nline"),
    ]  # fmt: skip
    mango = library.of(ada.id)[1]
    library.change(ada.id, mango.id, "mango", "new", by=as_actor(ada))  # its own title in other letters
    assert library.of(eve.id) == library.of(None) == []
    with pytest.raises(PromptNotFoundError):
        library.get(eve.id, mango.id)
    with pytest.raises(PromptNotFoundError):
        library.change(eve.id, mango.id, "x", "x", by=as_actor(eve))
    with pytest.raises(PromptNotFoundError):
        library.remove(eve.id, mango.id, by=as_actor(eve))
    with pytest.raises(PromptNotFoundError):
        library.remove(None, mango.id, by=ROOT)
    assert library.get(ada.id, mango.id).text == "new"
    library.remove(ada.id, mango.id, by=as_actor(ada))
    assert [one.title for one in library.of(ada.id)] == ["An apple", "zebra"]
    assert log.size() == before  # what a person keeps for themselves is no event


def test_changes_of_the_sites_are_events_by_administrators(
    log: AuditLog, library: Prompts, people: tuple[User, User]
) -> None:
    made = library.add(None, "Summary", "Sum up {{the text}}.", by=ROOT)
    library.change(None, made.id, "Summary", "Sum it up.", by=ROOT)
    library.remove(None, made.id, by=ROOT)
    assert said(log) == [
        ("Summary", "made; Sum up {{the text}}."), ("Summary", "changed; Sum it up."), ("Summary", "removed"),
    ]  # fmt: skip
    with pytest.raises(NoLongerAdminError):
        library.add(None, "Mine", "x", by=as_actor(people[0]))
    assert library.of(None) == []


@pytest.mark.parametrize(("title", "text", "why"), [
    ("", "x", "1 to"), (" \t", "x", "1 to"), ("x" * (MAX_TITLE_CHARS + 1), "x", "1 to"), ("a\u202eb", "x", "1 to"),
    ("a", "", "empty"), ("a", " \n ", "empty"), ("a", "x" * (MAX_TEXT_CHARS + 1), "8,001 characters"),
    ("a", "x\x00", "cannot be kept"), ("TAKEN", "x", "already"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused(
    library: Prompts, people: tuple[User, User], title: str, text: str, why: str
) -> None:
    ada, _ = people
    library.add(ada.id, "taken", "x", by=as_actor(ada))
    other = library.add(ada.id, "other", "x", by=as_actor(ada))
    with pytest.raises(PromptError, match=why):
        library.add(ada.id, title, text, by=as_actor(ada))
    with pytest.raises(PromptError, match=why):
        library.change(ada.id, other.id, title, text, by=as_actor(ada))
    assert [(one.title, one.text) for one in library.of(ada.id)] == [("other", "x"), ("taken", "x")]


def test_there_are_so_many_at_most_and_an_account_takes_its_own_along(
    library: Prompts, log: AuditLog, people: tuple[User, User]
) -> None:
    ada, eve = people
    for number in range(MOST):
        library.add(ada.id, f"title {number}", "x", by=as_actor(ada))
    with pytest.raises(PromptError, match="as many"):
        library.add(ada.id, "one more", "x", by=as_actor(ada))
    library.add(eve.id, "title 0", "x", by=as_actor(eve))  # titles are each person's own
