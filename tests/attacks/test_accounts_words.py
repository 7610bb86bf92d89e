"""What a page promises before a change happens after it. Each sentence is read and then put to the test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.database.tables import users
from appliance.people.accounts import Role, User
from tests.attacks.test_accounts_four_eyes import confirm, link_in, roles, take_over
from tests.webui.conftest import Browser, Site

ALONE = "You can enable it again alone, because there is no other administrator, and the record will say so."
SECOND = "Enabling it again needs a second administrator."
NOBODY = "no other can confirm it for you. Whoever administers the host can do it."
SEVEN = "You cannot enable it again here before an administrator has been gone for seven days"
DAMAGED = "You cannot enable it again here while the database holds a damaged account."
TWO = "Enabling it again needs two other administrators: one asks, and another confirms."
EVERY = (ALONE, SECOND, NOBODY, SEVEN, DAMAGED, TWO, "Then bob can enable it again alone")


class House:
    """Ada administers; rita reviews."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ada, self.rita = site.add_user("ada", Role.ADMIN), site.add_user("rita", Role.REVIEWER)
        self.browser = site.browser(self.ada)

    def user(self, name: str) -> User:
        return self.site.services.accounts.find(name)

    def asked_before_disabling(self, name: str, browser: Browser | None = None) -> str:
        """Disable the account. Returns the page's sentence, which is one of `EVERY`."""
        address = f"/admin/users/{self.user(name).id}/disable"
        browser = browser or self.browser
        page = browser.post(address).text
        assert browser.post(address, confirmed="yes").status_code in (303, 400)
        (found,) = [words for words in EVERY if words in page] or [""]
        return found

    def enabled(self, name: str, browser: Browser | None = None) -> bool:
        """Whether that administrator's click enables the account at once."""
        (browser or self.browser).post(f"/admin/users/{self.user(name).id}/enable")
        return not self.user(name).disabled

    def confirmed_by(self, browser: Browser) -> bool:
        (request,) = self.site.services.approvals.open_requests()
        return confirm(browser, request.id) == 303


def alone(house: House) -> None:
    assert house.asked_before_disabling("rita") == ALONE
    assert house.enabled("rita")


def of_an_ordinary_account(house: House) -> None:
    house.site.add_user("carl")
    assert house.asked_before_disabling("carl") == ""
    assert house.enabled("carl")


def with_a_second(house: House) -> None:
    bob = house.site.browser(house.site.add_user("bob", Role.ADMIN))
    assert house.asked_before_disabling("rita") == SECOND
    assert not house.enabled("rita")
    assert house.confirmed_by(bob)
    assert not house.user("rita").disabled


def with_a_puppet(house: House) -> None:
    made = house.browser.post("/admin/users", name="bob", **roles(Role.ADMIN))
    bob = take_over(house.site, link_in(made.text))
    assert house.asked_before_disabling("rita") == NOBODY
    assert not house.enabled("rita")
    assert not house.confirmed_by(bob)


def of_the_other_administrator(house: House) -> None:
    house.site.add_user("bob", Role.ADMIN)
    assert house.asked_before_disabling("bob") == SEVEN
    assert not house.enabled("bob")
    assert house.asked_before_disabling("rita") == SEVEN
    assert not house.enabled("rita")
    with house.site.services.record.database.write() as connection:
        connection.execute(users.update().values(admin_ended_us=users.c.admin_ended_us - 7 * 24 * 3600 * 1_000_000))
    for request in house.site.services.approvals.open_requests():
        house.browser.post(f"/admin/requests/{request.id}/refuse", confirmed="yes")
    assert house.enabled("rita")
    assert house.asked_before_disabling("rita") == ALONE


def beside_a_damaged_account(house: House) -> None:
    house.site.add_user("eve")
    with house.site.services.record.database.write() as connection:
        connection.exec_driver_sql("UPDATE users SET roles = 'emperor' WHERE name = 'eve'")
    assert house.asked_before_disabling("rita") == DAMAGED
    assert not house.enabled("rita")


def of_oneself_beside_one(house: House) -> None:
    bob = house.site.browser(house.site.add_user("bob", Role.ADMIN))
    assert house.asked_before_disabling("ada") == "Then bob can enable it again alone"
    assert house.enabled("ada", bob)


def of_oneself_beside_two(house: House) -> None:
    bob, eve = (house.site.browser(house.site.add_user(name, Role.ADMIN)) for name in ("bob", "eve"))
    assert house.asked_before_disabling("ada") == TWO
    assert not house.enabled("ada", bob)
    assert house.confirmed_by(eve)
    assert not house.user("ada").disabled


CASES = [
    alone, of_an_ordinary_account, with_a_second, with_a_puppet, of_the_other_administrator, beside_a_damaged_account,
    of_oneself_beside_one, of_oneself_beside_two,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_is_said_of_enabling_again_is_what_it_takes(site: Site, case: Callable[[House], None]) -> None:
    case(House(site))


WAITS = "Nothing changes until another administrator confirms it."
DOES_ALONE = "You do this alone, because there is no other administrator, and the record will say so."
NONE_CAN = "Nothing changes until another administrator confirms it, and none can now."


@pytest.mark.parametrize("second", ["nobody", "bob", "puppet"])
@pytest.mark.parametrize("what", ["roles", "link"])
def test_what_is_said_of_a_change_is_what_comes_of_it(site: Site, second: str, what: str) -> None:
    house = House(site)
    site.services.accounts.make_reset_link(house.rita.id, by=house.ada.actor("cli"))  # so that another request is made
    if second == "bob":
        site.add_user("bob", Role.ADMIN)
    if second == "puppet":
        take_over(site, link_in(house.browser.post("/admin/users", name="bob", **roles(Role.ADMIN)).text))
    address = f"/admin/users/{house.rita.id}/{what}"
    wanted = roles(Role.REVIEWER, Role.ADMIN) if what == "roles" else {}
    page = house.browser.post(address, **wanted).text
    said = [words for words in (WAITS, DOES_ALONE, NONE_CAN) if words in page]
    assert said == [{"nobody": DOES_ALONE, "bob": WAITS, "puppet": NONE_CAN}[second]]
    house.browser.post(address, confirmed="yes", **wanted)
    waiting = site.services.approvals.open_requests()
    assert bool(waiting) == (second != "nobody")
    if waiting:
        able = [one.admin.name for one in site.services.approvals.seconds(waiting[0]) if one.why_not is None]
        assert able == (["bob"] if second == "bob" else [])


def test_what_needs_nobody_else_says_nothing_of_others(site: Site) -> None:
    house = House(site)
    carl = site.add_user("carl")
    site.services.accounts.make_reset_link(carl.id, by=house.ada.actor("cli"))
    for what, form in ((f"{carl.id}/link", {}), (f"{house.rita.id}/roles", roles(Role.USER))):
        page = house.browser.post(f"/admin/users/{what}", **form).text
        assert "administrator" not in page.partition("<main")[2]
