"""The engine's sockets: one slow, silent or broken client costs the others nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from appliance.engine.connections import MAX_UNSENT_BYTES, Connection, ConnectionLoop
from appliance.engine.wire import MAX_LINE_BYTES, Record, decode, encode
from appliance.turns.events import AnswerDelta, Failed, Started
from tests.fakes import FAKE_STATUS, done
from tests.waiting import HELD_S, wait_for


class Bench:
    """A running loop; ``asked`` and ``gone`` collect its callbacks."""

    def __init__(self) -> None:
        self.web, self.bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asked: list[tuple[Connection, bytes]] = []
        self.gone: list[Connection] = []
        self.abandoned = threading.Event()
        self.loop = ConnectionLoop(
            self.bell,
            on_request=lambda connection, line: self.asked.append((connection, line)),
            on_gone=self.gone.append,
            on_abandoned=self.abandoned.set,
        )
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def ring(self, line: bytes = b"{}\n") -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.web, [b"\x01"], [theirs.fileno()])
        ours.settimeout(HELD_S)
        try:
            ours.sendall(line)
        except OSError:  # the engine was quicker to close it
            ours.close()
            raise
        return ours

    def accepted(self, line: bytes = b"{}\n") -> tuple[socket.socket, Connection]:
        before = len(self.asked)
        ours = self.ring(line)
        wait_for(lambda: len(self.asked) > before)
        return ours, self.asked[-1][0]

    def close(self) -> None:
        self.loop.stop(0.5)
        self.thread.join(10)
        self.loop.close()
        self.web.close()
        self.bell.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def read_all(stream: socket.socket) -> bytes:
    with stream, stream.makefile("rb") as file:
        return file.read()


def test_a_request_in_pieces_arrives_whole(bench: Bench) -> None:
    ours = bench.ring(b'{"a"')
    time.sleep(0.02)
    ours.sendall(b":1}")
    time.sleep(0.02)
    assert bench.asked == []
    ours.sendall(b"\n")
    wait_for(lambda: bench.asked)
    assert bench.asked[0][1] == b'{"a":1}\n'
    ours.close()


def test_records_arrive_in_order_and_the_last_closes(bench: Bench) -> None:
    ours, connection = bench.accepted()
    records: list[Record] = [Started(1, 0.0), *(AnswerDelta(str(n)) for n in range(500)), done()]
    for record in records:
        connection.send(record)
    connection.send(AnswerDelta("after the end"))
    assert [decode(line) for line in read_all(ours).splitlines()] == records
    assert bench.gone == []


def test_a_status_closes_too(bench: Bench) -> None:
    ours, connection = bench.accepted()
    connection.send(FAKE_STATUS)
    assert decode(read_all(ours)) == FAKE_STATUS


def test_a_client_that_leaves_is_reported_and_gets_nothing_more(bench: Bench) -> None:
    ours, connection = bench.accepted()
    ours.close()
    wait_for(lambda: bench.gone)
    assert bench.gone == [connection]
    assert connection.gone
    connection.send(AnswerDelta("x"))
    assert not connection.unsent


def test_a_client_that_does_not_read_is_given_up_and_others_go_on(bench: Bench) -> None:
    slow, slow_connection = bench.accepted()
    quick, quick_connection = bench.accepted()
    piece = AnswerDelta("x" * 10_000)
    for _ in range(3 * MAX_UNSENT_BYTES // 10_000):
        slow_connection.send(piece)
    wait_for(lambda: bench.gone == [slow_connection])
    quick_connection.send(done())
    assert decode(read_all(quick)) == done()
    slow.close()


def test_a_client_that_reads_late_but_not_too_late_gets_everything(bench: Bench) -> None:
    ours, connection = bench.accepted()
    piece = AnswerDelta("y" * 1000)
    for _ in range(600):
        connection.send(piece)
    connection.send(done())
    time.sleep(0.05)
    assert read_all(ours) == encode(piece) * 600 + encode(done())


@pytest.mark.parametrize("line", [b"1\n2", b"1\n2\n", b"x" * (MAX_LINE_BYTES + 100_000)], ids=["two", "lines", "long"])
def test_more_than_one_line_or_too_long_a_line_is_refused(bench: Bench, line: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(bench.web, [b"\x01"], [theirs.fileno()])
    sender = threading.Thread(target=_send_quietly, args=(ours, line))
    sender.start()
    with ours:
        failure = decode(ours.recv(65536))
        sender.join(10)
    assert isinstance(failure, Failed)
    assert failure.code == "bad_request"
    assert bench.asked == []


def _send_quietly(stream: socket.socket, data: bytes) -> None:
    try:
        stream.sendall(data)
    except OSError:
        return  # refused half-way, as it should be


def test_a_second_request_on_a_connection_ends_it(bench: Bench) -> None:
    ours, connection = bench.accepted()
    ours.sendall(b"{}\n")
    wait_for(lambda: bench.gone == [connection])
    ours.close()


def test_descriptors_that_are_no_sockets_are_closed(bench: Bench) -> None:
    read_end, write_end = os.pipe()
    socket.send_fds(bench.web, [b"\x01"], [write_end])
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == b""  # returns only once the last copy of the writing end is closed


def test_no_descriptor_stays_open_after_many_turns(bench: Bench) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for number in range(50):
        ours, connection = bench.accepted()
        if number % 2:
            connection.send(done())
            read_all(ours)
        ours.close()
    wait_for(lambda: descriptors() == before)


def test_stop_lets_queued_records_out_first() -> None:
    bench = Bench()
    ours, connection = bench.accepted()
    connection.send(done())
    bench.close()
    assert decode(read_all(ours)) == done()


def test_stop_does_not_wait_for_a_client_that_does_not_read() -> None:
    bench = Bench()
    ours, connection = bench.accepted()
    for _ in range(60):
        connection.send(AnswerDelta("z" * 10_000))
    began = time.monotonic()
    bench.close()
    assert time.monotonic() - began < 5
    ours.close()


def test_the_end_of_the_doorbell_is_reported(bench: Bench) -> None:
    bench.web.close()
    assert bench.abandoned.wait(10)
