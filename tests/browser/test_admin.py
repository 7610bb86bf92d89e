"""The administration in a real browser: by keyboard, without scripts, on wide and narrow screens, light and dark."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from appliance.people.accounts import Role, User
from appliance.people.usage import Figures, add_figures
from tests.browser import accessible, pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched
from tests.webui.conftest import SYSTEM

VIEWS = [("light", 1280, 720), ("dark", 360, 740), ("light", 1920, 1080)]
PLACES = (
    "",
    "/people/add",
    "/groups",
    "/invitations",
    "/roles",
    "/usage",
    "/quotas",
    "/engine",
    "/alarms",
    "/settings",
    "/why?person=root&action=review",
    "/usage?by=key&days=90",
)


@pytest.fixture
def admin(page: Page, server: Server) -> Page:
    server.site.add_user("root", Role.ADMIN)
    pages.sign_in(page, server.address, "root", server.password)
    page.goto(f"{server.address}/admin")
    return page


def test_a_person_is_found_put_into_a_group_and_signed_out(admin: Page, server: Server, watched: Watched) -> None:
    ada = server.site.add_user("ada")
    for number in range(3):
        server.site.services.sessions.create(ada, address=f"10.0.0.{number}")
    admin.get_by_role("link", name="Groups", exact=True).press("Enter")
    admin.get_by_label("Name").fill("North gate")
    admin.get_by_label("Name").press("Enter")
    expect(admin.get_by_role("status")).to_contain_text("The group is made.")
    admin.get_by_role("link", name="People", exact=True).click()
    admin.get_by_role("searchbox", name="Name").fill("AD")
    admin.get_by_role("searchbox", name="Name").press("Enter")
    admin.get_by_role("link", name="ada", exact=True).click()
    admin.get_by_label("North gate").check()
    admin.get_by_role("button", name="Save the groups").click()
    expect(admin.get_by_label("North gate")).to_be_checked()
    admin.get_by_role("button", name="End the session from 10.0.0.1").click()
    admin.get_by_role("button", name="Sign ada out").click()
    expect(admin.get_by_text("10.0.0.1", exact=True)).to_have_count(0)
    expect(admin.get_by_text("10.0.0.2", exact=True)).to_be_visible()
    admin.reload()
    expect(admin.get_by_text("10.0.0.2", exact=True)).to_be_visible()


def furnish(server: Server) -> None:
    """People, keys, sessions, groups and links, with long names among them."""
    site = server.site
    by = site.add_user("root", Role.ADMIN, Role.USER).actor("web")
    ada = site.add_user("ada-with-a-rather-long-name", Role.USER)
    site.services.accounts.create_user("grace", None, [Role.USER], by=SYSTEM, display_name="Grace Brewster Hopper")
    for label in ("nightly report", "Donaudampfschifffahrtsgesellschaftskapitän" * 2):
        site.services.api_keys.create(ada, label, by=SYSTEM)
    site.services.sessions.create(ada, address="2001:db8:1234:5678:9abc:def0:1234:5678")
    group = site.services.groups.create("Donaudampfschifffahrtsgesellschaft", by=by)
    site.services.groups.set_groups_of(ada.id, [group.id], by=by)
    furnish_usage(server, ada, group.name)
    grace = site.services.accounts.find("grace")
    site.services.accounts.make_reset_link(grace.id, by=by)


def furnish_usage(server: Server, user: User, salt: str) -> None:
    """A month of use, more in the middle of each week."""
    today = int(server.site.services.clock().timestamp()) // 86_400
    with server.site.services.record.database.write(serial=True) as connection:
        for ago in range(30):
            many = (ago * 7919 + len(salt)) % 40 * (ago % 7 < 5)
            figures = Figures(
                requests=many, refused=many // 9, tokens_in=many * 900, tokens_out=many * 350, timed=many,
                first_us=many * 700_000, whole_us=many * 9_000_000,
            )  # fmt: skip
            add_figures(connection, today - ago, user.id, "", figures)


@pytest.fixture
def look() -> Callable[[Page, str], None]:
    """Checks that a page is no wider than the screen. With BROWSER_SHOTS=DIR it leaves a picture there."""

    def look(page: Page, name: str) -> None:
        if shots := os.environ.get("BROWSER_SHOTS"):
            page.screenshot(path=Path(shots) / f"{name}.png", full_page=True)
        assert not pages.overflows_sideways(page), name
        assert accessible.faults(page) == [], name

    return look


@pytest.mark.parametrize(("scheme", "width", "height"), VIEWS)
def test_no_page_of_the_administration_is_wider_than_the_screen(
    browser: Browser, server: Server, look: Callable[[Page, str], None], scheme: str, width: int, height: int
) -> None:
    furnish(server)
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    pages.sign_in(page, server.address, "root", server.password)
    ada = server.site.services.accounts.find("ada-with-a-rather-long-name")
    for place in (*PLACES, f"/people/{ada.id}"):
        page.goto(f"{server.address}/admin{place}")
        expect(page.get_by_role("navigation", name="Administration")).to_be_visible()
        look(page, f"admin{place.split(ada.id)[0].replace('/', '-').partition('?')[0]}-{scheme}-{width}")
    context.close()


def test_many_people_are_added_and_their_links_saved(admin: Page, server: Server, watched: Watched) -> None:
    admin.get_by_role("link", name="Add many people from a table").click()
    admin.get_by_label("People", exact=True).fill("ada,Ada Lovelace\nno name\n")
    admin.get_by_role("button", name="Add everybody").press("Enter")
    expect(admin.get_by_text("Nobody was added: one line is wrong.")).to_be_visible()
    watched.forgive("400")
    admin.get_by_label("People", exact=True).fill("ada,Ada Lovelace\nbob\n")
    admin.get_by_role("button", name="Add everybody").click()
    expect(admin.get_by_role("heading", name="2 links to hand out")).to_be_visible()
    with admin.expect_download() as download:
        admin.get_by_role("button", name="Download as CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["name", "ada", "bob"]
    admin.reload()
    expect(admin.get_by_text("The links were shown once.")).to_be_visible()
    expect(admin.get_by_role("button", name="Download as CSV")).to_have_count(0)


def test_a_dangerous_setting_is_changed_by_its_word(admin: Page, server: Server, watched: Watched) -> None:
    admin.get_by_role("link", name="Settings", exact=True).press("Enter")
    admin.get_by_label("New value of site.banner_text").fill("OPEN")
    admin.get_by_label("Type the word banner").fill("yes")
    admin.get_by_role("button", name="Change site.banner_text").press("Enter")
    expect(admin.get_by_role("alert")).to_contain_text("Nothing was changed: type the word banner")
    watched.forgive("400")
    expect(admin.get_by_role("note", name="Classification").first).to_have_text("RESTRICTED")
    admin.get_by_label("New value of site.banner_text").fill("OPEN")
    admin.get_by_label("Type the word banner").fill("banner")
    admin.get_by_role("button", name="Change site.banner_text").press("Enter")
    expect(admin.get_by_role("note", name="Classification").first).to_have_text("OPEN")
    expect(admin.get_by_role("status")).to_contain_text("The setting is saved.")
