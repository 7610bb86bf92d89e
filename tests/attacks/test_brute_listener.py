"""Code inside one web worker turns the listener, which all workers share, against the others."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from tests.webui.serving.running import running
from webui.serving import server as serving


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Descriptors of the same listener, as another worker holds them."""
    held: list[int] = []
    listen = socket.socket.listen

    def listen_and_share(self: socket.socket, backlog: int = 128) -> None:
        held.append(os.dup(self.fileno()))
        listen(self, backlog)

    monkeypatch.setattr(serving._Listener, "listen", listen_and_share)
    yield held
    for descriptor in held:
        os.close(descriptor)


def get(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        return bytes(answer.read())


def test_a_listener_that_is_made_to_wait_has_no_loop_wait(shared: list[int]) -> None:
    """An event loop accepts until nobody is left. With a blocking listener the last accept would wait for the next
    person, and everybody with it.
    """
    with running() as port:
        assert get(port) == b"GET / 0"
        for descriptor in shared:
            os.set_blocking(descriptor, True)
        answers: list[bytes] = []
        asking = threading.Thread(target=lambda: answers.append(get(port)), daemon=True)
        asking.start()
        asking.join(30)
        assert answers == [b"GET / 0"]
        assert not any(os.get_blocking(descriptor) for descriptor in shared)


def test_a_connection_that_another_worker_took_has_no_loop_wait() -> None:
    """The listener blocks and nobody is there. A loop that woke up together with another worker's meets this."""
    with (
        socket.create_server(("127.0.0.1", 0)) as waiting,
        serving._Listener(fileno=os.dup(waiting.fileno())) as shared,
        pytest.raises(BlockingIOError),
    ):
        shared.accept()
