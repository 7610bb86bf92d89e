"""`appliance serve` on a network address: TLS by default, plain HTTP only when it is typed."""

from __future__ import annotations

import http.client
import json
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.authority import keep_certificate
from appliance.cli import main
from appliance.config import Config, init_state, load_config
from appliance.transport import Transport, authority_certificate, pem_fingerprint, transport_of
from tests.appliance.supervised import supervised

RECORDER = "from appliance.runtime.recorder import main; main()"


def write_settings(home: Path, text: str) -> None:
    init_state(home)
    (home / "state" / "config" / "appliance.toml").write_text(f'[listen]\nhost = "0.0.0.0"\n{text}')


def test_a_network_address_gets_tls_and_the_fingerprint_is_printed(tmp_path: Path) -> None:
    write_settings(tmp_path, "")
    with supervised(tmp_path, recorder=RECORDER) as site:
        url = site.url
        authority = authority_certificate(load_config(tmp_path))
        assert url.startswith("https://")
        assert pem_fingerprint(authority.read_text()) in site.said()
        assert str(authority) in site.said()
        assert "NOT ENCRYPTED" not in site.said()
        context = ssl.create_default_context(cafile=str(authority))
        connection = http.client.HTTPSConnection("127.0.0.1", int(url.rpartition(":")[2]), context=context, timeout=20)
        connection.request("GET", "/")
        assert json.loads(connection.getresponse().read())["way_out"] == "PermissionError"
        connection.close()
        first = authority.read_bytes()
    with supervised(tmp_path, recorder=RECORDER) as site:
        assert site.url
        assert authority.read_bytes() == first


def test_plain_http_on_a_network_is_typed_and_said(tmp_path: Path) -> None:
    write_settings(tmp_path, "[tls]\nplain_http = true\n")
    with supervised(tmp_path) as site:
        url = site.url
        assert url.startswith("http://")
        assert "NOT ENCRYPTED: passwords and prompts cross the network as plain HTTP" in site.said()
        connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=20)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()


def test_plain_http_can_be_typed_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings(tmp_path, '[tls]\ncertificate = "tls/server.pem"\nkey = "tls/server.key"\n')
    seen: list[Transport] = []

    def serve(config: Config, *_: object, **__: object) -> None:
        seen.append(transport_of(config, config.listen_host))

    monkeypatch.setattr("appliance.runtime.serve.serve", serve)
    for options in ([], ["--plain-http"]):
        result = CliRunner().invoke(main, ["serve", "--home", str(tmp_path), *options])
        assert result.exit_code == 0, result.output
    assert seen == [Transport.CERTIFICATE, Transport.PLAIN]


def test_a_certificate_that_cannot_be_used_is_one_sentence_and_no_start(tmp_path: Path) -> None:
    write_settings(tmp_path, '[tls]\ncertificate = "tls/server.pem"\nkey = "tls/server.key"\n')
    config = load_config(tmp_path)
    keep_certificate(config, datetime.now(UTC), "box")
    (config.tls_dir / "server.key").chmod(0o644)
    with supervised(tmp_path) as site:
        assert site.process.wait(timeout=60) != 0
        said = site.said()
    assert "server.key is open to every user of this host; close it with: chmod 600" in said
    assert "Error: the web does not start" in said
    assert "Traceback" not in said
