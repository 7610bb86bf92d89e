"""Who asks behind proxies: which peers are believed, and which of their values count."""

from __future__ import annotations

import ipaddress
import logging
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.webui.conftest import PASSWORD, MakeSite, Site
from webui.proxies import SAY_AGAIN_S, ThroughProxies, TrustedProxies

TRUSTED = tuple(ipaddress.ip_network(text) for text in ("127.0.0.1", "10.0.0.5", "10.1.0.0/16", "::1", "fd00::/64"))


def seen(peer: str, headers: dict[str, str], kind: Any = "any", scheme: str = "http") -> tuple[str, str, str]:
    """The address, scheme and host that the application sees."""
    environ: dict[str, Any] = {"REMOTE_ADDR": peer, "wsgi.url_scheme": scheme, "HTTP_HOST": "inner:8080"}
    environ |= {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
    found: list[tuple[str, str, str]] = []

    def app(environ: dict[str, Any], _: Any) -> list[bytes]:
        found.append((environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]))
        return []

    ThroughProxies(app, TrustedProxies(TRUSTED, kind))(environ, None)
    return found[0]


def address(peer: str, chain: str) -> str:
    return seen(peer, {"X-Forwarded-For": chain})[0]


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("10.2.0.1", "10.2.0.1"),
        ("6.6.6.6, 10.2.0.1", "10.2.0.1"),  # the client wrote the first
        ("10.2.0.1, 10.1.9.9", "10.2.0.1"),  # through two proxies of ours
        ("6.6.6.6, 10.2.0.1, 10.1.9.9, 10.0.0.5", "10.2.0.1"),
        ("10.1.0.1, 10.1.0.2", "10.1.0.1"),  # only proxies: the farthest
        ("10.2.0.1:4711", "10.2.0.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:10.2.0.1", "10.2.0.1"),
        ("::ffff:10.1.0.1, fd00::7", "10.1.0.1"),
        ("10.2.0.1, unknown", "127.0.0.1"),
        ("rubbish, 10.1.0.1", "10.1.0.1"),
        ("", "127.0.0.1"),
        (",,,", "127.0.0.1"),
        (" 10.2.0.1 ", "10.2.0.1"),
        ("10.2.0.1,", "10.2.0.1"),
        ("10.2.0.1, <script>", "127.0.0.1"),
        (", ".join(["10.1.0.1"] * 5000), "10.1.0.1"),
    ],
)  # fmt: skip
def test_the_first_untrusted_address_from_the_right_is_the_client(chain: str, client: str) -> None:
    assert address("127.0.0.1", chain) == client


@pytest.mark.parametrize("peer", ["127.0.0.2", "10.0.0.6", "192.168.0.1", "::2", "fd00:0:0:1::1", "", "@"])
def test_a_peer_that_is_not_trusted_is_the_client_whatever_it_sends(peer: str) -> None:
    headers = {"X-Forwarded-For": "10.2.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example",
               "X-Forwarded-Port": "99", "Forwarded": "for=10.2.0.1;proto=https;host=evil.example"}  # fmt: skip
    assert seen(peer, headers) == (peer, "http", "inner:8080")


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.5", "10.1.255.255", "::1", "fd00::1", "::ffff:10.0.0.5"])
def test_trusted_are_addresses_and_networks(peer: str) -> None:
    assert address(peer, "10.2.0.1") == "10.2.0.1"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=10.2.0.1", ("10.2.0.1", "http", "inner:8080")),
        ('For="[2001:db8:cafe::17]:4711"', ("2001:db8:cafe::17", "http", "inner:8080")),
        ("for=10.2.0.1;proto=https;host=chat.corp", ("10.2.0.1", "https", "chat.corp")),
        ('for=10.2.0.1; proto="https"; host="chat.corp:8443"', ("10.2.0.1", "https", "chat.corp:8443")),
        ("for=6.6.6.6;proto=http, for=10.2.0.1;proto=https", ("10.2.0.1", "https", "inner:8080")),
        ("for=10.2.0.1;proto=https;host=chat.corp, for=10.1.0.9;proto=http", ("10.2.0.1", "https", "chat.corp")),
        ('for="_hidden"', ("127.0.0.1", "http", "inner:8080")),
        ("for=unknown;proto=https", ("127.0.0.1", "https", "inner:8080")),
        ('for="10.2.0.1, for=6.6.6.6"', ("127.0.0.1", "http", "inner:8080")),
        ('for=6.6.6.6, for="10.2.0.1', ("127.0.0.1", "http", "inner:8080")),
        ('host="a\\"b";for=10.2.0.1', ("10.2.0.1", "http", "inner:8080")),
        ("by=10.0.0.5;for=10.2.0.1;secret=x", ("10.2.0.1", "http", "inner:8080")),
        (";;;", ("127.0.0.1", "http", "inner:8080")),
        ("for", ("127.0.0.1", "http", "inner:8080")),
    ],
)  # fmt: skip
def test_reads_forwarded_as_rfc_7239_writes_it(value: str, expected: tuple[str, str, str]) -> None:
    assert seen("127.0.0.1", {"Forwarded": value}) == expected


@pytest.mark.parametrize(
    ("headers", "scheme", "host"),
    [
        ({"X-Forwarded-Proto": "https"}, "https", "inner:8080"),
        ({"X-Forwarded-Proto": "HTTPS", "X-Forwarded-Host": "chat.corp"}, "https", "chat.corp"),
        ({"X-Forwarded-Proto": "https, http", "X-Forwarded-For": "10.2.0.1, 10.1.0.1"}, "https", "inner:8080"),
        ({"X-Forwarded-Proto": "http, https", "X-Forwarded-For": "6.6.6.6, 10.2.0.1"}, "https", "inner:8080"),
        ({"X-Forwarded-Proto": "http, https"}, "https", "inner:8080"),
        ({"X-Forwarded-Host": "evil.example, chat.corp"}, "http", "chat.corp"),
        ({"X-Forwarded-Host": "chat.corp", "X-Forwarded-Port": "8443"}, "http", "chat.corp:8443"),
        ({"X-Forwarded-Host": "chat.corp", "X-Forwarded-Port": "443", "X-Forwarded-Proto": "https"}, "https",
         "chat.corp"),
        ({"X-Forwarded-Host": "[2001:db8::1]:8443"}, "http", "[2001:db8::1]:8443"),
        ({"X-Forwarded-Host": "chat.corp:1", "X-Forwarded-Port": "2"}, "http", "chat.corp:1"),
        ({"X-Forwarded-Proto": "javascript"}, "http", "inner:8080"),
        ({"X-Forwarded-Proto": "wss"}, "http", "inner:8080"),
        ({"X-Forwarded-Host": "a b"}, "http", "inner:8080"),
        ({"X-Forwarded-Host": "evil.example/path"}, "http", "inner:8080"),
        ({"X-Forwarded-Host": "user@evil.example"}, "http", "inner:8080"),
        ({"X-Forwarded-Host": ""}, "http", "inner:8080"),
        ({"X-Forwarded-Port": "99999999"}, "http", "inner:8080"),
    ],
)  # fmt: skip
def test_scheme_and_host_are_those_that_the_clients_proxy_gave(headers: dict[str, str], scheme: str, host: str) -> None:
    assert seen("127.0.0.1", headers)[1:] == (scheme, host)


def test_a_forged_header_of_the_other_kind_does_not_count() -> None:
    """nginx, Apache and HAProxy set X-Forwarded-For and pass on a Forwarded that the client wrote."""
    both = {"X-Forwarded-For": "10.2.0.1", "Forwarded": "for=6.6.6.6;proto=https;host=evil.example"}
    assert seen("127.0.0.1", both) == ("10.2.0.1", "http", "inner:8080")
    assert seen("127.0.0.1", both, "x-forwarded") == ("10.2.0.1", "http", "inner:8080")
    other = {"Forwarded": "for=10.2.0.1", "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil.example"}
    assert seen("127.0.0.1", other, "forwarded") == ("10.2.0.1", "http", "inner:8080")
    assert seen("127.0.0.1", {"Forwarded": "for=6.6.6.6"}, "x-forwarded")[0] == "127.0.0.1"


def test_x_real_ip_counts_where_nothing_else_names_the_client() -> None:
    assert seen("127.0.0.1", {"X-Real-IP": "10.2.0.1", "X-Forwarded-Proto": "https"})[:2] == ("10.2.0.1", "https")
    assert seen("127.0.0.1", {"X-Real-IP": "6.6.6.6", "X-Forwarded-For": "10.2.0.1"})[0] == "10.2.0.1"
    assert seen("127.0.0.1", {"X-Real-IP": "6.6.6.6, [2001:db8::1]:80"})[0] == "2001:db8::1"
    assert seen("127.0.0.1", {"X-Real-IP": "rubbish"})[0] == "127.0.0.1"
    assert seen("192.168.0.9", {"X-Real-IP": "6.6.6.6"})[0] == "192.168.0.9"
    assert seen("127.0.0.1", {"X-Real-IP": "6.6.6.6"}, "forwarded")[0] == "127.0.0.1"
    assert seen("127.0.0.1", {"X-Real-IP": "6.6.6.6", "Forwarded": "for=10.2.0.1"}, "forwarded")[0] == "10.2.0.1"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(
    st.sampled_from(
        ["X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded"]
    ),
    st.text(st.characters(max_codepoint=255)) | st.text('for=;, "\\[]:.0123456789%host'),
))  # fmt: skip
def test_rubbish_never_raises_and_gives_an_address(headers: dict[str, str]) -> None:
    client, scheme, host = seen("127.0.0.1", headers)
    ipaddress.ip_address(client)
    assert scheme in ("http", "https")
    assert not set(host) & set(" /\\@\r\n,")


def test_the_record_holds_the_persons_address(make_site: MakeSite) -> None:
    """The case proxy-client-address."""
    for trusted, expected in (((), "127.0.0.1"), (TRUSTED, "10.1.2.3")):
        site = make_site(proxy_trusted=tuple(n for n in trusted if str(n) != "10.1.0.0/16"))
        site.add_user("ada")
        browser = site.browser()
        browser.client.environ_base["HTTP_X_FORWARDED_FOR"] = "10.1.2.3"
        assert browser.post("/sign-in", name="ada", password=PASSWORD).status_code == 303
        assert site.events()[-1].header.actor.address == expected


@pytest.mark.parametrize("host", ["chat.corp", "Chat.CORP", "chat.corp:443"])
def test_a_proxy_that_rewrites_the_host_is_served_when_it_is_trusted(make_site: MakeSite, host: str) -> None:
    """The case proxy-host-rewritten, also with a proxy whose configuration writes the name in capitals."""
    site = make_site(proxy_trusted=TRUSTED)
    site.add_user("ada")
    client = site.app.test_client()
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": host, "Host": "127.0.0.1:8080"}
    response = _sign_in(client, proxied, "https://chat.corp")
    assert response.status_code == 303
    assert "__Host-session=" in str(response.headers.getlist("Set-Cookie"))


@pytest.mark.parametrize(
    ("trusted", "headers", "origin", "advice"),
    [
        ((), {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "chat.corp"}, "https://chat.corp",
         "name the proxy in [proxy] trusted of appliance.toml, as 127.0.0.1"),
        (TRUSTED, {"X-Forwarded-Proto": "https"}, "https://chat.corp", "pass the Host header as the browser sent it"),
        (TRUSTED, {"X-Forwarded-For": "10.2.0.1"}, "https://localhost", "have the proxy send X-Forwarded-Proto: https"),
        (TRUSTED, {}, "https://chat.corp", "pass the Host header as the browser sent it"),
        ((), {"Via": "1.1 apache"}, "https://chat.corp", "pass the Host header as the browser sent it"),
    ],
)  # fmt: skip
def test_a_refused_form_says_what_the_proxy_must_do(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture, trusted: Any, headers: dict[str, str], origin: str,
    advice: str,
) -> None:  # fmt: skip
    site = make_site(proxy_trusted=trusted)
    for _ in range(5):
        response = _sign_in(site.app.test_client(), headers, origin)
        assert response.status_code == 403
        assert advice in response.text
        assert "docs/tls-and-proxies.md" in response.text
    said = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert len(said) <= 1


def test_without_a_proxy_a_foreign_form_is_refused_as_ever(site: Site) -> None:
    response = _sign_in(site.app.test_client(), {}, "https://evil.example")
    assert response.status_code == 403
    assert "proxy" not in response.text
    assert "evil.example" not in response.text


def _sign_in(client: Any, headers: dict[str, str], origin: str) -> Any:
    page = client.get("/sign-in", headers=headers)
    token = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page.text)
    assert token is not None
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    form = {"name": "ada", "password": PASSWORD, "csrf_token": token[1]}
    return client.post("/sign-in", data=form, headers={**headers, "Origin": origin, "Cookie": cookie})


def test_what_is_wrong_is_logged_once_and_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    middle = ThroughProxies(lambda _e, _s: [], TrustedProxies(TRUSTED), lambda: now[0])

    def send(peer: str, **headers: str) -> None:
        environ = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http", "HTTP_HOST": "x", **headers}
        middle(environ, None)

    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            send("192.168.0.9", HTTP_X_FORWARDED_FOR="1.2.3.4")
            send("127.0.0.1")
        assert len(caplog.records) == 2
        assert "192.168.0.9 sends forwarding headers, which are ignored" in caplog.text
        assert "the trusted proxy 127.0.0.1 does not say for whom it asks" in caplog.text
        for number in range(1000):
            send(f"192.168.1.{number % 250}", HTTP_X_FORWARDED_FOR="1.2.3.4")
        assert len(caplog.records) <= 20
        now[0] += SAY_AGAIN_S + 1
        send("192.168.0.9", HTTP_X_FORWARDED_FOR="1.2.3.4")
        assert caplog.records[-1].getMessage().startswith("192.168.0.9 ")
