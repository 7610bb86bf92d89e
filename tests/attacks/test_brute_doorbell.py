"""Code inside a web worker misuses the doorbell, which hands turns to the engine. It keeps what it hands over, hands
over something else, rings without end, and asks what cannot be read. The engine goes on for the others.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from appliance.doorbell import Doorbell
from appliance.engine import connections
from appliance.engine.wire import ProtocolError, decode, encode
from appliance.turns.events import AnswerDelta
from appliance.turns.request import Message, TurnRequest
from tests.appliance.engine.test_connections import Bench, read_all
from tests.fakes import done
from tests.waiting import wait_for

PIECE = AnswerDelta("x" * 10_000)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def hand_over(bench: Bench, descriptor: int) -> None:
    socket.send_fds(bench.web, [b"\x01"], [descriptor])


def is_answered(bench: Bench) -> bool:
    """Whether somebody else's turn runs to its end."""
    ours, connection = bench.accepted()
    connection.send(done())
    return decode(read_all(ours)) == done()


def test_who_keeps_the_end_that_was_handed_over_cannot_have_the_engine_wait_for_it(bench: Bench) -> None:
    """Both ends share their flags. The attacker makes the engine's end blocking, and never reads."""
    ours, theirs = socket.socketpair()
    hand_over(bench, theirs.fileno())
    ours.sendall(b"{}\n")
    wait_for(lambda: bench.asked)
    os.set_blocking(theirs.fileno(), True)
    connection = bench.asked[-1][0]
    for _ in range(60):
        connection.send(PIECE)
    try:
        assert is_answered(bench)
    finally:
        theirs.close()
        ours.close()


def test_who_reads_what_the_engine_was_woken_for_cannot_have_it_wait(bench: Bench) -> None:
    """Both read from one end. The engine wakes up, and the attacker has taken the bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        hand_over(bench, theirs.fileno())
        wait_for(lambda: len(bench.loop._open) == 1)
        os.set_blocking(theirs.fileno(), True)
        (connection,) = bench.loop._open
        bench.loop._read(connection)  # as after such a wake-up: the call must return
        assert is_answered(bench)


def is_closed(bench: Bench) -> bool:
    """Whether the engine closes a turn at once."""
    try:
        with bench.ring() as ours:
            return ours.recv(1) == b""
    except ConnectionError:  # before the request was written or read
        return True


def odd_descriptors(stack: ExitStack) -> dict[str, int]:
    """Everything that a process can hold and that is not an end of a turn."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = stack.enter_context(socket.create_connection(listener.getsockname()))
    accepted = stack.enter_context(listener.accept()[0])
    packets = [stack.enter_context(one) for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    made = {
        "file": os.open(os.devnull, os.O_RDWR), "directory": os.open("/", os.O_RDONLY), "counter": os.eventfd(0),
        "path": os.open("/", os.O_PATH), **dict(zip(("reading", "writing"), os.pipe(), strict=True)),
    }  # fmt: skip
    for fd in made.values():
        stack.callback(os.close, fd)
    poll = stack.enter_context(select.epoll())
    sockets = {"listener": listener, "a person's connection": accepted, "client": client, "packets": packets[0]}
    return made | {name: sock.fileno() for name, sock in sockets.items()} | {"epoll": poll.fileno()}


def test_what_is_no_end_of_a_turn_is_closed(bench: Bench) -> None:
    with ExitStack() as stack:
        odd = odd_descriptors(stack) | {"the doorbell itself": bench.web.fileno()}
        held = set(os.listdir("/proc/self/fd"))
        for descriptor in odd.values():
            hand_over(bench, descriptor)
            assert is_answered(bench)
        wait_for(lambda: set(os.listdir("/proc/self/fd")) <= held)
        assert not bench.loop._open


def test_hundreds_that_ask_nothing_make_way_for_who_asks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 16)
    with ExitStack() as stack:
        asking = [stack.enter_context(bench.accepted()[0]) for _ in range(8)]
        for _ in range(200):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            with theirs:
                hand_over(bench, theirs.fileno())
        assert is_answered(bench)
        assert len(bench.loop._open) <= 16
        assert bench.gone == []  # none of them had asked
        asking += [stack.enter_context(bench.accepted()[0]) for _ in range(8)]
        assert len(bench.loop._open) == 16
        assert is_closed(bench)
        assert bench.gone == []


@pytest.mark.parametrize("message", [b"", b"\x02", b"\x01" * 60_000], ids=["empty", "another", "long"])
def test_a_message_of_another_size_is_no_end_of_the_doorbell(bench: Bench, message: bytes) -> None:
    bench.web.send(message)
    assert is_answered(bench)
    assert not bench.abandoned.is_set()


def test_an_empty_message_does_not_have_the_supervisor_replace_the_doorbell() -> None:
    doorbell = Doorbell()
    with doorbell.web_end, doorbell.engine_end:
        doorbell.web_end.send(b"")
        assert not doorbell.is_shut()
        doorbell.web_end.shutdown(socket.SHUT_WR)
        assert doorbell.is_shut()


def test_a_worker_reads_nothing_of_what_another_hands_over() -> None:
    """Both hold the web's end. What a worker sends there arrives only at the engine's end."""
    doorbell = Doorbell()
    ours, theirs = socket.socketpair()
    with doorbell.web_end, doorbell.engine_end, ours, theirs:
        socket.send_fds(doorbell.web_end, [b"\x01"], [theirs.fileno()])
        ours.sendall(encode(TurnRequest(id="t", user="u", messages=(Message("user", "secret"),), seed=1)))
        with socket.socket(fileno=os.dup(doorbell.web_end.fileno())) as of_another_worker:
            for flags in (0, socket.MSG_PEEK, socket.MSG_OOB, 0x2000):  # and the error queue
                with pytest.raises(OSError, match=r"unavailable|not supported"):
                    of_another_worker.recvmsg(65536, 1024, flags | socket.MSG_DONTWAIT)


TURN = '{"type":"TurnRequest","id":"t","user":"u","seed":1,"messages":[{"role":"user","content":"x"}],%s}'
UNREADABLE = {
    "a number beyond all": TURN % f'"temperature":1{"0" * 400}',
    "a number of 5,000 digits": TURN % f'"max_tokens":{"9" * 5000}',
    "no number": TURN % '"temperature":NaN',
    "nested": "[" * 100_000,
    "nested in a schema": TURN % f'"tools":[{{"name":"f","description":"","parameters":{{"a":{"[" * 5000}',
    "of no type": '{"type":[]}',
    "an answer": '{"type":"TurnRequest"}',
    "not JSON": "\0",
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_in_words(name: str) -> None:
    with pytest.raises(ProtocolError):
        decode(UNREADABLE[name].encode() + b"\n")
