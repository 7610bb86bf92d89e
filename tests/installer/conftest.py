"""A sender with keys, made once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.installer.archives import Sender, release_files, small_files
from tests.installer.sites import NOW, copy_site, install_archive


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


@pytest.fixture(scope="session")
def two_releases(release_1: Path, release_2: Path, sender: Sender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site whose current release is 2.0 and whose previous one is 1.0. Copy it to change it."""
    prefix = tmp_path_factory.mktemp("two") / "site"
    install_archive(release_1, sender, prefix, now=NOW - timedelta(hours=2))
    install_archive(release_2, sender, prefix, now=NOW - timedelta(hours=1))
    return prefix


@pytest.fixture
def site(two_releases: Path, tmp_path: Path) -> Path:
    """A copy of that site, for this test alone."""
    return copy_site(two_releases, tmp_path / "site")
