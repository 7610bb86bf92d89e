"""Strangers who hold connections: half requests, slow drips, idlers, clients that never read, and very many of each.

In each test somebody else asks at the same time and must be answered.
"""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from appliance.people.accounts import Role
from tests.fakes import FakeEngine
from tests.waiting import wait_for
from tests.webui.conftest import MakeSite, empty_database, make_site
from tests.webui.served import gunicorn, write_release
from tests.webui.serving.running import Clock, Environ, ask, connect, limits, read_all, read_answer, running

__all__ = ["empty_database", "make_site"]  # fixtures of tests/webui, used here

REQUEST = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"
HALF = REQUEST[:-4]


class Answers:
    """Counts what runs in threads, and holds it until ``go_on`` is set."""

    def __init__(self) -> None:
        self.running = 0
        self.ended = 0
        self.go_on = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/":
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]
        if environ["PATH_INFO"] == "/large":
            start_response("200 OK", [("Content-Length", str(64 << 20))])
            return self._counted(b"x" * (1 << 20) for _ in range(64))
        if environ["PATH_INFO"] == "/hold":
            self._count(1)
            self.go_on.wait()
            self._count(-1)
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]
        start_response("200 OK", [])
        return self._counted(self._stream(environ))

    def _stream(self, environ: Environ) -> Iterator[bytes]:
        yield b"first"
        if environ["PATH_INFO"] == "/quiet":
            self.go_on.wait()
        while environ["PATH_INFO"] == "/flood" or not (self.go_on.wait(0.01) or environ["appliance.client_is_gone"]()):
            yield b"x" * 65536 if environ["PATH_INFO"] == "/flood" else b"."

    def _counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        self._count(1)
        try:
            yield from pieces
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.running += change
            self.ended += change < 0


def test_half_requests_take_no_thread_and_end_with_408() -> None:
    clock = Clock()
    with running(threads=2, clock=clock) as port, ExitStack() as open_ones:
        halves = [open_ones.enter_context(connect(port)) for _ in range(50)]
        for half in halves:
            half.sendall(HALF)
        assert ask(port)[0] == 200
        clock.now_s += 10.1
        assert {read_all(half).split(b"\r\n")[0] for half in halves} == {b"HTTP/1.1 408 Request Timeout"}


@pytest.mark.parametrize("piece", [b"a", b"\r\n", b"X: y\r\n"])
def test_a_head_that_drips_ends_ten_seconds_after_its_first_byte(piece: bytes) -> None:
    clock = Clock()
    start = b"" if piece == b"\r\n" else b"GET / HTTP/1.1\r\n"
    with running(clock=clock) as port, connect(port) as dripping:
        dripping.sendall(REQUEST)
        assert read_answer(dripping)[0] == 200
        dripping.sendall(start + piece)
        ended = False
        for _ in range(12):
            assert ask(port)[0] == 200  # everything sent so far has been read by then
            clock.now_s += 1
            try:
                dripping.sendall(piece)
            except OSError:
                ended = True
                break
        # 400 if many empty lines were read at once, because a busy machine read them late.
        assert ended or read_all(dripping)[:12] in (b"HTTP/1.1 408", b"HTTP/1.1 400", b"")


def test_a_body_that_comes_too_slowly_ends_with_408() -> None:
    clock = Clock()
    with running(clock=clock) as port, connect(port) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 9000)
        assert ask(port)[0] == 200
        clock.now_s += 10.1
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")


def test_a_slow_line_may_take_its_time() -> None:
    clock = Clock()
    sent = []

    def counting(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        sent.append(len(environ["wsgi.input"].read()))
        start_response("200 OK", [("Content-Length", "0")])
        return []

    with running(counting, clock=clock) as port, connect(port) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 55000\r\n\r\n")
        for _ in range(5):
            slow.sendall(b"x" * 11_000)
            assert ask(port)[0] == 200
            clock.now_s += 9.9
        assert read_answer(slow)[0] == 200
    assert 55_000 in sent


def test_idle_connections_take_no_thread_and_end() -> None:
    clock = Clock()
    with running(threads=2, clock=clock) as port, ExitStack() as open_ones:
        idle = [open_ones.enter_context(connect(port)) for _ in range(50)]
        for connection in idle:
            connection.sendall(REQUEST)
            assert read_answer(connection)[0] == 200
        assert ask(port)[0] == 200
        clock.now_s += 59
        idle[0].sendall(REQUEST)
        assert read_answer(idle[0])[0] == 200
        clock.now_s += 1.1
        assert {read_all(connection) for connection in idle[1:]} == {b""}
        idle[0].sendall(REQUEST)
        assert read_answer(idle[0])[0] == 200


def test_connections_that_say_nothing_end() -> None:
    clock = Clock()
    with running(clock=clock) as port, connect(port) as silent:
        assert ask(port)[0] == 200
        clock.now_s += 10.1
        assert read_all(silent) == b""


def pass_time_until(clock: Clock, condition: Callable[[], bool]) -> None:
    """First fill the kernel's buffers; then nothing moves any more, and only time can end it."""
    while not condition():
        clock.now_s += 10.1
        threading.Event().wait(0.02)


def test_who_does_not_read_a_whole_answer_holds_no_thread() -> None:
    answers, clock = Answers(), Clock()
    given = limits(answer_bytes=1 << 20, streams=8)
    with running(answers, threads=2, clock=clock, given=given) as port, ExitStack() as open_ones:
        readers = [open_ones.enter_context(connect(port)) for _ in range(6)]
        for reader in readers:
            reader.sendall(REQUEST.replace(b" / ", b" /large "))
        wait_for(lambda: answers.running == 6)
        assert ask(port)[0] == 200
        pass_time_until(clock, lambda: answers.ended == 6)
        assert ask(port)[0] == 200


def test_who_stops_reading_a_stream_ends_it() -> None:
    answers, clock = Answers(), Clock()
    with running(answers, clock=clock) as port, connect(port) as reader:
        reader.sendall(REQUEST.replace(b" / ", b" /flood "))
        wait_for(lambda: answers.running == 1)
        pass_time_until(clock, lambda: answers.ended == 1)
        assert ask(port)[0] == 200


def test_a_stream_that_is_read_lasts() -> None:
    answers, clock = Answers(), Clock()
    with running(answers, clock=clock) as port, connect(port) as reader:
        reader.sendall(REQUEST.replace(b" / ", b" /stream ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        for _ in range(20):
            clock.now_s += 10.1
            assert reader.recv(65536)
        answers.go_on.set()
        assert read_all(reader).endswith(b"0\r\n\r\n")


def test_unread_answers_of_a_pipeline_make_no_thread_wait() -> None:
    """Each answer alone is handed over at once. The next request waits until it is read."""
    answers = Answers()
    with running(answers, threads=1) as port, connect(port) as pipelining:
        pipelining.sendall(REQUEST.replace(b" / ", b" /large ") + REQUEST * 50)
        assert ask(port)[0] == 200
        assert ask(port)[0] == 200


def test_three_hundred_streams_leave_room_for_pages() -> None:
    answers = Answers()
    given = limits(connections=1000, connections_per_address=1000)
    with running(answers, threads=2, given=given) as port, ExitStack() as open_ones:
        streams = [open_ones.enter_context(connect(port)) for _ in range(300)]
        for stream in streams:
            stream.sendall(REQUEST.replace(b" / ", b" /quiet "))
            assert stream.recv(10)
        wait_for(lambda: answers.running == 300)
        assert ask(port)[0] == 200
        answers.go_on.set()


def test_one_address_cannot_take_all_connections() -> None:
    given = limits(connections=100, connections_per_address=10)
    with running(given=given) as port, ExitStack() as open_ones:
        kept = open_ones.enter_context(connect(port, "127.0.0.3"))
        held = [open_ones.enter_context(connect(port, "127.0.0.2")) for _ in range(50)]
        assert ask(port, source="127.0.0.2")[0] == 200  # in place of its own oldest one
        for lost in held[:40]:
            assert read_all(lost) == b""
        kept.sendall(REQUEST)
        assert read_answer(kept)[0] == 200


def test_a_trusted_proxy_may_have_more() -> None:
    given = limits(connections=100, connections_per_address=10)
    with running(given=given, is_exempt=lambda address: address == "127.0.0.2") as port, ExitStack() as open_ones:
        held = [open_ones.enter_context(connect(port, "127.0.0.2")) for _ in range(50)]
        for connection in held:
            connection.sendall(REQUEST)
            assert read_answer(connection)[0] == 200


def test_when_all_places_are_taken_the_longest_quiet_goes_and_no_answer() -> None:
    answers = Answers()
    with running(answers, given=limits(connections=20)) as port, ExitStack() as open_ones:
        waiting = open_ones.enter_context(connect(port))
        waiting.sendall(REQUEST.replace(b" / ", b" /hold "))
        wait_for(lambda: answers.running == 1)
        quiet = [open_ones.enter_context(connect(port, f"127.0.0.{2 + number}")) for number in range(60)]
        assert ask(port, source="127.0.0.100")[0] == 200
        assert read_all(quiet[0]) == b""
        answers.go_on.set()
        assert read_answer(waiting) == (200, b"ok")


def test_bodies_on_their_way_cannot_fill_the_memory() -> None:
    given = limits(bodies_bytes=1 << 20)
    with running(given=given) as port, ExitStack() as open_ones:
        senders = [open_ones.enter_context(connect(port)) for _ in range(10)]
        for sender in senders:
            sender.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 500000\r\n\r\n" + b"x" * 400_000)
            assert ask(port)[0] == 200
        for lost in senders[:7]:
            assert read_all(lost) == b""
        senders[-1].sendall(b"x" * 100_000)
        assert read_answer(senders[-1]) == (200, b"POST / 500000")


def test_bodies_that_wait_for_a_thread_count_too() -> None:
    """Whole requests with large bodies arrive while every thread is taken. Later ones give way."""
    answers = Answers()
    with running(answers, threads=1, given=limits(bodies_bytes=1 << 20)) as port, ExitStack() as open_ones:
        holding = open_ones.enter_context(connect(port))
        holding.sendall(REQUEST.replace(b" / ", b" /hold "))
        wait_for(lambda: answers.running == 1)
        post = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000
        waiting = [open_ones.enter_context(connect(port)) for _ in range(2)]
        for sender in waiting:
            sender.sendall(post)
        for _ in range(5):  # each round trip lets the event loop read what has arrived on every connection
            with connect(port) as refused:
                refused.sendall(b"\n\n")
                assert read_all(refused).startswith(b"HTTP/1.1 400 ")
        late = [open_ones.enter_context(connect(port)) for _ in range(3)]
        for sender in late:
            with contextlib.suppress(OSError):
                sender.sendall(post)
            assert read_all(sender) == b""
        answers.go_on.set()
        for sender in waiting:
            assert read_answer(sender) == (200, b"ok")


def test_a_crowd_of_requests_from_one_address_does_not_hold_up_another() -> None:
    answers = Answers()
    with running(answers, threads=1, given=limits(waiting_requests=40)) as port, ExitStack() as open_ones:
        holding = open_ones.enter_context(connect(port, "127.0.0.2"))
        holding.sendall(REQUEST.replace(b" / ", b" /hold "))
        wait_for(lambda: answers.running == 1)
        many = [open_ones.enter_context(connect(port, "127.0.0.2")) for _ in range(60)]
        for one in many:
            one.sendall(REQUEST.replace(b" / ", b" /hold "))
        assert sum(read_all(one).startswith(b"HTTP/1.1 503 ") for one in many[20:]) == 40
        other = open_ones.enter_context(connect(port, "127.0.0.3"))
        other.sendall(REQUEST)
        answers.go_on.set()
        assert read_answer(other) == (200, b"ok")


def test_two_thousand_connections_do_not_stop_sign_in_and_chat(make_site: MakeSite) -> None:
    """On the real worker, from many addresses: a third idle, a third with half a request, a third with half a body."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    number = min(2000, hard - 500)
    site = make_site(FakeEngine())
    user = site.add_user("ada", Role.USER)
    key = site.add_key(user)
    home = site.services.config.home
    write_release(home / "current", "gpt-oss-fake")
    sent = (b"", HALF, b"POST /sign-in HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nname=")
    try:
        with gunicorn(home, site.engine.doorbell) as port, ExitStack() as open_ones:
            for count in range(number):
                held = open_ones.enter_context(connect(port, f"127.0.1.{1 + count % 40}"))
                held.sendall(sent[count % 3])
            assert _status(port, "GET", "/healthz") == 200
            assert _status(port, "GET", "/sign-in") == 200
            body = '{"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hello"}]}'
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            assert _status(port, "POST", "/v1/chat/completions", body, headers) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _status(port: int, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def test_half_open_sockets_of_clients_that_vanished_end() -> None:
    """A client resets its connection in the middle of everything and leaves nothing behind."""
    answers = Answers()
    with running(answers) as port:
        with connect(port) as vanishing:
            vanishing.sendall(REQUEST.replace(b" / ", b" /stream "))
            assert vanishing.recv(10)
            vanishing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wait_for(lambda: answers.ended == 1)
        assert ask(port)[0] == 200
