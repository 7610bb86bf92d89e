"""Strangers at the server's door: requests that no browser sends, at every address, and clients that never read."""

from __future__ import annotations

import gzip
import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from appliance.addresses import network_of, parse_network
from appliance.audit.event import Actor, NewEvent
from appliance.audit.repeated import RepeatedDenials
from appliance.people.accounts import Role
from appliance.site_address import parse_site_address
from tests.webui.conftest import MakeSite, Site
from tests.webui.serving.running import LONG_S, Environ, ask, connect, read_all, running
from webui.api.errors import is_of_messages
from webui.proxies import TrustedProxies
from webui.serving import heads

METHODS = ("TRACE", "CONNECT", "PROPFIND", "QUERY", "X" * 200)
SEGMENTS = (
    *("..", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..", "%c0%ae%c0%ae", "..;", "%00", "a%00b", "%0d%0aX:y"),
    *("%ff", "%ED%A0%80", "%F0%9F%98%80", "%", "%zz", "-1", "9" * 30, "%3Cscript%3E", "a" * 4000, "%20", "."),
)


def addresses(site: Site) -> Iterator[str]:
    for rule in site.app.url_map.iter_rules():
        arguments = {name: 1 if "Integer" in type(kind).__name__ else "x" for name, kind in rule._converters.items()}
        built = rule.build(arguments)
        assert built is not None
        yield built[1]


def test_no_address_takes_a_method_that_it_does_not_have(site: Site) -> None:
    """The answer is 405 with the methods that the address has; under /v1 in the API's shape. Nothing is recorded as an
    attempt.
    """
    client = site.app.test_client()
    paths = set(addresses(site))
    assert len(paths) > 30
    for path in paths:
        for method in METHODS:
            answer = client.open(path, method=method)
            assert answer.status_code == 405, (method, path)
            assert "GET" in answer.headers["Allow"] or "POST" in answer.headers["Allow"], (method, path)
            if path.startswith("/v1"):
                error = answer.get_json()["error"]
                code = error["details"]["error_code"] if is_of_messages(path) else error["code"]
                assert code == "method_not_allowed", (method, path)
            else:
                assert answer.mimetype == "text/html", (method, path)
    assert site.denials() == []


@pytest.mark.parametrize(("method", "path"), [("PROPFIND", "/v1/models"), ("GET", "/v1"), ("POST", "/v1/x")])
def test_under_another_name_the_api_answers_in_its_shape_too(make_site: MakeSite, method: str, path: str) -> None:
    site = make_site(site_addresses=(parse_site_address("https://chat.example"),))
    answer = site.app.test_client().open(path, method=method, headers={"Host": "evil.example"})
    assert answer.status_code == 421
    assert answer.get_json()["error"]["code"] == "unknown_host"
    assert site.denials() == ["unknown_host"]


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1//", "/v1/x", "/v1/%2e%2e/chat"])
def test_every_address_under_v1_answers_in_the_shape_of_the_api(site: Site, path: str) -> None:
    key = site.add_key(site.add_user("ada", Role.USER))
    with running(site.app) as port, connect(port) as client:
        head = f"Host: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
        client.sendall(f"POST {path} HTTP/1.1\r\n{head}".encode())
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 404 "), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("method", ["get", "Get", "head", "post"])
def test_a_method_in_small_letters_is_another_method(method: str) -> None:
    with running() as port, connect(port) as client:
        client.sendall(f"{method} / HTTP/1.1\r\nHost: t\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 501 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("target", ["http:///x", "https://", "http://?x", "//t@evil/..//x"])
def test_a_target_without_a_host_borrows_none(target: str) -> None:
    with running() as port, connect(port) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
        answer = read_all(client)
    expected = b"HTTP/1.1 400 " if target.startswith("http") else b"HTTP/1.1 200 "  # the last one is a path
    assert answer.startswith(expected), answer


def test_hostile_paths_are_no_failure_and_lead_nowhere(site: Site) -> None:
    with running(site.app) as port:
        prefixes = {re.split("<", rule.rule)[0].rstrip("/") for rule in site.app.url_map.iter_rules()}
        assert len(prefixes) > 15
        for prefix in prefixes:
            with connect(port) as client:
                for segment in SEGMENTS:
                    client.sendall(f"GET {prefix}/{segment} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answers = read_all(client)
            statuses = re.findall(rb"HTTP/1\.1 (\d+) ", answers)
            assert len(statuses) == len(SEGMENTS) + 1, (prefix, answers[-500:])
            assert all(status < b"500" for status in statuses), (prefix, statuses)
            assert b"root:" not in answers


def test_a_body_that_unpacks_to_a_gigabyte_is_not_unpacked(site: Site) -> None:
    key = site.add_key(site.add_user("ada", Role.USER))
    bomb = gzip.compress(bytes(1 << 20)) * 100  # members of one file: 100 MB in 100 KB
    headers = {"Authorization": f"Bearer {key}", "Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = site.app.test_client().post("/v1/chat/completions", data=bomb, headers=headers)
    assert answer.status_code == 415
    assert answer.get_json()["error"]["type"] == "invalid_request_error"


class Looks:
    """Stands in for a pattern, and counts the bytes that it looks at."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern, self.count = pattern, 0

    def search(self, text: bytes | bytearray, begin: int = 0) -> re.Match[bytes] | None:
        self.count += len(text) - begin
        return self._pattern.search(text, begin)


def test_a_head_that_arrives_byte_by_byte_is_not_read_again_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte used to cost 0.8 ms of the event loop: one client with a thousand packets a second stopped the site."""
    looks = Looks(heads._BROKEN_LINE_SO_FAR)
    monkeypatch.setattr(heads, "_BROKEN_LINE_SO_FAR", looks)
    beginning = b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 30_000
    with running() as port, connect(port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(beginning)
        for _ in range(100):
            assert ask(port)[0] == 200  # everything sent so far has been read by then
            client.sendall(b"a")
        client.sendall(b"\n")
        assert read_all(client).startswith(b"HTTP/1.1 400 ")  # a broken line is still found
    assert looks.count < 2 * len(beginning)


def large(_: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "900000")])
    return [b"x" * 900_000]


@pytest.mark.parametrize(
    "flood",
    [
        b"y" * (1 << 20),
        b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 40_000,
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 8000000\r\nExpect: 100-continue\r\n\r\n" + b"z" * (1 << 20),
    ],
    ids=["rubbish", "pipeline", "body"],
)
def test_who_does_not_read_answers_is_not_read_either(flood: bytes) -> None:
    """The server kept everything that followed unread answers, as much as a client could send in ten seconds."""
    sent_bytes, quiet_rounds = 0, 0
    with running(large) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(LONG_S)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 12)
        client.setblocking(False)
        while sent_bytes < 128 << 20 and quiet_rounds < 50:
            try:
                sent_bytes += client.send(flood)
                quiet_rounds = 0
            except BlockingIOError:
                ask(port)  # meanwhile the event loop has served every connection
                quiet_rounds += 1
            except OSError:
                break
    assert sent_bytes < 32 << 20  # the kernel's own buffers


SOURCES = [
    ("10.0.0.1", "10.0.0.1"),
    ("::ffff:10.0.0.1", "10.0.0.1"),
    ("::ffff:a00:1", "10.0.0.1"),
    ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
    ("2001:DB8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
    ("fe80::1%eth0", "fe80::/64"),
    ("", "(no address)"),
]


@pytest.mark.parametrize(("address", "source"), SOURCES)
def test_addresses_of_one_subscriber_are_one_source(address: str, source: str) -> None:
    assert network_of(address) == source


def test_a_subscriber_with_many_addresses_gets_one_event_a_minute_and_not_one_for_each() -> None:
    events = list[NewEvent]()
    denials = RepeatedDenials(events.append)
    for number in range(1000):
        actor = Actor("", "(not signed in)", "web", f"2001:db8::{number + 1:x}")
        denials.record(actor, "bad_csrf_token", "auth.sign_in_submit")
    denials.record_due(all_of_it=True)
    assert [event.actor.address for event in events] == ["2001:db8::1"] * 2
    assert events[1].content is not None
    assert events[1].content.details.values()["count"] == 999
    assert events[1].content.details.values()["addresses"][0] == "2001:db8::10"


@pytest.mark.parametrize(
    ("written", "client"),
    [
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1%eth0]:4711", "2001:db8::1"),
        ("[::ffff:10.2.0.1]:1", "10.2.0.1"),
        ("10.2.0.1:_hidden", "10.2.0.1"),
        ("[2001:db8::1]evil", "127.0.0.1"),
        ("[2001:db8::1", "127.0.0.1"),
        ("2001:db8::1]", "127.0.0.1"),
        ("10.2.0.1:80:90", "127.0.0.1"),
        ("10.2.0.1%eth0", "127.0.0.1"),
        ("[10.2.0.1]", "10.2.0.1"),
        ("10.2.0.1:", "127.0.0.1"),
        ("010.2.0.1", "127.0.0.1"),
    ],
)
def test_what_only_resembles_an_address_is_none(written: str, client: str) -> None:
    proxies = TrustedProxies((parse_network("127.0.0.1"),))
    assert proxies.client("127.0.0.1", [written])[0] == client


@pytest.mark.parametrize("trusted", ["::ffff:127.0.0.1", "::ffff:127.0.0.0/104", "127.0.0.0/8"])
def test_a_mapped_network_trusts_the_addresses_that_are_meant(trusted: str) -> None:
    assert TrustedProxies((parse_network(trusted),)).is_trusted("127.0.0.1")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0/0", "wider than any private network"),
        ("::/0", "wider than any private network"),
        ("128.0.0.0/1", "wider than any private network"),
        ("::ffff:0:0/96", "wider than any private network"),
        ("10.1.2.3/16", "write 10.1.0.0/16, or the address alone"),
        ("fe80::1%eth0/64", "write fe80::/64"),
        ("proxy.example", "is neither an IP address nor a network"),
    ],
)
def test_a_network_that_trusts_strangers_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_network(text)
