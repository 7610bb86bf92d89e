"""Strangers use up a process's open files, so that others are refused and the log fills."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.people.accounts import Role
from tests.attacks.test_slow_clients import _status
from tests.conftest import require
from tests.fakes import FakeEngine
from tests.webui.conftest import MakeSite
from tests.webui.served import gunicorn, write_release
from tests.webui.serving.running import connect
from webui.serving.limits import LEAST_FILES, STREAM_DESCRIPTORS, OpenFilesError, limits_within

BODY = '{"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hello"}]}'
NUMBER = 2 * LEAST_FILES


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow the test's own process this many sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    require(hard > NUMBER + 500, f"{NUMBER + 500} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_burst_of_connections_uses_up_no_files(make_site: MakeSite, tmp_path: Path) -> None:
    """Twice as many as the process may have open. Each error would be some lines of log, thousands a second."""
    site = make_site(FakeEngine())
    key = site.add_key(site.add_user("ada", Role.USER))
    home, messages = site.services.config.home, tmp_path / "messages"
    write_release(home / "current", "gpt-oss-fake")
    prefix = ("prlimit", f"--nofile={LEAST_FILES}:{LEAST_FILES}")
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with gunicorn(home, site.engine.doorbell, prefix=prefix, messages=messages) as port, ExitStack() as open_ones:
        assert _status(port, "GET", "/healthz") == 200
        for count in range(NUMBER):
            open_ones.enter_context(connect(port, f"127.0.1.{1 + count % 200}"))
        for _ in range(3):
            assert _status(port, "GET", "/sign-in") == 200
            assert _status(port, "POST", "/v1/chat/completions", BODY, headers) == 200
    assert "Too many open files" not in messages.read_text()


@pytest.mark.parametrize("files", [LEAST_FILES, 4096, 20_000, 524_288])
def test_connections_and_streams_together_stay_within_the_limit(files: int) -> None:
    limits = limits_within(files)
    assert limits.connections + STREAM_DESCRIPTORS * limits.streams + 200 <= files
    assert limits.connections >= files // 4 or limits.connections == 20_000


@pytest.mark.parametrize("files", [64, 256, LEAST_FILES - 1])
def test_too_few_open_files_are_said_in_one_sentence(files: int) -> None:
    with pytest.raises(OpenFilesError, match=f"The limit of open files is {files}, and serving needs {LEAST_FILES}"):
        limits_within(files)
