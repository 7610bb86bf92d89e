"""One person whose accounts should count as several people, and administrators who have lost the role."""

from __future__ import annotations

import pytest

from appliance.audit.event import Actor
from appliance.people.accounts import Role, User
from appliance.people.four_eyes import Change
from appliance.people.users import NoLongerAdminError
from tests.attacks.test_accounts_four_eyes import NEW, confirm, link_in, roles, take_over
from tests.webui.conftest import SYSTEM, Browser, Site


@pytest.fixture
def alone(site: Site) -> Browser:
    """The browser of mallory, who is the only administrator."""
    return site.browser(site.add_user("mallory", Role.ADMIN))


def puppet_of(site: Site, admin: Browser, name: str, *given: Role) -> Browser:
    return take_over(site, link_in(admin.post("/admin/users", name=name, **roles(*given)).text))


def demote_oneself(site: Site, browser: Browser, name: str) -> None:
    user = site.services.accounts.find(name)
    browser.post(f"/admin/users/{user.id}/roles", confirmed="yes", **roles(Role.USER))
    assert site.services.accounts.find(name).roles == {Role.USER}


def test_two_accounts_that_vouched_for_each_other_are_one_person(site: Site, alone: Browser) -> None:
    """Mallory steps down. Her puppet makes a link for her and gives her the role again. Each vouches for the other."""
    puppet = puppet_of(site, alone, "puppet", Role.ADMIN)
    mallory = site.services.accounts.find("mallory")
    demote_oneself(site, alone, "mallory")
    take_over(site, link_in(puppet.post(f"/admin/users/{mallory.id}/link", confirmed="yes").text))
    puppet.post(f"/admin/users/{mallory.id}/roles", confirmed="yes", **roles(Role.ADMIN))
    assert site.services.accounts.find("mallory").roles == {Role.ADMIN}
    again = site.browser()
    assert again.post("/sign-in", name="mallory", password=NEW).status_code == 303
    again.post(f"/admin/users/{mallory.id}/roles", confirmed="yes", **roles(Role.ADMIN, Role.REVIEWER))
    (request,) = site.services.approvals.open_requests()
    assert confirm(puppet, request.id) == 400
    assert Role.REVIEWER not in site.services.accounts.find("mallory").roles


def _ask(site: Site, by: Actor, ada: User) -> None:
    wanted = Change("roles", ada.id, ada.name, ada.roles, ada.roles | {Role.REVIEWER})
    site.services.approvals.ask(wanted, by=by)


# An administrator's change. The page checked the role before, and the change waited for its turn.
LATE = {
    "add": lambda site, by, ada: site.services.accounts.create_user("new", None, [Role.USER], by=by),
    "disable": lambda site, by, ada: site.services.accounts.disable(ada.id, by=by),
    "enable": lambda site, by, ada: site.services.accounts.enable(ada.id, by=by),
    "roles": lambda site, by, ada: site.services.accounts.set_roles(ada.id, [Role.USER, Role.ADMIN], by=by),
    "link": lambda site, by, ada: site.services.accounts.make_reset_link(ada.id, by=by),
    "ask": _ask,
}


@pytest.mark.parametrize("way", LATE)
@pytest.mark.parametrize("end", ["disabled", "without the role"])
def test_a_change_that_waited_until_the_role_was_gone_is_not_made(site: Site, way: str, end: str) -> None:
    mallory, ada = site.add_user("mallory", Role.ADMIN), site.add_user("ada")
    site.add_user("trent", Role.ADMIN)
    if end == "disabled":
        site.services.accounts.disable(mallory.id, by=SYSTEM)
    else:
        site.services.accounts.set_roles(mallory.id, [Role.USER], by=SYSTEM)
    before = len(site.events())
    with pytest.raises(NoLongerAdminError):
        LATE[way](site, mallory.actor("web", "10.0.0.9"), ada)
    assert site.services.accounts.get(ada.id) == ada
    assert site.services.approvals.open_requests() == []
    assert len(site.events()) == before


def test_who_is_no_administrator_any_more_decides_no_request(site: Site) -> None:
    mallory, trent, ada = site.add_user("mallory", Role.ADMIN), site.add_user("trent", Role.ADMIN), site.add_user("ada")
    _ask(site, trent.actor("web"), ada)
    (request,) = site.services.approvals.open_requests()
    site.services.accounts.set_roles(mallory.id, [Role.USER], by=SYSTEM)
    for decide in (site.services.approvals.confirm, site.services.approvals.refuse, site.services.approvals.make_link):
        with pytest.raises(NoLongerAdminError, match="no administrator"):
            decide(request.id, by=mallory.actor("web"))
    assert site.services.approvals.open_requests() == [request]
