"""What all responses share, and how errors look."""

from __future__ import annotations

import pytest

from appliance.database.transactions import DatabaseError
from appliance.people.accounts import Role
from tests.fakes import FakeEngine
from tests.webui.conftest import MakeSite, Site
from webui.app import MAX_SMALL_FORM_BYTES

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@pytest.mark.parametrize("path", ["/sign-in", "/account", "/no/such/page", "/v1/models", "/healthz", "/welcome/x"])
def test_every_response_carries_the_security_headers(site: Site, path: str) -> None:
    response = site.browser().get(path)
    assert {name: response.headers.get(name) for name in HEADERS} == HEADERS
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'self'", "object-src": "'none'", "frame-ancestors": "'none'", "form-action": "'self'",
        "base-uri": "'none'",
    }  # fmt: skip
    assert "camera=()" in response.headers["Permissions-Policy"]


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/x/../../app.py", "/static/"])
def test_static_files_do_not_leave_their_directory(site: Site, path: str) -> None:
    assert site.browser().get(path).status_code == 404


def test_a_missing_page_is_a_page(site: Site) -> None:
    response = site.browser().get("/no/such/page")
    assert (response.status_code, response.mimetype) == (404, "text/html")
    assert "Nothing here" in response.text


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_script_gets_its_error_as_json(site: Site, accept: str) -> None:
    response = site.browser().client.get("/no/such/page", headers={"Accept": accept})
    assert response.status_code == 404
    assert response.json is not None
    assert response.json["error"]["code"] == "not_found"


def test_a_script_without_a_session_is_told_and_not_redirected(site: Site) -> None:
    response = site.browser().client.get("/account", headers={"Accept": "application/json"})
    assert response.status_code == 401
    assert response.json is not None
    assert response.json["error"]["code"] == "sign_in_needed"


def test_a_wrong_method_says_which_are_right(site: Site) -> None:
    response = site.browser().get("/sign-out")
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


def test_a_body_over_the_limit_is_refused(site: Site) -> None:
    response = site.browser().post("/sign-in", name="x" * MAX_SMALL_FORM_BYTES)
    assert (response.status_code, "too much" in response.text) == (413, True)


def test_an_unexpected_error_shows_nothing_of_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("internal error: /secret/path and the prompt")

    monkeypatch.setitem(site.app.view_functions, "health.alive", fail)
    response = site.browser().get("/healthz")
    assert response.status_code == 500
    assert "Something went wrong" in response.text
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_a_broken_database_is_a_page_that_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = site.browser(site.add_user("ada"))

    def fail(_token: str) -> None:
        raise DatabaseError("the database failed: /secret/path")

    monkeypatch.setattr(site.services.sessions, "user", fail)
    response = browser.get("/account")
    assert (response.status_code, "secret" in response.text) == (503, False)
    assert "Not available just now" in response.text


BROKEN = [(DatabaseError("/secret/path"), 503), (RuntimeError("/secret/path"), 500)]


@pytest.mark.parametrize(("error", "status"), BROKEN)
def test_a_frame_that_cannot_be_drawn_still_ends_in_a_page(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    browser = site.browser(site.add_user("rex", Role.REVIEWER))
    monkeypatch.setattr("webui.frame.integrity", fail)
    response = browser.get("/account")
    assert (response.status_code, "secret" in response.text) == (status, False)
    assert "Go to the first page" in response.text


def test_health_is_open_and_says_little(site: Site) -> None:
    assert site.browser().get("/healthz").json == {"status": "ok"}
    response = site.browser().get("/readyz")
    assert (response.status_code, response.json) == (200, {"status": "ready"})


def test_not_ready_while_the_engine_is_silent(make_site: MakeSite) -> None:
    response = make_site(engine=FakeEngine(status=None)).browser().get("/readyz")
    assert (response.status_code, response.json) == (503, {"status": "engine_stopped"})


def test_not_ready_while_the_record_cannot_be_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise DatabaseError("no")

    monkeypatch.setattr(site.services.record, "size", fail)
    response = site.browser().get("/readyz")
    assert (response.status_code, response.json) == (503, {"status": "record_failed"})
