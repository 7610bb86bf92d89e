"""Signing in and out, sessions, one-time links, and where a browser is sent afterwards."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.people.accounts import Role
from tests.webui.conftest import PASSWORD, SYSTEM, MakeSite, Site
from webui.account.return_to import safe_return_path


def test_signing_in_opens_the_account_and_is_recorded(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    assert "ada" in browser.get("/account").text
    last = site.events()[-1].header
    assert (last.action, last.outcome, last.actor.user_id, last.actor.via) == ("sign_in", "ok", ada.id, "web")


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong"), ("nobody", PASSWORD), ("", ""), ("a\0b", "x")])
def test_a_wrong_name_or_password_is_refused_alike_and_recorded(site: Site, name: str, password: str) -> None:
    site.add_user("ada")
    browser = site.browser()
    response = browser.post("/sign-in", name=name, password=password)
    assert response.status_code == 401
    assert "The name or the password is wrong." in response.text
    assert browser.get("/account").status_code == 302
    last = site.events()[-1].header
    assert (last.action, last.outcome) == ("sign_in", "denied")


def test_guessing_is_slowed_down_with_a_time_to_wait(site: Site) -> None:
    site.add_user("ada")
    browser = site.browser()
    statuses = [browser.post("/sign-in", name="ada", password="wrong").status_code for _ in range(7)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    response = browser.post("/sign-in", name="ada", password=PASSWORD)
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0


def test_a_page_sends_to_the_sign_in_form_and_back(site: Site) -> None:
    browser = site.browser()
    site.add_user("ada")
    first = browser.get("/account?notice=password")
    assert first.status_code == 302
    form = browser.get(first.headers["Location"])
    assert 'value="/account?notice=password"' in form.text
    response = browser.post("/sign-in", name="ada", password=PASSWORD, next="/account?notice=password")
    assert (response.status_code, response.headers["Location"]) == (303, "/account?notice=password")


def test_someone_signed_in_is_sent_on_from_the_form(site: Site) -> None:
    response = site.browser(site.add_user("ada")).get("/sign-in?next=/account")
    assert (response.status_code, response.headers["Location"]) == (302, "/account")


FOREIGN = [
    "https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "evil", "",
    "/\t/evil.example", "/ok\r\nSet-Cookie: a=b", "/\n//evil", "///evil", "/v1/models", "/sign-out", "/welcome/x",
    "/a b", "http:/evil", " /x", "/" + "x" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("given_path", FOREIGN)
def test_never_returns_to_another_site(site: Site, given_path: str) -> None:
    site.add_user("ada")
    response = site.browser().post("/sign-in", name="ada", password=PASSWORD, next=given_path)
    assert (response.status_code, response.headers["Location"]) == (303, "/")


@given(st.text(st.characters(codec="utf-8"), max_size=30).map(lambda text: "/" + text))
def test_a_return_path_is_one_local_path_or_the_first_page(path: str) -> None:
    safe = safe_return_path(path)
    assert safe in (path, "/")
    assert safe[1:2] not in ("/", "\\")
    assert not any(ord(char) <= 0x20 or ord(char) == 0x7F or char == "\\" for char in safe)


def test_a_link_from_another_site_finds_the_session_on_the_second_look(site: Site) -> None:
    client = site.browser(site.add_user("ada")).client
    session = client.get_cookie("session")
    assert session is not None
    client.delete_cookie("session")  # the browser withholds it
    response = client.get("/sign-in?next=/account", headers={"Sec-Fetch-Site": "cross-site"})
    assert response.headers["Refresh"] == "0; url=/sign-in?next=/account"
    client.set_cookie("session", session.value)
    again = client.get("/sign-in?next=/account", headers={"Sec-Fetch-Site": "same-origin"})
    assert (again.status_code, again.headers["Location"]) == (302, "/account")


def test_the_sign_in_form_does_not_reload_itself_otherwise(site: Site) -> None:
    for headers in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}):
        assert "Refresh" not in site.browser().client.get("/sign-in", headers=headers).headers


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(site: Site) -> None:
    site.add_user("ada")
    response = site.browser().post("/sign-in", name="ada", password=PASSWORD)
    cookie = next(line for line in response.headers.getlist("Set-Cookie") if line.startswith("session="))
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert "Expires" not in cookie


def test_over_https_cookies_are_secure_and_bound_to_the_host(site: Site) -> None:
    response = site.browser().client.get("/sign-in", base_url="https://localhost")
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("__Host-visit=")
    assert "Secure" in cookie.split("; ")


def test_signing_in_never_adopts_a_token_the_browser_brought(site: Site) -> None:
    site.add_user("ada")
    browser = site.browser()
    browser.client.set_cookie("session", "planted-by-an-attacker")
    assert browser.post("/sign-in", name="ada", password=PASSWORD).status_code == 303
    cookie = browser.client.get_cookie("session")
    assert cookie is not None
    assert cookie.value != "planted-by-an-attacker"
    thief = site.browser()
    thief.client.set_cookie("session", "planted-by-an-attacker")
    assert thief.get("/account").status_code == 302


def test_signing_in_again_ends_the_earlier_session_of_this_browser(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    old = browser.client.get_cookie("session")
    assert old is not None
    assert browser.post("/sign-in", name="ada", password=PASSWORD).status_code == 303
    other = site.browser()
    other.client.set_cookie("session", old.value)
    assert other.get("/account").status_code == 302


def test_signing_out_ends_the_session_everywhere_it_was_copied(site: Site) -> None:
    browser = site.browser(site.add_user("ada"))
    cookie = browser.client.get_cookie("session")
    assert cookie is not None
    assert browser.post("/sign-out").headers["Location"] == "/sign-in"
    assert browser.client.get_cookie("session") is None
    copy = site.browser()
    copy.client.set_cookie("session", cookie.value)
    assert copy.get("/account").status_code == 302
    assert site.events()[-1].header.action == "sign_out"


def test_a_session_ends_when_it_is_not_used(make_site: MakeSite) -> None:
    site = make_site(session_hours=0.0)
    browser = site.browser(site.add_user("ada"))
    assert browser.get("/account").status_code == 302


def test_a_disabled_account_is_out_at_once(site: Site) -> None:
    ada, root = site.add_user("ada"), site.add_user("root", Role.ADMIN)
    browser = site.browser(ada)
    site.services.accounts.disable(ada.id, by=root.actor("web"))
    assert browser.get("/account").status_code == 302
    response = site.browser().post("/sign-in", name="ada", password=PASSWORD)
    assert response.status_code == 401


def test_the_first_administrator_is_made_through_a_link_that_works_once(site: Site) -> None:
    token = site.services.accounts.make_first_admin_link()
    assert token is not None
    browser = site.browser()
    assert browser.get(f"/welcome/{token}").status_code == 200
    assert browser.get(f"/welcome/{token}").status_code == 200  # a look does not use it up
    response = browser.post(f"/welcome/{token}", name="root", password=PASSWORD, password_again=PASSWORD)
    assert (response.status_code, response.headers["Location"]) == (303, "/admin/first-steps")
    assert "root" in browser.get("/account").text
    again = site.browser()
    for response in (again.get(f"/welcome/{token}"), again.post(f"/welcome/{token}", name="eve", password=PASSWORD)):
        assert response.status_code == 410
        assert "This link does not work" in response.text
    assert site.denials() == ["bad_link", "bad_link"]


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"name": "root", "password": PASSWORD, "password_again": "other"}, "The two passwords differ."),
        ({"name": "root", "password": "short", "password_again": "short"}, "at least 12 characters"),
        ({"name": "../root", "password": PASSWORD, "password_again": PASSWORD}, "A user name has"),
        ({"name": "Root", "password": PASSWORD, "password_again": PASSWORD}, "You can choose root instead."),
        ({}, "A user name has"),
    ],
)
def test_a_refused_name_or_password_keeps_the_link(site: Site, form: dict[str, str], says: str) -> None:
    token = site.services.accounts.make_first_admin_link()
    browser = site.browser()
    response = browser.post(f"/welcome/{token}", **form)
    assert response.status_code == 400
    assert says in response.text.partition('role="alert"')[2].partition("</div>")[0]
    field = re.search(r'<input [^>]*id="name"[^>]*>', response.text)
    assert field is not None
    assert f'value="{form.get("name", "")}"' in field[0]
    assert "readonly" not in field[0]
    assert browser.get(f"/welcome/{token}").status_code == 200


def test_a_reset_link_sets_the_password_of_its_own_account_only(site: Site) -> None:
    ada = site.add_user("ada")
    site.add_user("bob")
    token = site.services.accounts.make_reset_link(ada.id, by=SYSTEM)
    new = "a new and different phrase"
    response = site.browser().post(f"/welcome/{token}", name="bob", password=new, password_again=new)
    assert response.status_code == 303
    assert site.browser().post("/sign-in", name="ada", password=new).status_code == 303
    assert site.browser().post("/sign-in", name="bob", password=new).status_code == 401


def test_a_link_does_not_show_in_the_record_of_denials(site: Site) -> None:
    site.browser().get("/welcome/some-guessed-token")
    event = site.events()[-1]
    assert event.header.subject == "auth.welcome"
    assert "some-guessed-token" not in repr(event)
