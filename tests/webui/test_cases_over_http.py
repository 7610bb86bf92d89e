"""Requests that others got wrong, over a socket to the real worker: slashes, proxies, and histories with bad calls.

The cases are double-slash, history-bad-arguments, proxy-client-address and proxy-host-rewritten, each with requests of
the same kind.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from appliance.audit.log import Event
from tests.fakes import FakeEngine
from tests.webui.conftest import MODEL, PASSWORD, MakeSite, Site
from tests.webui.served import gunicorn, write_release

CHAT = {"model": MODEL.id, "messages": [{"role": "user", "content": "Hello"}]}
SETTINGS = '[proxy]\ntrusted = ["127.0.0.1", "10.9.0.0/16"]\n'
JSON_TYPE = "application/json"


@dataclass
class Served:
    """A site behind the real worker."""

    site: Site
    port: int
    key: str

    def send(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        """One request as it stands: the target is not made better, and Host is what the headers say."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def chat(self, target: str, body: object = CHAT, **more: str) -> tuple[int, dict[str, str], str]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": JSON_TYPE, **more}
        return self.send("POST", target, json.dumps(body).encode(), headers)

    def sign_in(self, headers: dict[str, str], origin: str) -> tuple[int, str]:
        return self.post("/sign-in", headers, origin, name="ada", password=PASSWORD)

    def sign_out(self, headers: dict[str, str], origin: str) -> tuple[int, str]:
        """A form that is as strict as the sign-in, without the time that a password takes. 302: it was taken."""
        return self.post("/sign-out", headers, origin)

    def post(self, path: str, headers: dict[str, str], origin: str, **fields: str) -> tuple[int, str]:
        """A form as a browser sends it: the page first, then its cookie and token."""
        _, got, page = self.send("GET", "/sign-in", b"", headers)
        token = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page)
        assert token is not None, page
        form = urlencode({**fields, "csrf_token": token[1]}).encode()
        kind = "application/x-www-form-urlencoded"
        cookie = got["Set-Cookie"].partition(";")[0]
        sent = {**headers, "Origin": origin, "Cookie": cookie, "Content-Type": kind}
        status, _, answer = self.send("POST", path, form, sent)
        return status, answer

    def last_event(self) -> Event:
        return self.site.events()[-1]


def _serve(make_site: MakeSite, settings: str) -> Iterator[Served]:
    site = make_site(FakeEngine())
    home = site.services.config.home
    (home / "state" / "config" / "appliance.toml").write_text(settings)
    write_release(home / "current", MODEL.id)
    key = site.add_key(site.add_user("ada"))
    with gunicorn(home, site.engine.doorbell) as port:
        yield Served(site, port, key)


@pytest.fixture
def direct(make_site: MakeSite) -> Iterator[Served]:
    """Without a trusted proxy."""
    yield from _serve(make_site, "")


@pytest.fixture
def proxied(make_site: MakeSite) -> Iterator[Served]:
    """With this host as a trusted proxy."""
    yield from _serve(make_site, SETTINGS)


ANSWERED = [
    "/v1//chat/completions", "//v1/chat/completions", "/v1/chat//completions", "/v1/chat/completions/",
    "/v1///chat/completions//", "/v1/%2Fchat/completions", "/v1%2Fchat/completions", "/v1//chat/completions?a=b",
    "http://127.0.0.1//v1//chat/completions", "HTTP://127.0.0.1/v1/chat/completions", "/%76%31/chat/completions",
]  # fmt: skip
REFUSED = [
    "/v1/./chat/completions", "/v1/chat/../chat/completions", "/v1/%2e/chat/completions", "/v1/chat/completions/.",
    "/v1\\chat\\completions", "/v1/chat/completions%20", "/v1/chat/completions%0A", "/v1/chat/completions%00",
    "/v1/chat/completions;a", "/v1%20/chat/completions", "/v1/v1/chat/completions", "/chat/completions",
    "/api/v1/chat/completions", "/V1/chat/completions", "/v1", "/v1/", "/openai/v1//chat/completions",
]  # fmt: skip


def test_every_slash_too_many_is_answered_and_every_other_slip_is_json(direct: Served) -> None:
    """The case double-slash."""
    for target in ANSWERED:
        status, _, text = direct.chat(target)
        assert status == 200, (target, text)
        assert json.loads(text)["object"] == "chat.completion"
    for target in REFUSED:
        status, headers, text = direct.chat(target)
        assert (status, headers["Content-Type"]) == (404, JSON_TYPE), (target, text)
        assert json.loads(text)["error"]["code"] == "unknown_url", target


def _history(arguments: object) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "c1", "type": "function", "function": function}
    return {
        "model": MODEL.id,
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
    }


def test_no_earlier_call_poisons_a_conversation(direct: Served) -> None:
    """The case history-bad-arguments."""
    for arguments in ('{"city":"Rome"}]', '{"city":"Ro', "", "null", "[]", "Rome", {"city": "Rome"}, None, "{} {}"):
        status, _, text = direct.chat("/v1/chat/completions", _history(arguments))
        assert status == 200, (arguments, text)


NAMED: list[tuple[dict[str, str], str]] = [
    ({"X-Forwarded-For": "10.1.2.3"}, "10.1.2.3"),
    ({"X-Forwarded-For": "10.1.2.3:50123"}, "10.1.2.3"),
    ({"X-Forwarded-For": "6.6.6.6, 10.1.2.3"}, "10.1.2.3"),
    ({"X-Forwarded-For": "6.6.6.6, 10.1.2.3, 10.9.0.1"}, "10.1.2.3"),
    ({"X-Forwarded-For": "[2001:db8::7]:443"}, "2001:db8::7"),
    ({"X-Forwarded-For": "::ffff:10.1.2.3"}, "10.1.2.3"),
    ({"X-Real-IP": "10.1.2.3"}, "10.1.2.3"),
    ({"X-Real-IP": "6.6.6.6", "X-Forwarded-For": "10.1.2.3"}, "10.1.2.3"),
    ({"Forwarded": 'for="[2001:db8::7]:4711";proto=http'}, "2001:db8::7"),
    ({"Forwarded": "for=6.6.6.6, For=10.1.2.3;by=_hidden"}, "10.1.2.3"),
    ({"Forwarded": "for=6.6.6.6", "X-Forwarded-For": "10.1.2.3"}, "10.1.2.3"),
    ({"X_Forwarded_For": "6.6.6.6"}, "127.0.0.1"),
    ({"X-Forwarded-For": "unknown"}, "127.0.0.1"),
    ({}, "127.0.0.1"),
]


def test_the_record_names_the_persons_machine(proxied: Served) -> None:
    """The case proxy-client-address, with the proxy trusted."""
    assert proxied.sign_in(NAMED[0][0], f"http://127.0.0.1:{proxied.port}")[0] == 303
    assert (proxied.last_event().header.action, proxied.last_event().header.actor.address) == ("sign_in", "10.1.2.3")
    for headers, address in NAMED:
        assert proxied.chat("/v1/chat/completions", **headers)[0] == 200
        assert proxied.last_event().header.actor.address == address, headers


def test_a_stranger_cannot_choose_an_address(direct: Served) -> None:
    """The case proxy-client-address, with no proxy trusted."""
    assert direct.sign_in(NAMED[0][0], f"http://127.0.0.1:{direct.port}")[0] == 303
    assert direct.last_event().header.actor.address == "127.0.0.1"
    for headers, _ in NAMED:
        assert direct.chat("/v1/chat/completions", **headers)[0] == 200
        assert direct.last_event().header.actor.address == "127.0.0.1", headers


CORP: list[Callable[[int], dict[str, str]]] = [
    lambda port: {"Host": f"127.0.0.1:{port}", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "chat.corp"},
    lambda port: {"Host": f"127.0.0.1:{port}", "X-Forwarded-Proto": "HTTPS", "X-Forwarded-Host": "Chat.Corp:443"},
    lambda port: {"Host": "backend", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "chat.corp",
                  "X-Forwarded-Port": "443"},
    lambda port: {"Host": "backend", "X-Forwarded-For": "10.1.2.3, 10.9.0.1",
                  "X-Forwarded-Host": "chat.corp, inner.corp", "X-Forwarded-Proto": "https, http"},
    lambda port: {"Host": "backend", "Forwarded": 'for=10.1.2.3;host="chat.corp";proto=https'},
    lambda port: {"Host": "chat.corp", "X-Forwarded-Proto": "https"},
]  # fmt: skip


def test_a_form_through_a_proxy_that_rewrites_the_host_is_taken_and_no_foreign_one(proxied: Served) -> None:
    """The case proxy-host-rewritten, with the proxy trusted."""
    assert proxied.sign_in(CORP[0](proxied.port), "https://chat.corp")[0] == 303
    for made in CORP:
        status, answer = proxied.sign_out(made(proxied.port), "https://chat.corp")
        assert status == 303, (made(proxied.port), answer)
    for origin in ("https://evil.test", "https://chat.corp.evil.test", "null", "http://chat.corp"):
        assert proxied.sign_out(CORP[0](proxied.port), origin)[0] == 403, origin


def test_a_form_through_a_proxy_that_is_not_trusted_says_what_to_set(direct: Served) -> None:
    """The case proxy-host-rewritten, without the setting."""
    for made in CORP:
        status, answer = direct.sign_out(made(direct.port), "https://chat.corp")
        assert status == 403
        assert "name the proxy in [proxy] trusted of appliance.toml, as 127.0.0.1" in answer
        assert "docs/tls-and-proxies.md" in answer
