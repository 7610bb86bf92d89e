"""Fixtures for every test, and `require`, by which a test states what it needs from the host: with REQUIRE_ALL=1 a
missing part fails the test, otherwise it is skipped with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.unprivileged import open_the_way, own_temporary_directory

if TYPE_CHECKING:
    from playwright.sync_api import Browser


_TEMPORARY = own_temporary_directory()
WAY_IS_OPEN = open_the_way()  # before any thread or program is started


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What failed stays to be looked at."""
    if _TEMPORARY is not None and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(_TEMPORARY, ignore_errors=True)


def require(present: bool, what: str) -> None:
    """Skip the calling test for want of `what`, or fail it under REQUIRE_ALL=1."""
    if present:
        return
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is missing and REQUIRE_ALL=1 forbids to skip")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    require(path is not None, "a Chromium browser")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """One browser for all tests; each takes a context of its own."""
    from playwright.sync_api import sync_playwright  # a machine with a GPU need not have it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-quic"])
        yield browser
        browser.close()
