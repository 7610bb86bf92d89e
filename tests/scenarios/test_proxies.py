"""nginx, Apache and HAProxy from the distribution in front of the real worker, set up as docs/tls-and-proxies.md says.

The examples of that page are these configurations: a test takes them from there. People reach the proxy over TLS from
an address of their own; the proxy reaches the appliance in plain HTTP over loopback.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import pytest

from appliance.authority import keep_certificate
from appliance.config import Config
from appliance.transport import authority_certificate, local_files
from tests.conftest import require
from tests.fakes import FakeEngine, Gate
from tests.waiting import wait_for
from tests.webui.conftest import PASSWORD, MakeSite, Site, empty_database, gate, make_site
from tests.webui.served import PROJECT, gunicorn, write_release

__all__ = ["empty_database", "gate", "make_site"]  # fixtures of tests/webui, used here

PERSON = "127.0.0.7"  # people come from here; the proxy itself asks from 127.0.0.1
PROXIES = ("nginx", "apache2", "haproxy")
MODULES = "/usr/lib/apache2/modules"


def example(proxy: str) -> str:
    """The part of a proxy's configuration that the page shows."""
    page = (PROJECT / "docs" / "tls-and-proxies.md").read_text()
    found = re.search(rf"<!-- {proxy} -->\n```\w*\n(.*?)```", page, re.DOTALL)
    assert found is not None, proxy
    return found[1]


def whole_configuration(proxy: str, shown: str, directory: Path) -> str:
    """The page's part, inside what a distribution's package brings."""
    if proxy == "nginx":
        paths = "".join(
            f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return (
            f"daemon off; pid {directory}/pid; error_log {directory}/log;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{paths}{shown}}}\n"
        )
    if proxy == "apache2":
        names = ("mpm_event", "authz_core", "ssl", "socache_shmcb", "proxy", "proxy_http", "headers")
        loads = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in names)
        user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
        return (
            f"ServerRoot {directory}\nPidFile {directory}/pid\nErrorLog {directory}/log\nServerName localhost\n"
            f"DefaultRuntimeDir {directory}\n{loads}{user}{shown}"
        )
    return f"defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n{shown}"


@dataclass(frozen=True)
class Front:
    """A proxy that listens."""

    port: int
    context: ssl.SSLContext

    def connect(self) -> http.client.HTTPSConnection:
        """Connect as a person does, from an address of their own."""
        return http.client.HTTPSConnection(
            "localhost", self.port, context=self.context, timeout=30, source_address=(PERSON, 0)
        )


@contextlib.contextmanager
def front(proxy: str, config: Config, directory: Path, backend: int, *, without: str = "") -> Iterator[Front]:
    """Run `proxy` before the appliance on port `backend`, without the lines that match `without`."""
    directory.mkdir()
    directory.chmod(0o755)
    keep_certificate(config, datetime.now(UTC), "box")
    files, pem = local_files(config), directory / "both.pem"
    pem.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    port = free_port()
    put = {
        "/etc/ssl/chat.both.pem": str(pem), "/etc/ssl/chat.pem": str(files.certificate),
        "/etc/ssl/chat.key": str(files.key), "127.0.0.1:8080": f"127.0.0.1:{backend}",
        "*:443": f"127.0.0.1:{port}", "443": f"127.0.0.1:{port}",
    }  # fmt: skip
    shown = re.sub("|".join(map(re.escape, put)), lambda found: put[found[0]], example(proxy))
    if without:
        kept = [line for line in shown.splitlines(keepends=True) if not re.search(without, line)]
        assert len(kept) < len(shown.splitlines())
        shown = "".join(kept)
    path = directory / "conf"
    path.write_text(whole_configuration(proxy, shown, directory))
    command = {
        "nginx": ["nginx", "-c", str(path), "-e", str(directory / "log")],
        "apache2": ["apache2", "-f", str(path), "-DFOREGROUND"],
        "haproxy": ["haproxy", "-db", "-f", str(path)],
    }[proxy]
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for_port(port, process, directory)
        yield Front(port, ssl.create_default_context(cafile=str(authority_certificate(config))))
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline_s = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        said = "".join(path.read_text() for path in (directory / "output", directory / "log") if path.exists())
        assert process.poll() is None, said
        assert time.monotonic() < deadline_s, said
        time.sleep(0.01)


@pytest.fixture
def proxied(make_site: MakeSite, gate: Gate) -> Site:
    site = make_site(FakeEngine(gate.script))
    site.add_user("ada")
    home = site.services.config.home
    write_release(home / "current", "gpt-oss-fake")
    (home / "state" / "config" / "appliance.toml").write_text('[proxy]\ntrusted = ["127.0.0.1"]\n')
    return site


FORGED = {
    "X-Forwarded-For": "6.6.6.6", "Forwarded": 'for="6.6.6.6";proto=http;host=evil.example', "X-Real-IP": "6.6.6.6",
}  # fmt: skip


def sign_in(front: Front, headers: dict[str, str]) -> tuple[int, str, str]:
    """Fill in the form as a browser does. Returns status, cookies and page."""
    connection = front.connect()
    connection.request("GET", "/sign-in", headers=headers)
    response = connection.getresponse()
    page, cookie = response.read().decode(), response.getheader("Set-Cookie") or ""
    token = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page)
    assert token is not None, page
    form = urlencode({"name": "ada", "password": PASSWORD, "csrf_token": token[1]})
    own = {"Cookie": cookie.partition(";")[0], "Origin": f"https://localhost:{front.port}",
           "Content-Type": "application/x-www-form-urlencoded"}  # fmt: skip
    connection.request("POST", "/sign-in", form, {**headers, **own})
    response = connection.getresponse()
    text = response.read().decode()
    cookies = " ".join(response.headers.get_all("Set-Cookie") or [])
    connection.close()
    return response.status, cookies, text


@pytest.mark.parametrize("proxy", PROXIES)
def test_people_sign_in_through_a_proxy_and_the_record_knows_them(proxied: Site, tmp_path: Path, proxy: str) -> None:
    require(shutil.which(proxy) is not None, proxy)
    config = proxied.services.config
    with gunicorn(config.home, proxied.engine.doorbell) as port, front(proxy, config, tmp_path / "p", port) as before:
        status, cookies, text = sign_in(before, FORGED)
    assert status == 303, text
    assert "__Host-session=" in cookies
    signed_in = [event.header for event in proxied.events() if event.header.action == "sign_in"]
    assert [header.actor.address for header in signed_in] == [PERSON]


@contextlib.contextmanager
def stream_through(
    proxy: str, site: Site, directory: Path
) -> Iterator[tuple[http.client.HTTPConnection, http.client.HTTPResponse]]:
    """The streaming answer to a chat through this proxy, and its connection."""
    require(shutil.which(proxy) is not None, proxy)
    config = site.services.config
    key = site.add_key(site.services.accounts.find("ada"))
    body = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with gunicorn(config.home, site.engine.doorbell) as port, front(proxy, config, directory / "p", port) as before:
        connection = before.connect()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        yield connection, connection.getresponse()


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_stream_flows_through_a_proxy(proxied: Site, gate: Gate, tmp_path: Path, proxy: str) -> None:
    with stream_through(proxy, proxied, tmp_path) as (connection, response):
        received = b""
        while b"Half" not in received:
            received += response.read1(1000)
        assert b"all of it" not in received
        gate.go_on.set()
        received += response.read()
        assert received.endswith(b"data: [DONE]\n\n")
        connection.close()


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_reader_who_leaves_a_proxied_stream_ends_the_turn(
    proxied: Site, gate: Gate, tmp_path: Path, proxy: str
) -> None:
    with stream_through(proxy, proxied, tmp_path) as (connection, response):
        assert response.read1(1000)
        response.close()
        connection.close()
        wait_for(lambda: proxied.events()[-1].header.action == "answer")
        gate.go_on.set()
    assert proxied.events()[-1].header.outcome == "abandoned"


WRONG = [
    ("nginx", r"Host \$http_host", "pass the Host header as the browser sent it"),
    ("nginx", "X-Forwarded-Proto", "have the proxy send X-Forwarded-Proto: https"),
    ("nginx", "proxy_set_header", "pass the Host header as the browser sent it"),
    ("apache2", "X-Forwarded-Proto", "have the proxy send X-Forwarded-Proto: https"),
    ("haproxy", "X-Forwarded-Proto", "have the proxy send X-Forwarded-Proto: https"),
]


@pytest.mark.parametrize(("proxy", "without", "advice"), WRONG, ids=[f"{p} without {w[:17]}" for p, w, _ in WRONG])
def test_a_proxy_that_is_not_set_up_is_explained_on_the_page_and_in_the_log(
    proxied: Site, tmp_path: Path, proxy: str, without: str, advice: str, capfd: pytest.CaptureFixture[str]
) -> None:
    require(shutil.which(proxy) is not None, proxy)
    config = proxied.services.config
    with (
        gunicorn(config.home, proxied.engine.doorbell) as port,
        front(proxy, config, tmp_path / "p", port, without=without) as before,
    ):
        status, _, text = sign_in(before, {})
    assert status == 403
    assert advice in text
    assert advice in capfd.readouterr().err


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_that_nobody_trusts_is_named(
    proxied: Site, tmp_path: Path, proxy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    require(shutil.which(proxy) is not None, proxy)
    config = proxied.services.config
    (config.home / "state" / "config" / "appliance.toml").write_text("")
    with gunicorn(config.home, proxied.engine.doorbell) as port, front(proxy, config, tmp_path / "p", port) as before:
        status, _, text = sign_in(before, {})
    assert status == 403
    assert "name the proxy in [proxy] trusted of appliance.toml, as 127.0.0.1" in text
    assert "name the proxy in [proxy] trusted of appliance.toml, as 127.0.0.1" in capfd.readouterr().err
    assert all(event.header.actor.address in ("127.0.0.1", "") for event in proxied.events())
