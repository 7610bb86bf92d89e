"""TLS as clients see it: versions, names, renewal, deadlines, and plain HTTP on its port."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.authority import keep_certificate
from appliance.config import Config, init_state, load_config
from appliance.transport import authority_certificate, local_files
from tests.webui.serving.running import Clock, Environ, connect, limits, read_all, read_answer, running
from webui.serving.contexts import LONGEST_CONTEXT_S, LOOK_EVERY_S, Contexts

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    init_state(tmp_path)
    config = load_config(tmp_path)
    keep_certificate(config, datetime.now(UTC), "box")
    return config


@pytest.fixture
def contexts(config: Config) -> Contexts:
    return Contexts(local_files(config))


def trusting(config: Config) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority_certificate(config)))


def over_tls(port: int, context: ssl.SSLContext, name: str = "localhost") -> ssl.SSLSocket:
    return context.wrap_socket(connect(port), server_hostname=name)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "box"])
def test_answers_over_tls(config: Config, contexts: Contexts, version: ssl.TLSVersion, name: str) -> None:
    client_context = trusting(config)
    client_context.minimum_version = client_context.maximum_version = version
    with running(tls=contexts.current) as port, over_tls(port, client_context, name) as client:
        for _ in range(3):
            client.sendall(REQUEST)
            assert read_answer(client) == (200, b"GET / 0")
        suite = client.cipher()
    assert suite is not None
    assert "GCM" in suite[0] or "CHACHA20" in suite[0]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),  # no forward secrecy
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256"),  # CBC
    ],
)
def test_refuses_old_ways(config: Config, contexts: Contexts, version: ssl.TLSVersion, ciphers: str) -> None:
    context = trusting(config)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, version
    context.set_ciphers(ciphers)
    with running(tls=contexts.current) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            over_tls(port, context).close()
        with over_tls(port, trusting(config)) as client:
            client.sendall(REQUEST)
            assert read_answer(client)[0] == 200


def test_a_client_that_does_not_know_the_authority_refuses_and_nothing_breaks(
    config: Config, contexts: Contexts
) -> None:
    with running(tls=contexts.current) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            over_tls(port, ssl.create_default_context()).close()
        with over_tls(port, trusting(config)) as client:
            client.sendall(REQUEST)
            assert read_answer(client)[0] == 200


def test_a_handshake_that_does_not_end_takes_no_thread_and_is_closed(config: Config, contexts: Contexts) -> None:
    clock = Clock()
    with running(tls=contexts.current, clock=clock, threads=1) as port:
        silent, half = connect(port), connect(port)
        half.sendall(b"\x16\x03\x01\x02\x00")
        with over_tls(port, trusting(config)) as client:
            client.sendall(REQUEST)
            assert read_answer(client)[0] == 200
        clock.now_s += 10.1
        assert (read_all(silent), read_all(half)) == (b"", b"")
        silent.close()
        half.close()


def test_a_half_request_over_tls_ends_with_408(config: Config, contexts: Contexts) -> None:
    clock = Clock()
    with running(tls=contexts.current, clock=clock) as port, over_tls(port, trusting(config)) as client:
        client.sendall(REQUEST[:-2])
        with over_tls(port, trusting(config)) as other:
            other.sendall(REQUEST)
            assert read_answer(other)[0] == 200
        clock.now_s += 10.1
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_noise_after_the_handshake_ends_the_connection_alone(config: Config, contexts: Contexts) -> None:
    with running(tls=contexts.current) as port:
        noisy = over_tls(port, trusting(config))
        raw = socket.socket(fileno=os.dup(noisy.fileno()))
        raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            noisy.sendall(REQUEST)
            assert read_all(noisy) == b""
        raw.close()
        noisy.close()
        with over_tls(port, trusting(config)) as client:
            client.sendall(REQUEST)
            assert read_answer(client)[0] == 200


def test_plain_http_on_the_tls_port_is_sent_to_https(contexts: Contexts) -> None:
    with running(tls=contexts.current) as port, connect(port) as client:
        client.sendall(b"GET /chat?x=1 HTTP/1.1\r\nHost: box:8080\r\n\r\n")
        answer = read_all(client).decode()
    assert answer.startswith("HTTP/1.1 308 ")
    assert "\r\nLocation: https://box:8080/chat?x=1\r\n" in answer


def test_a_plain_form_on_the_tls_port_is_told_what_is_wrong(contexts: Contexts) -> None:
    with running(tls=contexts.current) as port, connect(port) as client:
        client.sendall(b"POST /sign-in HTTP/1.1\r\nHost: box\r\nContent-Length: 5\r\n\r\nname=")
        answer = read_all(client).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert "This address speaks HTTPS only. Use https:// instead of http://." in answer


def stream_until(end: threading.Event, gone: threading.Event) -> Callable[[Environ, Any], Iterable[bytes]]:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first."
        while not end.is_set():
            if environ["appliance.client_is_gone"]():
                gone.set()
                return
            threading.Event().wait(0.005)
        yield b"last."

    return app


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_a_client_that_leaves_is_noticed_behind_tls(config: Config, contexts: Contexts, says_goodbye: bool) -> None:
    end, gone = threading.Event(), threading.Event()
    with running(stream_until(end, gone), tls=contexts.current) as port:
        client = over_tls(port, trusting(config))
        client.sendall(REQUEST)
        while b"first." not in client.recv(1000):
            pass
        assert not gone.is_set()
        if says_goodbye:
            client.close()
        else:
            raw = socket.socket(fileno=client.detach())
            raw.shutdown(socket.SHUT_RDWR)
            raw.close()
        assert gone.wait(20)


def test_a_replaced_certificate_serves_new_connections_and_no_stream_is_dropped(config: Config) -> None:
    end, gone, clock = threading.Event(), threading.Event(), Clock()
    contexts = Contexts(local_files(config), clock_s=clock)
    with running(stream_until(end, gone), tls=contexts.current, clock=clock) as port:
        streaming = over_tls(port, trusting(config))
        before = streaming.getpeercert(binary_form=True)
        streaming.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        while b"first." not in streaming.recv(1000):
            pass
        keep_certificate(replace(config, tls_names=("new.example",)), datetime.now(UTC), "box")
        clock.now_s += LOOK_EVERY_S
        with over_tls(port, trusting(config), "new.example") as new:
            assert new.getpeercert(binary_form=True) != before
        end.set()
        assert read_all(streaming).endswith(b"last.\r\n0\r\n\r\n")
        streaming.close()


def test_a_replacement_that_cannot_be_used_is_said_and_the_one_before_stays(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    contexts = Contexts(local_files(config), clock_s=clock)
    before = contexts.current()
    local_files(config).certificate.write_text("rubbish")
    for _ in range(3):
        clock.now_s += LOOK_EVERY_S
        assert contexts.current() is before
    said = [record.message for record in caplog.records]
    assert len(said) == 1
    assert "holds no certificate in PEM form" in said[0]
    keep_certificate(config, datetime.now(UTC), "box")
    clock.now_s += LOOK_EVERY_S
    assert contexts.current() is not before


def test_the_end_of_a_certificate_is_logged_thirty_days_ahead_and_daily(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    clock, now = Clock(), [datetime.now(UTC)]
    contexts = Contexts(local_files(config), clock_s=clock, now=lambda: now[0])
    assert not caplog.records
    now[0] += timedelta(days=370)
    for _ in range(2):
        clock.now_s += LONGEST_CONTEXT_S
        contexts.current()
    assert len(caplog.records) == 2
    assert "expires on" in caplog.text


def test_the_key_of_the_tickets_lives_no_longer_than_a_day(config: Config) -> None:
    clock = Clock()
    contexts = Contexts(local_files(config), clock_s=clock)
    before = contexts.current()
    clock.now_s += LONGEST_CONTEXT_S - 1
    assert contexts.current() is before
    clock.now_s += LOOK_EVERY_S
    assert contexts.current() is not before


def test_sessions_resume_by_ticket(config: Config, contexts: Contexts) -> None:
    context = trusting(config)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with running(tls=contexts.current) as port:
        with over_tls(port, context) as first:
            first.sendall(REQUEST)
            read_answer(first)
            session = first.session
        with context.wrap_socket(connect(port), server_hostname="localhost", session=session) as second:
            assert second.session_reused


def test_an_answer_of_many_megabytes_arrives_whole(config: Config, contexts: Contexts) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(20 << 20))])
        return (bytes([number % 251]) * (1 << 16) for number in range(320))

    with running(app, tls=contexts.current, given=limits()) as port, over_tls(port, trusting(config)) as client:
        client.sendall(REQUEST)
        status, body = read_answer(client)
    assert (status, body) == (200, b"".join(bytes([number % 251]) * (1 << 16) for number in range(320)))
