"""The real worker: the official client and a browser's cookies over TLS with the site's own authority, and its stop."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urlencode

import httpx2
import pytest
from openai import APIConnectionError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from appliance.authority import keep_certificate
from appliance.transport import Transport, authority_certificate
from appliance.turns.events import AnswerDelta, Started, TurnEvent
from appliance.turns.request import TurnRequest
from tests.fakes import FakeEngine, done
from tests.webui.conftest import PASSWORD, MakeSite
from tests.webui.served import gunicorn, write_release


def test_an_official_client_that_knows_the_authority_chats(make_site: MakeSite) -> None:
    site = make_site(FakeEngine())
    key = site.add_key(site.add_user("ada"))
    config = site.services.config
    keep_certificate(config, datetime.now(UTC), "box")
    write_release(config.home / "current", "gpt-oss-fake")
    context = ssl.create_default_context(cafile=str(authority_certificate(config)))
    with gunicorn(config.home, site.engine.doorbell, transport=Transport.LOCAL_AUTHORITY) as port:
        base = f"https://localhost:{port}/v1"
        with httpx2.Client(verify=context, timeout=60) as over_tls:
            client = OpenAI(base_url=base, api_key=key, http_client=over_tls, max_retries=0)
            question: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
            whole = client.chat.completions.create(model="gpt-oss-fake", messages=question)
            assert whole.choices[0].message.content
            stream = client.chat.completions.create(model="gpt-oss-fake", messages=question, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            assert text == whole.choices[0].message.content
        with OpenAI(base_url=base, api_key=key, max_retries=0) as untrusting, pytest.raises(APIConnectionError):
            untrusting.models.list()


def test_a_browser_signs_in_over_tls_with_cookies_of_this_host_alone(make_site: MakeSite) -> None:
    site = make_site(FakeEngine())
    site.add_user("ada")
    config = site.services.config
    keep_certificate(config, datetime.now(UTC), "box")
    write_release(config.home / "current", "gpt-oss-fake")
    context = ssl.create_default_context(cafile=str(authority_certificate(config)))
    with gunicorn(config.home, site.engine.doorbell, transport=Transport.LOCAL_AUTHORITY) as port:
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        connection.request("GET", "/sign-in")
        response = connection.getresponse()
        page = response.read().decode()
        assert response.getheader("Strict-Transport-Security") == "max-age=31536000"
        visit = response.getheader("Set-Cookie") or ""
        assert visit.startswith("__Host-visit=")
        assert "; Secure;" in visit
        token = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page)
        assert token is not None
        form = urlencode({"name": "ada", "password": PASSWORD, "csrf_token": token[1]})
        headers = {
            "Cookie": visit.partition(";")[0], "Origin": f"https://localhost:{port}",
            "Content-Type": "application/x-www-form-urlencoded",
        }  # fmt: skip
        connection.request("POST", "/sign-in", form, headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 303
        assert "__Host-session=" in str(response.headers.get_all("Set-Cookie"))
        connection.request("GET", "/authority.pem")
        assert connection.getresponse().read() == authority_certificate(config).read_bytes()
        connection.close()


def test_a_stop_ends_a_stream_in_time_and_the_record_says_so(make_site: MakeSite) -> None:
    go_on = threading.Event()

    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        yield AnswerDelta("first")
        go_on.wait(60)
        yield done()

    site = make_site(FakeEngine(script))
    key = site.add_key(site.add_user("ada"))
    write_release(site.services.config.home / "current", "gpt-oss-fake")
    body = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with gunicorn(site.services.config.home, site.engine.doorbell) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        received = b""
        while b"first" not in received:
            received += response.read1(1000)
    go_on.set()
    connection.close()
    assert site.events()[-1].header.outcome == "abandoned"
