"""What the application learns about its client. tests/webui/serving shows that the server knows it."""

from __future__ import annotations

from flask import Flask

from webui.serving.environ import CLIENT_IS_GONE
from webui.streaming import client_is_gone


def test_the_server_is_asked_each_time() -> None:
    answers = iter([False, True])
    with Flask("t").test_request_context(environ_base={CLIENT_IS_GONE: lambda: next(answers)}):
        assert [client_is_gone(), client_is_gone()] == [False, True]


def test_under_a_server_that_does_not_say_nobody_is_gone() -> None:
    with Flask("t").test_request_context():
        assert not client_is_gone()
