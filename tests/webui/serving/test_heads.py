"""What is read as a request, what is refused, and that no request can be read in two ways."""

from __future__ import annotations

import pytest

from tests.webui.serving.running import connect, limits, read_all, read_answer, running

POST = b"POST / HTTP/1.1\r\nHost: t\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "line feeds alone": (b"GET / HTTP/1.1\nHost: t\n\n", 400),
    "one line feed alone": (b"GET / HTTP/1.1\r\nHost: t\nX: y\r\n\r\n", 400),
    "carriage return within a line": (b"GET / HTTP/1.1\r\nHost: t\r\nX: a\rb\r\n\r\n", 400),
    "NUL in a header": (b"GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n", 400),
    "folded header": (b"GET / HTTP/1.1\r\nHost: t\r\nX: a\r\n b\r\n\r\n", 400),
    "folded with a tab": (b"GET / HTTP/1.1\r\nHost: t\r\nX: a\r\n\tb\r\n\r\n", 400),
    "length and chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "the same length twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "the same length twice in one header": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "two lengths in one header": (POST + b"Content-Length: 5, 6\r\n\r\nhello", 400),
    "signed length": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "length in hexadecimal": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "empty length": (POST + b"Content-Length: \r\n\r\nhello", 400),
    "length of many digits": (POST + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n", 413),
    "space before the colon": (POST + b"Content-Length : 5\r\n\r\nhello", 400),
    "unknown coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "coding before chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "coding twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "coding with a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bad chunk size": (CHUNKED + b"xyz\r\n\r\n", 400),
    "negative chunk size": (CHUNKED + b"-1\r\n\r\n", 400),
    "chunk without its end": (CHUNKED + b"2\r\nabXX0\r\n\r\n", 400),
    "very many small chunks": (CHUNKED + b"1\r\nx\r\n" * 300, 400),
    "chunks below 256 bytes": (CHUNKED + (b"ff\r\n" + b"x" * 255 + b"\r\n") * 300, 400),
    "very many empty lines": (b"\r\n" * 100, 400),
    "endless chunk extension": (CHUNKED + b"2;" + b"a" * 40_000, 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: t\r\n\r\n", 505),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "space in the path": (b"GET /a b HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "no path": (b"GET a HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
    "URL with a user": (b"GET http://a@t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "broken URL": (b"GET http://[:1/ HTTP/1.1\r\nHost: t\r\n\r\n", 400),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "long line": (b"GET /" + b"a" * 40_000, 431),
    "long headers": (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: y\r\n" * 7_000, 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    "empty name": (b"GET / HTTP/1.1\r\nHost: t\r\n: y\r\n\r\n", 400),
}


@pytest.mark.parametrize(("raw", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(raw: bytes, status: int) -> None:
    """The connection ends too, so nothing after it is read as another request."""
    with running() as port, connect(port) as client:
        client.sendall(raw + b"GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n")
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"smuggled" not in answer
    assert answer.count(b"HTTP/1.1 ") == 1


READ = {
    "with a length": (POST + b"Content-Length: 5\r\n\r\nhello", b"POST / 5"),
    "in chunks": (CHUNKED + b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n", b"POST / 5"),
    "in many large chunks": (CHUNKED + (b"100\r\n" + b"x" * 256 + b"\r\n") * 300 + b"0\r\n\r\n", b"POST / 76800"),
    "after an empty line": (b"\r\n\r\nGET /a HTTP/1.1\r\nHost: t\r\n\r\n", b"GET /a 0"),
    "HTTP/1.0": (b"GET /a HTTP/1.0\r\n\r\n", b"GET /a 0"),
    "whole URL": (b"GET http://t/a/b?c HTTP/1.1\r\nHost: t\r\n\r\n", b"GET /a/b 0"),
    "whole URL without a path": (b"GET http://t HTTP/1.1\r\nHost: t\r\n\r\n", b"GET / 0"),
    "an upgrade is ignored": (b"GET /a HTTP/1.1\r\nHost: t\r\nUpgrade: h2c\r\n\r\n", b"GET /a 0"),
}


@pytest.mark.parametrize(("raw", "text"), READ.values(), ids=READ.keys())
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_reads_in_pieces_of_any_size(raw: bytes, text: bytes, size: int) -> None:
    size = max(size, len(raw) // 1000)
    with running() as port, connect(port) as client:
        for at in range(0, len(raw), size):
            client.sendall(raw[at : at + size])
        assert read_answer(client) == (200, text)


def test_answers_a_pipeline_in_order() -> None:
    with running() as port, connect(port) as client:
        paths = [f"/{number}" for number in range(50)]
        requests = [f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx" for path in paths]
        client.sendall("".join(requests).encode())
        for path in paths:
            assert read_answer(client) == (200, f"POST {path} 1".encode())


def test_a_chunked_request_is_the_last_of_its_connection() -> None:
    """If a proxy reads its end differently, nothing can follow it."""
    with running() as port, connect(port) as client:
        client.sendall(CHUNKED + b"0\r\n\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"smuggled" not in read_all(client)


def test_a_waiting_client_is_told_to_go_on() -> None:
    with running() as port, connect(port) as client:
        client.sendall(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += client.recv(100)
        assert received.startswith(b"HTTP/1.1 100 ")
        client.sendall(b"hello")
        assert read_answer(client) == (200, b"POST / 5")


TOO_LARGE = {
    "waiting": b"Content-Length: 2000\r\nExpect: 100-continue\r\n\r\n",
    "sent": b"Content-Length: 2000\r\n\r\n" + b"x" * 2000,
    "in chunks": b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_a_body_that_is_too_large_reaches_the_application_as_its_length_alone(body: bytes) -> None:
    with running(given=limits(body_bytes=1000)) as port, connect(port) as client:
        client.sendall(POST + body)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"POST / 0")


def test_headers_with_an_underscore_do_not_pass_for_others() -> None:
    seen = []

    def app(environ: dict[str, object], start_response: object) -> list[bytes]:
        seen.append({name: value for name, value in environ.items() if name.startswith("HTTP_")})
        start_response("200 OK", [("Content-Length", "0")])  # type: ignore[operator]
        return []

    with running(app) as port, connect(port) as client:
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: t\r\nX_Forwarded_For: 1.2.3.4\r\nX-Two: a\r\nX-Two: b\r\nCookie: a=1\r\n"
            b"Cookie: b=2\r\n\r\n"
        )
        read_answer(client)
    assert seen == [{"HTTP_HOST": "t", "HTTP_X_TWO": "a,b", "HTTP_COOKIE": "a=1; b=2"}]


def test_a_chunk_that_has_only_begun_is_no_small_one() -> None:
    whole = b"100\r\n" + b"x" * 256 + b"\r\n"
    with running() as port, connect(port) as client, connect(port) as other:
        client.sendall(CHUNKED + whole * 270 + whole[:15])
        other.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert read_answer(other) == (200, b"GET / 0")  # by now the loop has read the earlier bytes
        client.sendall(whole[15:] + b"0\r\n\r\n")
        assert read_answer(client) == (200, b"POST / 69376")
