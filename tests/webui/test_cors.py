"""Which pages of other sites may call the API from a browser."""

from __future__ import annotations

import pytest
from werkzeug.test import TestResponse

from appliance.site_address import parse_site_address
from tests.webui.conftest import MODEL, MakeSite, Site

OURS = "https://tools.example"
FOREIGN = [
    "null", "https://evil.test", "https://tools.example.evil.test", "https://eviltools.example", "http://tools.example",
    "https://tools.example:8443", "https://tools.example/", "https://tools.example, https://evil.test", "*", "",
    "https://TOOLS.example", "https://sub.tools.example",
]  # fmt: skip
ASKED = "authorization, content-type, x-stainless-lang, x-stainless-retry-count"
CHAT = {"model": MODEL.id, "messages": [{"role": "user", "content": "Hello"}]}
URL = "/v1/chat/completions"


@pytest.fixture
def open_site(make_site: MakeSite) -> Site:
    return make_site(cors_origins=(OURS, "http://10.0.0.7:3000"))


def preflight(site: Site, origin: str, path: str = URL, asked: str = ASKED) -> TestResponse:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    return site.app.test_client().options(path, headers=headers)


def cors_of(response: TestResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers if name.startswith("Access-Control-")}


@pytest.mark.parametrize("origin", [OURS, "http://10.0.0.7:3000"])
@pytest.mark.parametrize("path", [URL, "/v1/models", "/v1/unknown", "/v1//models"])
def test_a_preflight_of_a_listed_origin_is_answered_without_a_key(open_site: Site, origin: str, path: str) -> None:
    response = preflight(open_site, origin, path)
    assert (response.status_code, response.data) == (204, b"")
    sent = cors_of(response)
    assert sent["Access-Control-Allow-Origin"] == origin
    assert "POST" in sent["Access-Control-Allow-Methods"].split(", ")
    assert sent["Access-Control-Allow-Headers"] == ASKED
    assert "Origin" in response.headers["Vary"]
    assert open_site.denials() == []


@pytest.mark.parametrize("origin", FOREIGN)
def test_no_other_origin_is_told_anything(open_site: Site, origin: str) -> None:
    assert preflight(open_site, origin).status_code == 401
    assert cors_of(preflight(open_site, origin)) == {}
    assert cors_of(_chat(open_site, origin)) == {}


def test_a_page_of_a_listed_origin_reads_the_answer_and_its_headers(open_site: Site) -> None:
    response = _chat(open_site, OURS)
    assert response.status_code == 200
    sent = cors_of(response)
    assert sent["Access-Control-Allow-Origin"] == OURS
    exposed = sent["Access-Control-Expose-Headers"].split(", ")
    assert {"X-Request-Id", "X-API-Key-Expires"} <= set(exposed)
    assert "Access-Control-Allow-Credentials" not in sent


def test_a_page_of_a_listed_origin_reads_a_refusal_too(open_site: Site) -> None:
    response = open_site.app.test_client().get("/v1/models", headers={"Origin": OURS})
    assert response.status_code == 401
    assert cors_of(response)["Access-Control-Allow-Origin"] == OURS


@pytest.mark.parametrize("asked", ["x" * 65, "a\tb", "a, b\u00e9", "", ", ".join(["a"] * 65), "a; b"])
def test_names_that_are_no_headers_are_not_repeated(open_site: Site, asked: str) -> None:
    sent = cors_of(preflight(open_site, OURS, asked=asked))
    assert sent["Access-Control-Allow-Headers"] == "Authorization, Content-Type"


@pytest.mark.parametrize("path", ["/sign-in", "/chat", "/account", "/healthz", "/v1x", "/"])
def test_no_page_is_open_to_another_origin(open_site: Site, path: str) -> None:
    client = open_site.app.test_client()
    assert cors_of(preflight(open_site, OURS, path)) == {}
    assert cors_of(client.get(path, headers={"Origin": OURS})) == {}


def test_without_the_setting_no_origin_is_let_in(site: Site) -> None:
    assert preflight(site, OURS).status_code == 401
    assert cors_of(_chat(site, OURS)) == {}


def test_a_preflight_under_another_host_name_is_refused_first(make_site: MakeSite) -> None:
    site = make_site(cors_origins=(OURS,), site_addresses=(parse_site_address("https://chat.example"),))
    headers = {"Origin": OURS, "Access-Control-Request-Method": "POST", "Host": "evil.test"}
    assert site.app.test_client().options(URL, headers=headers).status_code == 421


def _chat(site: Site, origin: str) -> TestResponse:
    headers = {"Authorization": f"Bearer {site.add_key(site.add_user('ada'))}", "Origin": origin}
    return site.app.test_client().post(URL, json=CHAT, headers=headers)
