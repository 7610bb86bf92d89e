"""Addresses that are nearly right (case double-slash) are answered, or refused in a form that the client reads."""

from __future__ import annotations

import pytest
from werkzeug.test import TestResponse

from appliance.people.accounts import Role
from tests.webui.conftest import Site

CHAT = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hello"}]}


def ask(site: Site, method: str, path: str) -> TestResponse:
    """A request with a valid key, as OpenAI's client makes it. The test client would take two slashes for a host."""
    headers = {"Authorization": f"Bearer {site.add_key(site.add_user('ada'))}", "Accept": "application/json"}
    body = CHAT if method == "POST" else None
    return site.app.test_client().open(
        "/", method=method, json=body, headers=headers, environ_overrides={"PATH_INFO": path}
    )


@pytest.mark.parametrize(
    "path",
    ["/v1//models", "//v1/models", "/v1///models", "//v1//models//", "/v1/models/", "/v1/models//gpt-oss-fake/"],
)
def test_models_are_listed_however_many_slashes_there_are(site: Site, path: str) -> None:
    assert ask(site, "GET", path).status_code == 200


@pytest.mark.parametrize("path", ["/v1//chat/completions", "/v1/chat/completions/", "//v1///chat//completions//"])
def test_a_chat_is_answered_however_many_slashes_there_are(site: Site, path: str) -> None:
    assert ask(site, "POST", path).status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/v1/", "//v1//", "/v1//x", "/v1/chat/", "/v1/v1/chat/completions"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_addresses_of_the_api_are_refused_in_its_own_shape(site: Site, method: str, path: str) -> None:
    response = ask(site, method, path)
    assert response.status_code == 404
    error = response.get_json()["error"]
    assert error["code"] == "unknown_url"
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/V1/chat/completions", 404, "unknown_url"), ("/api/v1/chat/completions", 404, "unknown_url"),
     ("/v1\0/x", 404, "not_found"), ("/chat/completions", 404, "unknown_url"), ("/models", 404, "unknown_url"),
     ("/openai/deployments/x/chat/completions", 404, "unknown_url"), ("/api/tags", 404, "unknown_url")],
)  # fmt: skip
def test_a_wrong_base_address_is_no_form_that_is_out_of_date(site: Site, path: str, status: int, code: str) -> None:
    response = ask(site, "POST", path)
    assert response.status_code == status
    error = response.get_json()["error"]
    assert error["code"] == code
    if code == "unknown_url":
        assert "http://localhost/v1" in error["message"]


@pytest.mark.parametrize(
    ("path", "right"),
    [("/v1/chat/completion", "/v1/chat/completions"), ("/v1chat/completions", "/v1/chat/completions"),
     ("/V1/Chat/Completions", "/v1/chat/completions"), ("/v1/model", "/v1/models"), ("/v1/models\n", "/v1/models"),
     ("/v1/chat/completions ", "/v1/chat/completions"), ("/v1 /models", "/v1/models"), ('/v1"/models', "/v1/models"),
     ("/v1/./models", "/v1/models"), ("/v1/v1/models", "/v1/models"), ("/v1/chat/../models", "/v1/models")],
)  # fmt: skip
def test_an_address_with_a_slip_is_told_the_right_one(site: Site, path: str, right: str) -> None:
    response = ask(site, "PUT", path)
    assert response.status_code == 404
    error = response.get_json()["error"]
    assert error["code"] == "unknown_url"
    assert f"The right address is {right}." in error["message"]


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
@pytest.mark.parametrize("path", ["/chat/completions", "/models/x/chat/completions", "/api/v1/models"])
def test_no_program_gets_a_page_for_a_wrong_address(site: Site, path: str, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    response = site.app.test_client().post(path, json=CHAT, headers=headers)
    assert (response.status_code, response.mimetype) == (404, "application/json")


@pytest.mark.parametrize("path", ["/models", "/api/x", "/nothing"])
def test_a_browser_gets_a_page_for_a_wrong_address(site: Site, path: str) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    response = site.app.test_client().get(path, headers={"Accept": accept})
    assert (response.status_code, response.mimetype) == (404, "text/html")


@pytest.mark.parametrize("path", ["/review/", "//review", "/admin//", "/account/", "/chat/", "/healthz/"])
def test_a_page_opens_however_many_slashes_there_are(site: Site, path: str) -> None:
    client = site.browser(site.add_user("all", *Role)).client
    assert client.get("/", environ_overrides={"PATH_INFO": path}).status_code == 200


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/", "///evil.example", "/\\evil.example"])
def test_a_slash_too_many_leads_to_no_other_site(site: Site, path: str) -> None:
    client = site.browser(site.add_user("all", *Role)).client
    response = client.get("/", environ_overrides={"PATH_INFO": path})
    assert response.status_code == 404
    assert "Location" not in response.headers
