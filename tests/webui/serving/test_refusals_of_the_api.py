"""What the server refuses by itself has the API's JSON under /v1, and plain text elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from tests.webui.serving.running import Clock, Environ, connect, limits, read_all, running
from tests.webui.serving.test_heads import REFUSED
from webui.serving.refusals import CODES

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BAD = {
    "bad chunk size": (CHUNKED + b"xyz\r\n\r\n", 400),
    "chunk size of too many digits": (CHUNKED + b"f" * 21 + b"\r\n", 400),
    "chunk size with a sign": (CHUNKED + b"+5\r\nhello\r\n", 400),
    "empty chunk size": (CHUNKED + b"\r\nhello\r\n", 400),
    "chunk without its end": (CHUNKED + b"2\r\nabXX0\r\n\r\n", 400),
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "unknown coding": (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "length of many digits": (HEAD + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n", 413),
    "long headers": (HEAD + b"X: y\r\n" * 7_000, 431),
    "many headers": (HEAD + b"X: y\r\n" * 101 + b"\r\n", 431),
    "long line": (b"GET /v1/models/" + b"a" * 40_000, 431),
    "line feeds alone": (b"GET /v1/models HTTP/1.1\nHost: t\n\n", 400),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
    "no version": (b"GET /v1/models\r\n\r\n", 400),
    "two spaces": (b"GET  /v1/models HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "space in the path": (b"GET /v1/models/a b HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "another version": (b"GET /v1/models HTTP/3.0\r\nHost: t\r\n\r\n", 505),
    "small letters": (b"get /v1/models HTTP/1.1\r\nHost: t\r\n\r\n", 501),
    "whole URL": (b"GET HTTP://a@t/v1/models HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "two slashes": (b"GET //v1//models HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n", 400),
    "after an empty line": (b"\r\nGET /v1?a HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n", 400),
}


def check(answer: bytes, status: int) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert b"\r\nX-Request-Id: req_" in head
    error = json.loads(body)["error"]
    assert (error["code"], error["param"]) == (CODES[status][1], None)
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert error["message"].endswith(".")


@pytest.mark.parametrize(("raw", "status"), BAD.values(), ids=BAD.keys())
def test_a_refusal_under_v1_is_json(raw: bytes, status: int) -> None:
    with running() as port, connect(port) as client:
        client.sendall(raw)
        check(read_all(client), status)


@pytest.mark.parametrize("path", [b"/", b"/chat", b"/v10", b"/v1x/models", b"/V1", b"/a/v1/"])
def test_a_refusal_elsewhere_is_text(path: bytes) -> None:
    with running() as port, connect(port) as client:
        client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n")
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in answer


@pytest.mark.parametrize("sent", [b"POST /v1/chat/completions HTT", HEAD + b"Content-Length: 9\r\n\r\nabc"])
def test_a_request_that_comes_too_slowly_is_told_so_in_json(sent: bytes) -> None:
    clock = Clock()
    with running(clock=clock) as port, connect(port) as client:
        client.sendall(sent)
        received = b""
        client.settimeout(0.05)
        while not received:  # the clock moves on until the server has had enough
            clock.now_s += 30
            try:
                received = client.recv(65536)
            except TimeoutError:
                continue
        client.settimeout(60)
        check(received + read_all(client), 408)


def test_an_application_that_fails_is_json_under_v1() -> None:
    def app(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        raise RuntimeError("internal error: /secret/path")

    with running(app) as port, connect(port) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: t\r\n\r\n")
        answer = read_all(client)
    check(answer, 500)
    assert b"secret" not in answer


def test_the_next_request_of_a_connection_decides_for_itself() -> None:
    with running(given=limits()) as port, connect(port) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: t\r\n\r\nGET /chat HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n")
        answer = read_all(client)
    assert answer.count(b"Content-Type: text/plain") == 2  # the application's own, and the refusal
    assert b"application/json" not in answer


def test_every_status_of_the_server_has_a_code() -> None:
    assert {status for _, status in REFUSED.values()} <= set(CODES)
