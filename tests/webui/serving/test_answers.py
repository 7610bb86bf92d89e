"""How an answer of a WSGI application reaches the client, also when the application or the client fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

from tests.webui.serving.running import Environ, connect, limits, read_all, read_answer, running

CLOSING = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
StartResponse = Callable[..., Any]


def answer_to(app: Any, request: bytes = CLOSING) -> bytes:
    with running(app) as port, connect(port) as client:
        client.sendall(request)
        return read_all(client)


def test_keeps_the_rules_of_wsgi() -> None:
    """wsgiref's validator checks the environ and every call."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"o", b"k"]

    assert answer_to(validator(app)).endswith(b"ok")


def test_a_stream_flows_piece_by_piece() -> None:
    go_on = threading.Semaphore(0)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        for number in range(3):
            yield b"%d" % number
            go_on.acquire()

    with running(app) as port, connect(port) as client:
        client.sendall(CLOSING)
        received = b""
        for number in range(3):
            while b"1\r\n%d\r\n" % number not in received:
                received += client.recv(1000)
            go_on.release()
        assert read_all(client).endswith(b"0\r\n\r\n")


def test_a_stream_to_an_old_client_ends_with_the_connection() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return iter([b"a", b"b"])

    assert answer_to(app, b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nab")


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
def test_no_body_where_none_belongs(status: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [("Content-Length", "4")] if status.startswith("200") else [])
        return [b"body"]

    with running(app) as port, connect(port) as client:
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n" + CLOSING.replace(b"GET", b"HEAD"))
        answers = read_all(client)
    assert answers.count(b"HTTP/1.1 ") == 2
    assert b"body" not in answers


def test_an_application_that_fails_at_once_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raise ValueError("secret")

    answer = answer_to(app)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer
    assert "ValueError: secret" in caplog.text


@pytest.mark.parametrize("headers", [[], [("Content-Length", "100")]])
def test_an_answer_that_breaks_off_is_seen_to_be_broken(headers: list[tuple[str, str]]) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", headers)
        write(b"half")
        yield b"."
        raise ValueError

    answer = answer_to(app)
    assert b"half" in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_an_answer_shorter_than_it_says_is_cut_off_and_not_kept_alive() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "100")])
        return [b"short"]

    assert answer_to(app, CLOSING.replace(b"close", b"keep-alive")).startswith(b"HTTP/1.1 500 ")


def test_a_header_cannot_be_split() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("X", "a\r\nSet-Cookie: b")])
        return [b""]

    answer = answer_to(app)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Set-Cookie" not in answer


def test_a_client_that_leaves_a_stream_is_noticed_and_the_iterator_closed() -> None:
    begun, closed = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"x"
            begun.set()
            while not environ["appliance.client_is_gone"]():
                threading.Event().wait(0.005)
        finally:
            closed.set()

    with running(app) as port:
        with connect(port) as client:
            client.sendall(CLOSING)
            assert begun.wait(20)
            assert not closed.is_set()
        assert closed.wait(20)


def test_an_ipv4_client_of_an_ipv6_listener_has_its_own_address() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [environ["REMOTE_ADDR"].encode()]

    with running(app, host="::") as port, connect(port, "127.0.0.5") as client:
        client.sendall(CLOSING)
        assert b"\r\n127.0.0.5\r\n" in read_all(client)


def test_who_has_finished_sending_still_gets_the_answer() -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with running(app) as port, connect(port) as client:
        client.sendall(CLOSING)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).endswith(b"ok")


def test_a_client_is_there_while_its_next_request_waits() -> None:
    seen = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["appliance.client_is_gone"]())
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with running(app, given=limits()) as port, connect(port) as client:
        client.sendall(CLOSING.replace(b"close", b"keep-alive") * 3)
        for _ in range(3):
            assert read_answer(client) == (200, b"ok")
    assert seen == [False] * 3


def test_stopping_lets_a_stream_know_and_ends_it() -> None:
    begun, ended = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"x"
        begun.set()
        while not environ["appliance.client_is_gone"]():
            threading.Event().wait(0.005)
        ended.set()

    with running(app) as port, connect(port) as client:
        client.sendall(CLOSING)
        assert begun.wait(20)
    assert ended.wait(20)
