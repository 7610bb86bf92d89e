"""What is asked of the connection itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from flask import Flask

from webui.streaming import client_is_gone, send_at_once


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection on loopback: the server's end, the client's end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield server, client


def gone(connection: socket.socket) -> bool:
    with Flask("t").test_request_context(environ_base={"gunicorn.socket": connection}):
        return client_is_gone()


def test_a_quiet_client_is_there(pair: tuple[socket.socket, socket.socket]) -> None:
    assert not gone(pair[0])


def test_a_client_that_has_closed_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].close()
    assert gone(pair[0])


def test_a_client_that_was_cut_off_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with RST
    pair[1].close()
    assert gone(pair[0])


def test_a_request_that_waits_behind_this_one_is_not_read(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(b"GET /next")
    assert not gone(pair[0])
    assert pair[0].recv(100) == b"GET /next"


def test_without_a_socket_nobody_is_gone() -> None:
    with Flask("t").test_request_context():
        assert not client_is_gone()


def test_small_pieces_are_not_held_back(pair: tuple[socket.socket, socket.socket]) -> None:
    with Flask("t").test_request_context(environ_base={"gunicorn.socket": pair[0]}):
        send_at_once()
    assert pair[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_unix_socket_has_no_such_delay() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Flask("t").test_request_context(environ_base={"gunicorn.socket": ours}):
        send_at_once()
