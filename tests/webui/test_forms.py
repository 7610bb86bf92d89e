"""Every form of every page is answered with a redirect: a reload repeats nothing, and a secret is seen once.

The rule holds for every address that takes a POST outside the APIs, new ones included: each is sent the forms below and
an empty one, and no answer may be a page of its own. A reload does not repeat what a page sends by script, nor what is
saved as a file. An error that nothing was done for (no such page, no right) may be a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from appliance.people.accounts import Role, User
from appliance.people.handovers import HandoverError
from tests.webui.conftest import PASSWORD, SYSTEM, Browser, Site
from webui.handover import FIELD

BY_SCRIPT = {"chat", "files"}  # sections whose addresses answer our own scripts, never a form
NEW = "a new and different phrase"
FORMS: dict[str, list[dict[str, str | list[str]]]] = {
    "auth.sign_in_submit": [{"name": "ada", "password": "wrong"}, {"name": "root", "password": PASSWORD}],
    "auth.welcome_submit": [
        {"name": "ada", "password": NEW, "password_again": "other"},
        {"name": "ada", "password": NEW, "password_again": NEW},
    ],
    "account.change_password": [
        {"current_password": "wrong", "new_password": NEW},
        {"current_password": PASSWORD, "new_password": "short"},
        {"current_password": PASSWORD, "new_password": NEW},
    ],
    "account.create_key": [{"label": ""}, {"label": "script", "scope": "models"}],
    "admin.add_user": [{"name": "grace", "user": "yes"}, {"name": "no <name>", "user": "yes"}],
    "admin.set_roles": [{"reviewer": "yes"}, {}],
    "review.acknowledge": [{"finding": "00000000", "reason": "a reason"}],
}


@pytest.fixture
def root(site: Site) -> User:
    return site.add_user("root", *Role)


def posts(site: Site) -> Iterator[Rule]:
    """Every address that a form may be sent to."""
    for rule in site.app.url_map.iter_rules():
        if "POST" in (rule.methods or ()) and rule.endpoint.partition(".")[0] not in {"api", *BY_SCRIPT}:
            yield rule


def address(site: Site, rule: Rule) -> str:
    """An address of things that are there: a form that meets none proves nothing."""
    service = site.services
    ada = service.accounts.find("ada")
    values = {"token": "", "user_id": ada.id, "key_id": "", "request_id": "0" * 16}
    if "token" in rule.arguments:
        values["token"] = service.accounts.make_reset_link(ada.id, by=SYSTEM)
    if "key_id" in rule.arguments:
        values["key_id"] = service.api_keys.create(service.accounts.find("root"), "test", by=SYSTEM)[0].id
    built = rule.build({name: values.get(name, "x") for name in rule.arguments})
    assert built is not None
    return built[1]


def may_be_reloaded(response: TestResponse) -> bool:
    if response.status_code == 303:
        return True
    if response.headers.get("Content-Disposition", "").startswith("attachment"):
        return True
    return response.status_code in (401, 403, 404, 410) and "Go to the first page" in response.text


def test_no_form_is_answered_with_a_page(site: Site, root: User) -> None:
    site.add_user("ada")
    checked, redirected = 0, set()
    for rule in posts(site):
        for form in [*FORMS.get(rule.endpoint, []), {}]:
            for confirmed in ({}, {"confirmed": "yes"}):
                signed_in = Browser(site.app.test_client())
                session = site.services.sessions.create(site.services.accounts.get(root.id), address="")
                signed_in.client.set_cookie("session", session)
                for browser in (signed_in, site.browser()):
                    response = browser.send(address(site, rule), **form, **confirmed)
                    wants = response.headers.get("Location", "")
                    assert may_be_reloaded(response), (rule.endpoint, form, response)
                    assert PASSWORD not in unquote(wants)
                    assert NEW not in unquote(wants)
                    checked += 1
                    if response.status_code == 303:
                        redirected.add(rule.endpoint)
        if rule.endpoint == "admin.disable":
            site.services.accounts.enable(site.services.accounts.find("ada").id, by=SYSTEM)
    assert checked > 40
    others = {"account.revoke_key", "account.end_other_sessions", "admin.disable", "review.verify", "auth.sign_out"}
    assert redirected >= {*FORMS} | others


def shown(page: str) -> str:
    found = re.search(r"data-new-(?:key|link)>([^<]+)<", page)
    assert found is not None, page
    return found[1]


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/account/keys", {"label": "script", "scope": "models"}),
        ("/admin/users", {"name": "grace", "user": "yes"}),
    ],
)
def test_a_secret_is_seen_once_and_stands_in_no_address_and_no_cookie(
    site: Site, root: User, path: str, form: dict[str, str]
) -> None:
    browser, thief = site.browser(root), site.browser(site.add_user("eve", *Role))
    sent = browser.send(path, **form)
    page = sent.headers["Location"]
    assert "data-new" not in thief.get(page).text  # the address alone helps nobody
    secret = shown(browser.get(page).text).rpartition("/")[2]
    assert secret not in unquote(page)
    assert not any(secret in cookie for cookie in sent.headers.getlist("Set-Cookie"))
    again = browser.get(page)
    assert again.status_code == 200
    assert secret not in again.text
    assert "is shown once" in again.text
    assert 'role="alert"' not in again.text
    kept = [path.read_bytes() for path in site.services.config.home.rglob("*") if path.is_file()]
    assert not any(secret.encode() in content for content in kept)


def test_a_reload_makes_no_second_key(site: Site, root: User) -> None:
    browser = site.browser(root)
    page = browser.send("/account/keys", label="script", scope="models").headers["Location"]
    for _ in range(3):
        browser.get(page)
    assert len(site.services.api_keys.list_keys(root.id)) == 1


def test_a_refusal_keeps_what_was_typed_but_no_password(site: Site) -> None:
    site.add_user("ada")
    browser = site.browser()
    sent = browser.send("/sign-in", name="ada", password="wrong", next="/account")
    assert sent.headers["Location"] == "/sign-in?next=/account"
    assert not any("wrong" in cookie for cookie in sent.headers.getlist("Set-Cookie"))
    page = browser.get(sent.headers["Location"])
    assert page.status_code == 401
    assert 'value="ada"' in page.text
    assert "The name or the password is wrong." in page.text
    again = browser.get(sent.headers["Location"])
    assert (again.status_code, "wrong" in again.text) == (200, False)


@pytest.mark.parametrize(
    "cookie", ["x", "eyJhIjogMX0=", "W10=", "bnVsbA==", "eyJlcnJvciI6ICJ4IiwgInN0YXR1cyI6IDIwNH0="]
)
def test_a_strange_cookie_of_a_refusal_says_nothing(site: Site, cookie: str) -> None:
    browser = site.browser()
    browser.client.set_cookie("refused", cookie)
    page = browser.get("/sign-in")
    assert (page.status_code, 'role="alert"' in page.text) == (200, False)


def test_a_question_may_be_reloaded_and_ends_with_the_session(site: Site, root: User) -> None:
    ada = site.add_user("ada")
    browser = site.browser(root)
    page = browser.send(f"/admin/users/{ada.id}/disable").headers["Location"]
    assert page.startswith("/confirm?")
    for _ in range(2):
        assert "Disable ada?" in browser.get(page).text
    assert site.browser(root).get(page).status_code == 404
    assert site.browser().get(page).status_code == 302
    assert browser.get(f"/confirm?{FIELD}=x").status_code == 404


ASKED = [
    ("/account/keys/KEY/revoke", "Revoke the key"),
    ("/account/sessions/end-others", "End all others"),
    ("/admin/users/ADA/disable", "Disable ada"),
    ("/admin/users/ADA/link", "Make the new link"),
    ("/admin/users/ADA/roles", "Change to reviewer"),
]


@pytest.mark.parametrize(("path", "button"), ASKED)
def test_what_cannot_be_taken_back_asks_first(site: Site, root: User, path: str, button: str) -> None:
    ada = site.add_user("ada")
    key = site.services.api_keys.create(root, "test", by=SYSTEM)[0]
    site.browser(root)  # another session
    browser = site.browser(root)
    before = len(site.events())
    page = browser.post(path.replace("KEY", key.id).replace("ADA", ada.id), reviewer="yes")
    assert f'type="submit">{button}</button>' in page.text
    assert len(site.events()) == before
    assert re.findall(r"<li>[A-Z][^<]+\.</li>", page.text)  # what will happen, in sentences


def test_a_verification_is_seen_on_a_full_disk_too(site: Site, root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(_holder: str, _content: bytes) -> str:
        raise HandoverError("no space left")

    monkeypatch.setattr(site.services.handovers, "leave", leave)
    page = site.browser(root).send("/review/integrity")
    assert "Everything was checked just now and is intact" in page.text
