"""An administrator wants to read what people ask and has no accomplice: ways around the second pair of eyes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from appliance.audit.event import Actor
from appliance.database.tables import approvals as approvals_table
from appliance.database.tables import links, users
from appliance.database.transactions import now_us
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Role, User
from appliance.people.approvals import LIFETIME_S, Approvals, Request
from appliance.people.four_eyes import Change, SecondNeededError
from appliance.people.users import AccountError
from tests.webui.conftest import FAST_PASSWORDS, PASSWORD, SYSTEM, Browser, Site

NEW = "another quite long phrase"
DAY_US = 24 * 3600 * 1_000_000


class Office:
    """Two administrators, made on the command line, and ada, who chats."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.mallory, self.trent = site.add_user("mallory", Role.ADMIN), site.add_user("trent", Role.ADMIN)
        self.ada = site.add_user("ada")
        self.browser = site.browser(self.mallory)

    @property
    def by(self) -> Actor:
        return self.mallory.actor("web", "10.0.0.9")

    def other(self) -> Browser:
        return self.site.browser(self.trent)

    def user(self, name: str) -> User:
        return self.site.services.accounts.find(name)

    def names(self) -> set[str]:
        return {user.name for user in self.site.services.accounts.list_users()}

    def open_requests(self) -> list[Request]:
        return self.site.services.approvals.open_requests()

    def request_id(self) -> str:
        (request,) = self.open_requests()
        return request.id

    def actions(self) -> list[str]:
        return [event.header.action for event in self.site.events()]

    def later(self, days: float) -> None:
        """Make everything in the database so many days older."""
        with self.site.services.record.database.write() as connection:
            past = int(days * DAY_US)
            connection.execute(users.update().values(admin_ended_us=users.c.admin_ended_us - past))
            connection.execute(approvals_table.update().values(created_us=approvals_table.c.created_us - past))


@pytest.fixture
def office(site: Site) -> Office:
    return Office(site)


def roles(*given: Role) -> dict[str, str]:
    return {role.value: "yes" for role in given}


def confirm(browser: Browser, request_id: str) -> int:
    return browser.post(f"/admin/requests/{request_id}/confirm", confirmed="yes").status_code


def link_in(page: str) -> str:
    found = re.search(r"data-new-link>[^<]*(/welcome/[^<]+)<", page)
    assert found is not None, page
    return found[1]


def take_over(site: Site, link: str) -> Browser:
    """Use a one-time link oneself."""
    browser = site.browser()
    assert browser.post(link, name="x", password=NEW, password_again=NEW).status_code == 303
    return browser


# What nobody does alone


def become_reviewer(office: Office) -> None:
    form = roles(Role.ADMIN, Role.REVIEWER)
    office.browser.post(f"/admin/users/{office.mallory.id}/roles", confirmed="yes", **form)


def make_a_reviewer_of_a_user(office: Office) -> None:
    office.browser.post(f"/admin/users/{office.ada.id}/roles", confirmed="yes", **roles(Role.USER, Role.REVIEWER))


def make_an_administrator_of_a_user(office: Office) -> None:
    office.browser.post(f"/admin/users/{office.ada.id}/roles", confirmed="yes", **roles(Role.USER, Role.ADMIN))


def add_a_reviewer(office: Office) -> None:
    assert "data-new-link" not in office.browser.post("/admin/users", name="puppet", **roles(Role.REVIEWER)).text


def add_an_administrator(office: Office) -> None:
    assert "data-new-link" not in office.browser.post("/admin/users", name="puppet", **roles(*Role)).text


def take_the_other_administrator_over(office: Office) -> None:
    page = office.browser.post(f"/admin/users/{office.trent.id}/link", confirmed="yes").text
    assert "data-new-link" not in page


@pytest.mark.parametrize(
    "attempt",
    [become_reviewer, make_a_reviewer_of_a_user, make_an_administrator_of_a_user, add_a_reviewer, add_an_administrator,
     take_the_other_administrator_over],
)  # fmt: skip
def test_one_administrator_alone_only_asks(office: Office, attempt: Callable[[Office], None]) -> None:
    before = office.site.services.accounts.list_users()
    attempt(office)
    assert office.site.services.accounts.list_users() == before
    with office.site.services.record.database.read() as connection:
        assert connection.execute(links.select()).first() is None
    assert office.actions()[-1] == "approval_requested"
    (request,) = office.open_requests()
    assert (request.requester, request.state) == ("mallory", "pending")
    assert request.change.subject in office.browser.get("/admin").text
    assert "Confirm</button>" not in office.browser.get("/admin").text


@pytest.mark.parametrize("role", [Role.REVIEWER, Role.ADMIN])
def test_a_link_for_or_enabling_of_whoever_has_such_a_role_needs_two(office: Office, role: Role) -> None:
    rex = office.site.add_user("rex", role)
    accounts = office.site.services.accounts
    with pytest.raises(SecondNeededError):
        accounts.make_reset_link(rex.id, by=office.by)
    accounts.disable(rex.id, by=office.by)
    with pytest.raises(SecondNeededError):
        accounts.enable(rex.id, by=office.by)
    with pytest.raises(SecondNeededError):
        accounts.create_user("new", None, [Role.USER, role], by=office.by)
    with pytest.raises(SecondNeededError):
        accounts.set_roles(office.ada.id, [role], by=office.by)


def test_what_is_ordinary_needs_nobody(office: Office) -> None:
    accounts = office.site.services.accounts
    bob = accounts.create_user("bob", None, [Role.USER], by=office.by)
    accounts.make_reset_link(bob.id, by=office.by)
    accounts.disable(bob.id, by=office.by)
    accounts.enable(bob.id, by=office.by)
    accounts.make_reset_link(office.mallory.id, by=office.by)  # one's own account
    accounts.set_roles(office.mallory.id, [Role.ADMIN, Role.USER], by=office.by)
    assert office.open_requests() == []


# Confirming


def test_the_other_administrator_is_asked_and_confirms(office: Office) -> None:
    make_a_reviewer_of_a_user(office)
    other, session = office.other(), office.site.browser(office.ada)
    page = other.get("/admin").text
    assert "change the roles of ada from user to reviewer, user" in page
    request_id = office.request_id()
    question = other.post(f"/admin/requests/{request_id}/confirm")
    assert "mallory wants to change the roles of ada" in question.text
    assert office.user("ada").roles == {Role.USER}
    assert confirm(other, request_id) == 303
    assert office.user("ada").roles == {Role.USER, Role.REVIEWER}
    assert session.get("/chat").status_code == 302
    confirmed = [event for event in office.site.events() if event.header.action == "approval_confirmed"][-1]
    assert (confirmed.header.actor.name, confirmed.header.subject) == ("trent", "ada")
    assert confirmed.content is not None
    assert "asked for by mallory" in confirmed.content.text
    assert confirm(other, request_id) == 400  # it works once


def test_a_confirmed_link_is_shown_to_the_one_who_asked_and_once(office: Office) -> None:
    rex = office.site.add_user("rex", Role.REVIEWER)
    office.browser.post(f"/admin/users/{rex.id}/link", confirmed="yes")
    request_id, other = office.request_id(), office.other()
    assert office.browser.post(f"/admin/requests/{request_id}/link").status_code == 400
    assert confirm(other, request_id) == 303
    assert other.post(f"/admin/requests/{request_id}/link").status_code == 400
    assert "make the link" not in other.get("/admin").text
    link_in(office.browser.post(f"/admin/requests/{request_id}/link").text)
    assert office.browser.post(f"/admin/requests/{request_id}/link").status_code == 400


def test_a_confirmed_new_reviewer_is_made_and_gets_a_link(office: Office) -> None:
    add_a_reviewer(office)
    assert "puppet" not in office.names()
    request_id = office.request_id()
    assert confirm(office.other(), request_id) == 303
    assert office.user("puppet").roles == {Role.REVIEWER}
    link = link_in(office.browser.post(f"/admin/requests/{request_id}/link").text)
    assert take_over(office.site, link).get("/review").status_code == 200


@pytest.mark.parametrize("who", ["trent", "mallory"])
def test_a_refused_or_withdrawn_request_is_closed_and_recorded(office: Office, who: str) -> None:
    become_reviewer(office)
    request_id = office.request_id()
    refusing = office.site.browser(office.user(who))
    assert refusing.post(f"/admin/requests/{request_id}/refuse", confirmed="yes").status_code == 303
    assert confirm(office.other(), request_id) == 400
    assert office.user("mallory").roles == {Role.ADMIN}
    assert office.actions()[-1] != "approval_confirmed"
    assert "approval_refused" in office.actions()


def test_a_request_ends_after_a_week_and_that_is_recorded(office: Office) -> None:
    become_reviewer(office)
    request_id = office.request_id()
    office.later(LIFETIME_S / 86400 + 0.01)
    assert confirm(office.other(), request_id) == 400
    assert office.open_requests() == []
    assert office.actions().count("approval_expired") == 1
    assert office.user("mallory").roles == {Role.ADMIN}


def test_a_confirmed_link_that_nobody_made_ends_too(office: Office) -> None:
    rex = office.site.add_user("rex", Role.REVIEWER)
    office.browser.post(f"/admin/users/{rex.id}/link", confirmed="yes")
    request_id = office.request_id()
    confirm(office.other(), request_id)
    office.later(LIFETIME_S / 86400 + 0.01)
    assert office.browser.post(f"/admin/requests/{request_id}/link").status_code == 400


# Dealing with oneself


def test_nobody_confirms_the_own_request(office: Office) -> None:
    become_reviewer(office)
    assert confirm(office.browser, office.request_id()) == 400
    assert office.user("mallory").roles == {Role.ADMIN}


def test_nobody_confirms_what_is_about_oneself(office: Office) -> None:
    office.browser.post(f"/admin/users/{office.trent.id}/roles", confirmed="yes", **roles(Role.ADMIN, Role.REVIEWER))
    assert confirm(office.other(), office.request_id()) == 400
    assert office.user("trent").roles == {Role.ADMIN}


def test_a_user_or_reviewer_confirms_nothing(office: Office) -> None:
    become_reviewer(office)
    rex = office.site.add_user("rex", Role.REVIEWER)
    for user in (office.ada, rex):
        assert confirm(office.site.browser(user), office.request_id()) == 403
        with pytest.raises(AccountError, match="no administrator"):
            office.site.services.approvals.confirm(office.request_id(), by=user.actor("web"))


@pytest.fixture
def alone(site: Site) -> Browser:
    """The browser of mallory, who is the only administrator."""
    return site.browser(site.add_user("mallory", Role.ADMIN))


def test_a_puppet_made_while_alone_does_not_count_as_a_second(site: Site, alone: Browser) -> None:
    link = link_in(alone.post("/admin/users", name="puppet", **roles(Role.ADMIN)).text)
    puppet = take_over(site, link)
    mallory = site.services.accounts.find("mallory")
    alone.post(f"/admin/users/{mallory.id}/roles", confirmed="yes", **roles(Role.ADMIN, Role.REVIEWER))
    (request,) = site.services.approvals.open_requests()
    page = puppet.get("/admin").text
    assert "No administrator can confirm it now" in page
    assert "appliance users roles mallory --role admin --role reviewer" in page
    assert confirm(puppet, request.id) == 400
    # The other way round neither, nor after the puppet has chosen a password of its own.
    puppet.post("/account/password", current_password=NEW, new_password=NEW + " too")
    of_puppet = site.services.accounts.find("puppet")
    puppet.post(f"/admin/users/{of_puppet.id}/roles", confirmed="yes", **roles(Role.ADMIN, Role.REVIEWER))
    for request in site.services.approvals.open_requests():
        for browser in (alone, puppet):
            assert confirm(browser, request.id) == 400
    assert not any(Role.REVIEWER in user.roles for user in site.services.accounts.list_users())


def test_who_has_not_come_yet_is_no_second_and_not_the_last_one(site: Site, alone: Browser) -> None:
    """A new administrator without a password neither stands in the first one's way nor lets the first one leave."""
    link = link_in(alone.post("/admin/users", name="trent", **roles(Role.ADMIN)).text)
    mallory = site.services.accounts.find("mallory")
    refused = alone.post(f"/admin/users/{mallory.id}/disable", confirmed="yes")
    assert "last administrator" in refused.text
    take_over(site, link)
    assert alone.post(f"/admin/users/{mallory.id}/disable", confirmed="yes").status_code == 303


def test_a_puppet_does_not_become_a_person_by_a_link_of_its_own(site: Site, alone: Browser) -> None:
    puppet = take_over(site, link_in(alone.post("/admin/users", name="puppet", **roles(Role.ADMIN)).text))
    own = site.services.accounts.find("puppet")
    again = take_over(site, link_in(puppet.post(f"/admin/users/{own.id}/link", confirmed="yes").text))
    mallory = site.services.accounts.find("mallory")
    alone.post(f"/admin/users/{mallory.id}/roles", confirmed="yes", **roles(Role.ADMIN, Role.REVIEWER))
    (request,) = site.services.approvals.open_requests()
    assert confirm(again, request.id) == 400


def test_two_puppets_do_not_count_for_each_other(site: Site, alone: Browser) -> None:
    """Mallory made both, before there were two administrators."""
    puppets = []
    for name in ("punch", "judy"):
        user = site.services.accounts.create_user(name, None, [Role.USER], by=SYSTEM)
        link = link_in(alone.post(f"/admin/users/{user.id}/link", confirmed="yes").text)
        take_over(site, link)
        site.services.accounts.set_roles(user.id, [Role.ADMIN], by=SYSTEM)
        puppets.append(user)
    approvals = site.services.approvals
    judy, punch = puppets
    wanted = Change("roles", judy.id, judy.name, frozenset({Role.ADMIN}), frozenset({Role.ADMIN, Role.REVIEWER}))
    request = approvals.ask(wanted, by=judy.actor("web"))
    with pytest.raises(AccountError, match="same third person"):
        approvals.confirm(request.id, by=punch.actor("web"))


def test_a_link_from_the_command_line_makes_a_person_independent_again(site: Site, alone: Browser) -> None:
    link = link_in(alone.post("/admin/users", name="trent", **roles(Role.ADMIN)).text)
    take_over(site, link)
    trent, mallory = site.services.accounts.find("trent"), site.services.accounts.find("mallory")
    token = site.services.accounts.make_reset_link(trent.id, by=Actor("", "operator", "cli"))
    browser = site.browser()
    browser.post(f"/welcome/{token}", password=PASSWORD, password_again=PASSWORD)
    alone.post(f"/admin/users/{mallory.id}/roles", confirmed="yes", **roles(Role.ADMIN, Role.REVIEWER))
    (request,) = site.services.approvals.open_requests()
    assert confirm(browser, request.id) == 303
    assert Role.REVIEWER in site.services.accounts.find("mallory").roles


def get_rid_by_disabling(office: Office) -> None:
    office.browser.post(f"/admin/users/{office.trent.id}/disable", confirmed="yes")


def get_rid_by_roles(office: Office) -> None:
    office.browser.post(f"/admin/users/{office.trent.id}/roles", confirmed="yes", **roles(Role.USER))


@pytest.mark.parametrize("get_rid", [get_rid_by_disabling, get_rid_by_roles])
def test_getting_rid_of_the_witness_does_not_make_one_alone(office: Office, get_rid: Callable[[Office], None]) -> None:
    get_rid(office)
    become_reviewer(office)
    assert office.user("mallory").roles == {Role.ADMIN}
    assert "No administrator can confirm it now" in office.browser.get("/admin").text
    if get_rid is get_rid_by_disabling:
        with pytest.raises(SecondNeededError):
            office.site.services.accounts.enable(office.trent.id, by=office.by)
    else:  # a link for the former administrator, who is nobody now, gives that account and nothing more
        office.browser.post(f"/admin/users/{office.trent.id}/link", confirmed="yes")
        with pytest.raises(SecondNeededError):
            office.site.services.accounts.set_roles(office.trent.id, [Role.ADMIN], by=office.by)
    office.later(6.9)
    with pytest.raises(SecondNeededError):
        office.site.services.accounts.set_roles(office.mallory.id, [Role.ADMIN, Role.REVIEWER], by=office.by)
    office.later(0.2)  # for a week everybody could have seen it
    changed = office.site.services.accounts.set_roles(office.mallory.id, [Role.ADMIN, Role.REVIEWER], by=office.by)
    assert Role.REVIEWER in changed.roles


def test_a_reviewers_account_is_not_taken_over_by_way_of_a_lesser_role(office: Office) -> None:
    """Take the role away, then take the account over by a link: the role does not come back without a second person."""
    rex = office.site.add_user("rex", Role.USER, Role.REVIEWER)
    accounts = office.site.services.accounts
    accounts.set_roles(rex.id, [Role.USER], by=office.by)
    accounts.make_reset_link(rex.id, by=office.by)
    with pytest.raises(SecondNeededError):
        accounts.set_roles(rex.id, [Role.USER, Role.REVIEWER], by=office.by)


# Requests that no longer mean what they meant


def test_a_request_is_void_once_its_subject_has_changed(office: Office) -> None:
    make_a_reviewer_of_a_user(office)
    office.site.services.accounts.set_roles(office.ada.id, [Role.ADMIN, Role.USER], by=SYSTEM)
    assert confirm(office.other(), office.request_id()) == 400
    assert office.user("ada").roles == {Role.ADMIN, Role.USER}
    assert office.open_requests() == []
    assert office.actions()[-1] == "approval_refused"


@pytest.mark.parametrize("way", ["disabled", "no admin"])
def test_a_request_is_void_once_its_maker_is_no_administrator(office: Office, way: str) -> None:
    make_a_reviewer_of_a_user(office)
    accounts = office.site.services.accounts
    if way == "disabled":
        accounts.disable(office.mallory.id, by=SYSTEM)
    else:
        accounts.set_roles(office.mallory.id, [Role.USER], by=SYSTEM)
    assert confirm(office.other(), office.request_id()) == 400
    assert office.user("ada").roles == {Role.USER}


def test_a_confirmed_link_does_not_outlive_a_change_of_roles(office: Office) -> None:
    rex = office.site.add_user("rex", Role.ADMIN)
    office.browser.post(f"/admin/users/{rex.id}/link", confirmed="yes")
    request_id = office.request_id()
    assert confirm(office.other(), request_id) == 303
    office.site.services.accounts.set_roles(rex.id, [Role.ADMIN, Role.REVIEWER], by=SYSTEM)
    assert office.browser.post(f"/admin/requests/{request_id}/link").status_code == 400


def test_the_same_request_twice_is_one_and_there_is_an_end_to_them(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        become_reviewer(office)
    assert len(office.open_requests()) == 1
    monkeypatch.setattr("appliance.people.approvals._MOST_OPEN", 1)
    assert "requests wait already" in office.browser.post("/admin/users", name="p", **roles(Role.ADMIN)).text


@pytest.mark.parametrize("name", ["no name", "ada"])
def test_a_request_for_an_impossible_account_is_refused_at_once(office: Office, name: str) -> None:
    assert office.browser.post("/admin/users", name=name, **roles(Role.ADMIN)).status_code == 400
    assert office.open_requests() == []


# Alone, and on the command line


def test_the_only_administrator_does_it_alone_and_the_record_says_so(site: Site, alone: Browser) -> None:
    mallory = site.services.accounts.find("mallory")
    alone.post(f"/admin/users/{mallory.id}/roles", confirmed="yes", **roles(Role.ADMIN, Role.REVIEWER))
    assert Role.REVIEWER in site.services.accounts.find("mallory").roles
    changed = [event for event in site.events() if event.header.action == "roles_changed"][-1]
    assert changed.content is not None
    assert changed.content.text.endswith("; alone, because there is no other administrator")


def test_the_command_line_needs_nobody_and_the_record_says_where(office: Office) -> None:
    operator = Actor("", "operator", "cli")
    office.site.services.accounts.set_roles(office.ada.id, [Role.REVIEWER], by=operator)
    last = [event.header for event in office.site.events() if event.header.action == "roles_changed"][-1]
    assert (last.actor.via, last.actor.name) == ("cli", "operator")


def test_requests_survive_a_restart(office: Office) -> None:
    become_reviewer(office)
    fresh = Approvals(AccountStore(office.site.services.record, passwords=FAST_PASSWORDS))
    (request,) = fresh.open_requests()
    assert request.change.roles == {Role.ADMIN, Role.REVIEWER}
    assert request.created_at.timestamp() * 1e6 <= now_us()


# Destructive clicks


@pytest.mark.parametrize("path", ["disable", "roles"])
def test_a_destructive_click_asks_first_without_script(office: Office, path: str) -> None:
    before = office.site.services.accounts.list_users()
    page = office.browser.post(f"/admin/users/{office.ada.id}/{path}", **roles(Role.ADMIN)).text
    assert office.site.services.accounts.list_users() == before
    assert 'name="confirmed" value="yes"' in page
    assert "Back, change nothing" in page
    assert "ada" in page
