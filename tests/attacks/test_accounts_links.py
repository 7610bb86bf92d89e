"""Attacks on one-time links, by people who hold an old one or choose the request's Host header."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from appliance.people.accounts import Role, User
from appliance.site_address import parse_site_address
from tests.webui.conftest import PASSWORD, SYSTEM, Browser, MakeSite, Site

NEW = "another quite long phrase"


def link_for(site: Site, user: User) -> str:
    return site.services.accounts.make_reset_link(user.id, by=SYSTEM)


def use(site: Site, token: str) -> tuple[int, str]:
    """Try to take the account over with a link. Returns the status and the page."""
    response = site.browser().post(f"/welcome/{token}", name="eve", password=NEW, password_again=NEW)
    return response.status_code, response.text


def replace(site: Site, user: User) -> None:
    link_for(site, user)


def use_newer(site: Site, user: User) -> None:
    assert use(site, link_for(site, user))[0] == 303


def disable(site: Site, user: User) -> None:
    site.services.accounts.disable(user.id, by=SYSTEM)


def disable_and_enable(site: Site, user: User) -> None:
    disable(site, user)
    site.services.accounts.enable(user.id, by=SYSTEM)


def change_roles(site: Site, user: User) -> None:
    site.services.accounts.set_roles(user.id, [Role.USER, Role.REVIEWER], by=SYSTEM)


def change_password(site: Site, user: User) -> None:
    browser = site.browser(user)
    assert browser.post("/account/password", current_password=PASSWORD, new_password=NEW).status_code == 303


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replace, "A newer link for the same account replaced this one."),
        (use_newer, "A newer link for the same account replaced this one."),
        (disable, "This link ended when the account was disabled."),
        (disable_and_enable, "This link ended when the account was disabled."),
        (change_roles, "This link ended when the roles of the account changed."),
        (change_password, "This link ended when the password of the account was changed."),
    ],
)
def test_an_old_link_does_not_take_the_account_over(
    site: Site, change: Callable[[Site, User], None], words: str
) -> None:
    ada = site.add_user("ada")
    old = link_for(site, ada)
    change(site, ada)
    assert site.browser().get(f"/welcome/{old}").status_code == 410
    status, page = use(site, old)
    assert status == 410
    assert words in page
    assert site.denials()[-2:] == ["bad_link", "bad_link"]


def test_a_link_that_was_used_says_so_and_does_nothing_more(site: Site) -> None:
    ada = site.add_user("ada")
    link = link_for(site, ada)
    assert use(site, link)[0] == 303
    status, page = use(site, link)
    assert status == 410
    assert "This link was used before" in page


def test_links_of_another_account_stay(site: Site) -> None:
    ada, bob = site.add_user("ada"), site.add_user("bob")
    link = link_for(site, bob)
    for change in (replace, change_roles, disable):
        change(site, ada)
    assert site.browser().get(f"/welcome/{link}").status_code == 200


def test_a_first_administrators_link_is_dead_once_there_is_one(site: Site) -> None:
    token = site.services.accounts.make_first_admin_link()
    assert token is not None
    site.add_user("root", Role.ADMIN)
    status, page = use(site, token)
    assert status == 410
    assert "there is an administrator now" in page
    assert [user.name for user in site.services.accounts.list_users()] == ["root"]


def test_a_disabled_account_gets_no_link(site: Site) -> None:
    root, ada = site.browser(site.add_user("root", Role.ADMIN)), site.add_user("ada")
    disable(site, ada)
    response = root.post(f"/admin/users/{ada.id}/link", confirmed="yes")
    assert response.status_code == 400
    assert "data-new-link" not in response.text


def test_a_new_link_asks_before_it_ends_an_older_one(site: Site) -> None:
    root, ada = site.browser(site.add_user("root", Role.ADMIN)), site.add_user("ada")
    old = link_for(site, ada)
    assert "It ends with the new one." in root.post(f"/admin/users/{ada.id}/link").text
    assert site.browser().get(f"/welcome/{old}").status_code == 200
    assert "data-new-link" in root.post(f"/admin/users/{ada.id}/link", confirmed="yes").text
    assert site.browser().get(f"/welcome/{old}").status_code == 410


POISON = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https",
          "Forwarded": "host=evil.example"}  # fmt: skip


@pytest.mark.parametrize("addresses", [(), ("https://chat.example",)])
def test_a_link_is_never_built_from_the_request(make_site: MakeSite, addresses: tuple[str, ...]) -> None:
    site = make_site(site_addresses=tuple(map(parse_site_address, addresses)))
    ada, root = site.add_user("ada"), site.add_user("root", Role.ADMIN)
    client = site.app.test_client()
    base = addresses[0] if addresses else "http://evil.example"
    browser = Browser(client)
    name, url = ("__Host-session", base) if base.startswith("https") else ("session", base)
    client.set_cookie(name, site.services.sessions.create(root, address="x"), domain=base.partition("//")[2])
    page = client.get("/account", base_url=url).text
    token = re.search(r'<meta name="csrf-token" content="([0-9a-f]{64})">', page)
    assert token is not None, page
    headers = {k: v for k, v in POISON.items() if k != "Host"} | {"Origin": base}
    form = {"csrf_token": token[1], "confirmed": "yes"}
    sent = browser.client.post(f"/admin/users/{ada.id}/link", base_url=url, data=form, headers=headers)
    assert sent.headers["Location"].startswith("/admin?")
    response = browser.client.get(sent.headers["Location"], base_url=url, headers=headers)
    found = re.search(r"data-new-link>([^<]+)<", response.text)
    assert found is not None, response.text
    assert found[1].startswith((addresses[0] if addresses else "http://127.0.0.1:8080") + "/welcome/")
    assert "evil.example" not in response.text
    assert "evil.example" not in client.get("/account", base_url=url, headers=headers).text
