"""A sender with keys, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installer.archives import Sender, release_files, small_files


@pytest.fixture(scope="session")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    return Sender.make(tmp_path_factory.mktemp("sender") / "a")


@pytest.fixture(scope="session")
def release_1(sender: Sender) -> Path:
    """An archive that can be installed."""
    return sender.archive(release_files("1.0"), "release-1", version=1)


@pytest.fixture(scope="session")
def release_2(sender: Sender) -> Path:
    """A newer one from the same sender."""
    return sender.archive(release_files("2.0"), "release-2", version=2)


@pytest.fixture(scope="session")
def small(sender: Sender) -> bytes:
    """A small archive that verifies, for tests of the file alone."""
    return sender.archive(small_files(), "small", version=10).read_bytes()
