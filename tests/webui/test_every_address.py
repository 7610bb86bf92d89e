"""Rules for every address of the application, new ones included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from appliance.people.accounts import Role
from tests.webui.conftest import Browser, Site

PUBLIC = {
    "static", "auth.sign_in", "auth.sign_in_submit", "auth.sign_out", "auth.welcome", "auth.welcome_submit",
    "health.alive", "health.ready", "health.authority", "frame.banner_stylesheet",
}  # fmt: skip
ROLE_OF = {"chat": Role.USER, "files": Role.USER, "review": Role.REVIEWER, "admin": Role.ADMIN}
ORIGIN = {"Origin": "http://localhost"}


def addresses(app: Flask) -> Iterator[tuple[Rule, str, str]]:
    """Every rule outside /v1 with a method and an address that fits it."""
    for rule in app.url_map.iter_rules():
        arguments = {name: 1 if "Integer" in type(kind).__name__ else "x" for name, kind in rule._converters.items()}
        built = rule.build(arguments)
        assert built is not None
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            if not rule.endpoint.startswith("api."):
                yield rule, method, built[1]


def test_a_stranger_sees_only_what_is_public(site: Site) -> None:
    client = site.app.test_client()
    checked = 0
    for rule, method, path in addresses(site.app):
        if method == "GET" and rule.endpoint not in PUBLIC:
            response = client.get(path)
            assert response.status_code == 302, (rule.endpoint, response.status_code)
            assert response.headers["Location"].startswith("/sign-in"), rule.endpoint
            checked += 1
    assert checked > 8


def test_every_changing_address_needs_the_form_token(site: Site) -> None:
    user = site.add_user("all", *Role)
    client = site.browser(user).client
    checked = 0
    for rule, method, path in addresses(site.app):
        if method != "GET":
            assert client.open(path, method=method, headers=ORIGIN).status_code == 403, rule.endpoint
            checked += 1
    assert checked > 8
    assert set(site.denials()) == {"bad_csrf_token"}


@pytest.mark.parametrize("role", list(Role))
def test_every_address_is_for_its_role_alone(site: Site, role: Role) -> None:
    browser = site.browser(site.add_user("pat", role))
    for rule, method, path in addresses(site.app):
        needed = ROLE_OF.get(rule.endpoint.partition(".")[0])
        if needed is not None and needed is not role:
            status = _open(browser, method, path).status_code
            expected = (302,) if rule.endpoint == "chat.index" else (403,)  # "/" leads to the person's own first page
            assert status in expected, (rule.endpoint, method, status)


def _open(browser: Browser, method: str, path: str) -> TestResponse:
    client: FlaskClient = browser.client
    return client.open(path, method=method, headers={**ORIGIN, "X-CSRF-Token": browser.token()})
