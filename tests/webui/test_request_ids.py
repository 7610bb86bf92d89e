"""Each answer under /v1 has the request's name, and the log has it beside an error."""

from __future__ import annotations

import logging
import re

import pytest
from openai import OpenAI

from tests.fakes import FakeEngine
from tests.webui.conftest import MODEL, MakeSite, Site
from tests.webui.served import gunicorn, write_release

HEADER = "X-Request-Id"
OWN = re.compile(r"req_[0-9a-f]{32}")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/unknown", "/v1", "/v1//models"])
@pytest.mark.parametrize("has_key", [False, True])
def test_every_answer_of_the_api_has_a_name(site: Site, path: str, has_key: bool) -> None:
    headers = {"Authorization": f"Bearer {site.add_key(site.add_user('ada'))}"} if has_key else {}
    first, second = (site.app.test_client().get(path, headers=headers).headers[HEADER] for _ in range(2))
    assert OWN.fullmatch(first)
    assert first != second


def test_a_stream_has_a_name(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.add_key(site.add_user('ada'))}", HEADER: "trace-1"}
    body = {"model": MODEL.id, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with site.app.test_client().post("/v1/chat/completions", json=body, headers=headers) as response:
        assert response.headers[HEADER] == "trace-1"


@pytest.mark.parametrize("given", ["trace-1", "550e8400-e29b-41d4-a716-446655440000", "a/b:c=d+e@f_g.h", "x" * 128])
def test_a_sound_name_of_the_client_is_kept(site: Site, given: str) -> None:
    assert site.app.test_client().get("/v1/models", headers={HEADER: given}).headers[HEADER] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "a\tb", "<script>", "na\u00efve", "a,b", '"a"', "a;b"])
def test_another_name_is_replaced(site: Site, given: str) -> None:
    response = site.app.test_client().get("/v1/models", headers={HEADER: given})
    assert OWN.fullmatch(response.headers[HEADER])


@pytest.mark.parametrize("path", ["/sign-in", "/healthz", "/v10"])
def test_pages_have_no_such_header(site: Site, path: str) -> None:
    assert HEADER not in site.app.test_client().get(path, headers={HEADER: "trace-1"}).headers


def test_the_log_and_the_answer_name_a_request_that_failed(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("internal error: /secret/path")

    monkeypatch.setitem(site.app.view_functions, "api.list_models", fail)
    headers = {"Authorization": f"Bearer {site.add_key(site.add_user('ada'))}", HEADER: "trace-7"}
    with caplog.at_level(logging.ERROR):
        response = site.app.test_client().get("/v1/models", headers=headers)
    assert response.status_code == 500
    assert response.headers[HEADER] == "trace-7"
    assert "trace-7" in response.get_json()["error"]["message"]
    assert "request trace-7 " in caplog.text


def test_the_official_client_reads_it(make_site: MakeSite) -> None:
    site = make_site(FakeEngine())
    key = site.add_key(site.add_user("ada"))
    write_release(site.services.config.home / "current", "gpt-oss-fake")
    with (
        gunicorn(site.services.config.home, site.engine.doorbell) as port,
        OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client,
    ):
        models = client.models.list()
    assert OWN.fullmatch(models._request_id or "")
