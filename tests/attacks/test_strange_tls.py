"""Strangers at the TLS port: floods of half handshakes, renegotiation, broken records, other protocols and names."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from contextlib import ExitStack

import pytest

from appliance.config import Config
from tests.conftest import require
from tests.webui.serving.running import LONG_S, connect, limits, read_all, read_answer, running
from tests.webui.serving.test_tls import REQUEST, config, contexts, over_tls, trusting
from webui.serving.contexts import Contexts

__all__ = ["config", "contexts"]  # fixtures

LAST = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def hello_of_a_client() -> bytes:
    """The first bytes of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def still_answers(port: int, context: ssl.SSLContext) -> None:
    with over_tls(port, context) as client:
        client.sendall(REQUEST)
        assert read_answer(client)[0] == 200


def test_half_handshakes_keep_nobody_out(config: Config, contexts: Contexts) -> None:
    """Ten times as many as there is room for: the oldest give way, and others get through at any time."""
    hello, trusted = hello_of_a_client(), trusting(config)
    with running(tls=contexts.current, given=limits(connections=50), threads=1) as port, ExitStack() as open_ones:
        for number in range(500):
            half = open_ones.enter_context(connect(port, f"127.0.0.{2 + number % 100}"))
            half.sendall(hello)
            if number % 100 == 99:
                still_answers(port, trusted)


def openssl(port: int, *options: str) -> subprocess.Popen[bytes]:
    """OpenSSL's client. It takes R and K at the start of its input as commands."""
    program = shutil.which("openssl")
    require(program is not None, "openssl")
    argv = ["timeout", "-k", "5", "60", str(program), "s_client", "-connect", f"127.0.0.1:{port}", *options]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)


@pytest.mark.parametrize("options", [(), ("-legacy_renegotiation",)])
def test_nobody_renegotiates(config: Config, contexts: Contexts, options: tuple[str, ...]) -> None:
    with running(tls=contexts.current) as port:
        with openssl(port, "-tls1_2", *options) as client:
            printed, _ = client.communicate(b"R\n", timeout=LONG_S)
        assert b"RENEGOTIATING" in printed
        assert b"no renegotiation" in printed
        still_answers(port, trusting(config))


def test_a_hundred_new_keys_within_a_connection_are_only_that(config: Config, contexts: Contexts) -> None:
    with running(tls=contexts.current) as port:
        with openssl(port, "-tls1_3") as client:
            assert client.stdin is not None
            assert client.stdout is not None
            for _ in range(100):
                client.stdin.write(b"K\n")
                while b"KEYUPDATE" not in (line := client.stdout.readline()):
                    assert line, "the connection has ended"
            client.stdin.write(LAST)
            printed = client.stdout.read()  # to its end, which LAST asks for
            assert b"HTTP/1.1 200 " in printed, printed
        still_answers(port, trusting(config))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_request_in_records_of_one_byte_is_read(config: Config, contexts: Contexts, version: ssl.TLSVersion) -> None:
    context = trusting(config)
    context.minimum_version = context.maximum_version = version
    with running(tls=contexts.current) as port, over_tls(port, context) as client:
        for at in range(len(LAST)):
            client.sendall(LAST[at : at + 1])
        assert read_answer(client) == (200, b"GET / 0")


BROKEN = {
    "a record that is too long": b"\x17\x03\x03\xff\xff" + b"x" * 65535,
    "a record without bytes": b"\x17\x03\x03\x00\x00",
    "records without bytes": b"\x16\x03\x03\x00\x00" * 1000,
    "a version that never was": b"\x16\x09\x09\x00\x05hello",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "early end": b"\x15\x03\x03\x00\x02\x01\x00",
    "a heartbeat": b"\x18\x03\x02\x00\x03\x01\x40\x00",
    "another handshake": b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
}


@pytest.mark.parametrize("record", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("place", ["instead", "amidst", "after"])
def test_broken_records_end_their_connection_alone(
    config: Config, contexts: Contexts, record: bytes, place: str
) -> None:
    with running(tls=contexts.current) as port:
        if place == "after":
            connection: socket.socket = socket.socket(fileno=over_tls(port, trusting(config)).detach())
        else:
            connection = connect(port)
            connection.sendall(hello_of_a_client() if place == "amidst" else b"")
        connection.settimeout(LONG_S)
        with connection:
            with contextlib.suppress(ConnectionError):  # the connection may be closed before everything is sent
                connection.sendall(record)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            assert b"HTTP/1.1 200" not in read_all(connection)
        still_answers(port, trusting(config))


@pytest.mark.parametrize("protocols", [["h2"], ["h2", "http/1.1"], ["spdy/3", "x" * 255]])
def test_other_protocols_are_not_agreed_upon(config: Config, contexts: Contexts, protocols: list[str]) -> None:
    context = trusting(config)
    context.set_alpn_protocols(protocols)
    with running(tls=contexts.current) as port, over_tls(port, context) as client:
        assert client.selected_alpn_protocol() == ("http/1.1" if "http/1.1" in protocols else None)
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert b"This server speaks HTTP/1.1." in answer


def test_a_name_that_is_not_the_sites_gets_the_sites_certificate(config: Config, contexts: Contexts) -> None:
    with running(tls=contexts.current) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            over_tls(port, trusting(config), "evil.example").close()
        still_answers(port, trusting(config))


@pytest.mark.parametrize("host", ["user@evil.example", "evil.example/path?", "a b", "[::1", "evil.example:99999", ""])
def test_plain_http_under_what_is_no_name_is_sent_nowhere(contexts: Contexts, host: str) -> None:
    with running(tls=contexts.current) as port, connect(port) as client:
        client.sendall(f"GET /chat HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Location" not in answer
