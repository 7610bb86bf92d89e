"""Requests under names that are not the site's: DNS rebinding, forged Host headers, odd spellings."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from flask.testing import EnvironBuilder
from werkzeug.test import run_wsgi_app

from appliance.config import ConfigError, init_state, parse_config
from appliance.site_address import SiteAddress, parse_authority, parse_site_address
from tests.fakes import FakeEngine
from tests.webui.conftest import MakeSite, Site
from tests.webui.served import gunicorn, write_release

ADDRESSES = ("https://chat.example", "http://10.0.0.5:8080", "http://[fd00::5]:8080", "https://bücher.example")


@pytest.fixture
def named(make_site: MakeSite) -> Site:
    """A site that knows its addresses."""
    return make_site(site_addresses=tuple(map(parse_site_address, ADDRESSES)))


def status_of(site: Site, host: str, path: str = "/sign-in", **environ: str) -> int:
    """The status of a request with exactly this Host header."""
    return site.app.test_client().open(path, environ_overrides={"HTTP_HOST": host, **environ}).status_code


OURS = [
    "chat.example", "CHAT.Example", "chat.example.", "chat.example:443", "chat.example.:443", "10.0.0.5:8080",
    "[fd00::5]:8080", "[FD00:0:0:0:0:0:0:5]:8080", "[fd00::0005]:8080", "xn--bcher-kva.example",
]  # fmt: skip
FOREIGN = [
    "evil.example", "chat.example.evil.example", "evil-chat.example", "chat.example:8080", "chat.example:80",
    "10.0.0.5", "10.0.0.5:80", "[fd00::5]", "[fd00::6]:8080", "localhost", "127.0.0.1", "[::1]", "", " ",
    "chat.example ",
    "chat.example,evil.example", "user@chat.example", "chat.example@evil.example", "chat.example:443:443",
    "chat.example:", "chat.example:x", "chat.example:0443x", "chat.example..", ".chat.example", "chat.example/evil",
    "chat.example#", "chat.example?", "[fd00::5", "fd00::5", "[::ffff:10.0.0.5]:8080", "0x0a.0.0.5:8080",
    "chat.example\0", "a" * 64 + ".example", "a." * 130,
    "b\u00fccher.example", "chat.example\u3002", "chat\u00ad.example", "chat.example:99999",
]  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_the_site_answers_under_its_own_names(named: Site, host: str) -> None:
    assert status_of(named, host) == 200


@pytest.mark.parametrize("host", FOREIGN, ids=ascii)
def test_the_site_does_not_answer_under_other_names(named: Site, host: str) -> None:
    for path in ("/sign-in", "/static/css/base.css", "/no/such/page", "/"):
        assert status_of(named, host, path) == 421, path


def test_a_request_without_a_host_is_refused(named: Site) -> None:
    environ = EnvironBuilder(app=named.app, path="/sign-in").get_environ()
    del environ["HTTP_HOST"]
    _, status, _ = run_wsgi_app(named.app, {**environ, "PATH_INFO": "/healthz"})
    assert status.startswith("200 ")
    body, status, _ = run_wsgi_app(named.app, environ)
    assert status.startswith("421 ")
    assert b"This is not the address of the site" in b"".join(body)


def test_what_a_stranger_forwards_does_not_count(named: Site) -> None:
    assert status_of(named, "evil.example", HTTP_X_FORWARDED_HOST="chat.example") == 421
    assert status_of(named, "evil.example", HTTP_FORWARDED="host=chat.example") == 421
    assert status_of(named, "chat.example", HTTP_X_FORWARDED_HOST="evil.example") == 200


@pytest.mark.parametrize(
    ("host", "target", "status"),
    [
        ("chat.example", "http://evil.example/sign-in", 421),
        ("evil.example", "http://chat.example/sign-in", 421),
        ("chat.example", "https://chat.example/sign-in", 200),
        ("chat.example", "//evil.example/sign-in", 200),  # a path, and answered as one: nothing is taken from it
        ("chat.example", "evil.example:443", 421),
    ],
)
def test_an_absolute_target_must_name_the_site_too(named: Site, host: str, target: str, status: int) -> None:
    assert status_of(named, host, RAW_URI=target) == status


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "127.1.2.3"])
def test_the_machine_itself_may_ask_for_its_health(named: Site, path: str, host: str) -> None:
    assert status_of(named, host, path) == 200
    assert status_of(named, "evil.example", path) == 421
    assert status_of(named, host, "/healthz/../sign-in") == 421


def test_a_refusal_is_plain_and_recorded_and_in_the_form_that_is_asked_for(named: Site) -> None:
    client = named.app.test_client()
    page = client.get("/sign-in", base_url="http://evil.example")
    assert "This is not the address of the site" in page.text
    assert "evil.example" not in page.text
    as_json = client.get("/sign-in", base_url="http://evil.example", headers={"Accept": "application/json"})
    assert as_json.json is not None
    assert as_json.json["error"]["code"] == "unknown_host"
    api = client.get("/v1/models", base_url="http://evil.example")
    assert api.json is not None
    assert (api.status_code, api.json["error"]["code"]) == (421, "unknown_host")
    assert named.denials() == ["unknown_host"] * 3


def test_a_foreign_host_does_not_even_reach_the_key(named: Site) -> None:
    key = named.add_key(named.add_user("ada"))
    headers = {"Authorization": f"Bearer {key}"}
    client = named.app.test_client()
    assert client.get("/v1/models", base_url="http://evil.example", headers=headers).status_code == 421
    assert client.get("/v1/models", base_url="https://chat.example", headers=headers).status_code == 200


def test_without_an_address_every_name_is_answered_as_before(site: Site) -> None:
    assert status_of(site, "whatever.example") == 200


@pytest.mark.parametrize("host", ["chat..example", ".chat.example", "a" * 64, "chat.example:x", "chat.example/x", " "])
def test_what_is_no_host_is_refused_and_not_an_error_of_ours(site: Site, host: str) -> None:
    assert status_of(site, host) == 421


@pytest.mark.parametrize(
    "text",
    ["chat.example", "ftp://chat.example", "https://", "https://chat.example/path", "https://chat.example?x",
     "https://a b",
     "https://user@chat.example", "https://chat.example:0", "https://chat.example:70000", "https://[::g]",
     "https://straße.example", 7, [], ["https://a.example", 7], "https://chat.example#x"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_in_one_line(text: object) -> None:
    with pytest.raises(ConfigError, match=r"site\.address must be an address") as caught:
        parse_config(f"[site]\naddress = {json.dumps(text)}", Path("/site"))
    assert "\n" not in str(caught.value)


def test_addresses_are_read_in_one_form() -> None:
    text = '[site]\naddress = ["HTTPS://Chat.Example.", "http://[FD00:0::5]:8080/"]'
    found = parse_config(text, Path("/site")).site_addresses
    assert found == (SiteAddress("https", "chat.example", 443), SiteAddress("http", "fd00::5", 8080))
    assert [address.url for address in found] == ["https://chat.example", "http://[fd00::5]:8080"]
    assert parse_site_address("https://bücher.example").url == "https://xn--bcher-kva.example"
    assert parse_authority("A.example.:1") == ("a.example", 1)


REQUESTS = [
    ("GET /sign-in HTTP/1.1", "chat.example", 200),
    ("GET /sign-in HTTP/1.1", "evil.example", 421),
    ("GET http://evil.example/sign-in HTTP/1.1", "chat.example", 421),
    ("GET http://chat.example/sign-in HTTP/1.1", "evil.example", 200),  # the target wins (RFC 9112, section 3.2.2)
    ("GET /healthz HTTP/1.1", "localhost", 200),
]


def test_over_a_real_connection_the_names_are_those_of_the_request(tmp_path: Path) -> None:
    write_release(tmp_path / "release", "gpt-oss-fake")
    (tmp_path / "current").symlink_to("release")
    init_state(tmp_path)
    settings = tmp_path / "state" / "config" / "appliance.toml"
    settings.write_text('[site]\naddress = "https://chat.example"\n')
    with FakeEngine() as engine, gunicorn(tmp_path, engine.doorbell) as port:
        for line, host, status in REQUESTS:
            with socket.create_connection(("127.0.0.1", port), 30) as connection:
                connection.sendall(f"{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                with connection.makefile("rb") as answer:
                    assert answer.readline().split()[1] == str(status).encode(), (line, host)
