"""Attacks on a signed-in browser and on roles: each is refused and recorded, and changes nothing."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from appliance.audit.event import NewEvent
from appliance.audit.log import RecordError
from appliance.people.accounts import Role
from tests.webui.conftest import Browser, Site

LABEL = {"label": "planted", "scope": "models"}
SAME = {"Origin": "http://localhost"}


@pytest.fixture
def victim(site: Site) -> Browser:
    return site.browser(site.add_user("ada"))


def key_count(site: Site) -> int:
    return len(site.services.api_keys.list_keys(site.services.accounts.find("ada").id))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "https://localhost"},
        {"Origin": "http://localhost:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_refuses_a_form_of_another_site_even_with_the_right_token(
    site: Site, victim: Browser, headers: dict[str, str]
) -> None:
    form = {**LABEL, "csrf_token": victim.token()}
    response = victim.client.post("/account/keys", data=form, headers=headers)
    assert (response.status_code, key_count(site), site.denials()) == (403, 0, ["bad_origin"])
    assert "This page is out of date" in response.text


@pytest.mark.parametrize("token", [None, "", "0" * 64, "\u00e9", "x" * 10_000])
def test_refuses_a_form_without_this_browsers_token(site: Site, victim: Browser, token: str | None) -> None:
    form = LABEL if token is None else {**LABEL, "csrf_token": token}
    response = victim.client.post("/account/keys", data=form, headers=SAME)
    assert (response.status_code, key_count(site), site.denials()) == (403, 0, ["bad_csrf_token"])


def test_refuses_the_token_of_another_browser(site: Site, victim: Browser) -> None:
    form = {**LABEL, "csrf_token": site.browser(site.add_user("eve")).token()}
    assert victim.client.post("/account/keys", data=form, headers=SAME).status_code == 403


def test_refuses_a_token_from_before_signing_in(site: Site) -> None:
    browser = site.browser()
    before = browser.token()
    ada = site.add_user("ada")
    browser.post("/sign-in", name=ada.name, password="correct horse battery staple")
    response = browser.client.post("/account/keys", data={**LABEL, "csrf_token": before}, headers=SAME)
    assert (response.status_code, key_count(site)) == (403, 0)


def test_the_token_may_come_as_a_header(site: Site, victim: Browser) -> None:
    headers = {**SAME, "X-CSRF-Token": victim.token()}
    assert victim.client.post("/account/keys", data=LABEL, headers=headers).status_code == 303
    assert key_count(site) == 1


def test_a_browser_that_withheld_its_session_can_still_use_the_sign_in_form(site: Site, victim: Browser) -> None:
    # SameSite=Strict: a link from another site leads to the form, although the browser has a session.
    session = victim.client.get_cookie("session")
    assert session is not None
    victim.client.delete_cookie("session")
    token = victim.token()
    victim.client.set_cookie("session", session.value)
    form = {"name": "ada", "password": "correct horse battery staple", "csrf_token": token}
    assert victim.client.post("/sign-in", data=form, headers=SAME).status_code == 303


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/sign-in", "/account/keys", "/no/such/page"])
def test_every_changing_method_needs_the_token(victim: Browser, method: str, path: str) -> None:
    assert victim.client.open(path, method=method, headers=SAME).status_code in (403, 404, 405)
    assert victim.client.open("/account/keys", method="POST", data=LABEL).status_code == 403


def test_a_session_does_not_open_the_api(victim: Browser) -> None:
    response = victim.client.get("/v1/models")
    assert response.status_code == 401


def test_an_api_key_does_not_open_pages(site: Site) -> None:
    key = site.add_key(site.add_user("ada"))
    response = site.app.test_client().get("/account", headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 302


@pytest.mark.parametrize(
    ("roles", "path"),
    [
        ((Role.USER,), "/review"),
        ((Role.USER,), "/admin"),
        ((Role.REVIEWER,), "/admin"),
        ((Role.REVIEWER,), "/chat"),
        ((Role.ADMIN,), "/review"),
        ((Role.ADMIN,), "/chat"),
    ],
)
def test_a_page_of_another_role_is_refused_and_recorded(site: Site, roles: tuple[Role, ...], path: str) -> None:
    response = site.browser(site.add_user("pat", *roles)).client.get(path, follow_redirects=True)
    assert (response.status_code, site.denials()) == (403, ["missing_role"])
    denied = [event.header for event in site.events() if event.header.action == "denied"][-1]
    assert (denied.actor.name, denied.outcome) == ("pat", "denied")


def test_a_role_taken_away_is_gone_on_the_next_request(site: Site) -> None:
    root = site.add_user("root", Role.ADMIN)
    pat = site.add_user("pat", Role.USER, Role.REVIEWER)
    browser = site.browser(pat)
    assert browser.client.get("/review", follow_redirects=True).status_code == 200
    site.services.accounts.set_roles(pat.id, [Role.USER], by=root.actor("web"))
    assert browser.client.get("/review").status_code == 302
    assert site.browser(pat).client.get("/review").status_code == 403


@pytest.fixture
def broken_record(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_event: NewEvent) -> None:
        raise RecordError("the record could not be written")

    monkeypatch.setattr(site.services.record, "append", fail)


def post_foreign(client: FlaskClient) -> int:
    return client.post("/account/keys", data=LABEL, headers={"Origin": "https://evil.example"}).status_code


@pytest.mark.usefixtures("broken_record")
def test_a_denial_that_cannot_be_recorded_fails_closed(site: Site) -> None:
    client = site.app.test_client()
    assert post_foreign(client) == 503
    assert client.get("/welcome/unknown").status_code == 503
    assert client.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 503
