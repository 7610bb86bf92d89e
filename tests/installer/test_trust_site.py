"""What a site remembers when somebody takes its memory away: real installations, and the second copies."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from installer.errors import OlderVersionError, TrustLostError
from installer.install import Outcome, install
from installer.site import Site
from tests.installer.archives import Sender, listing
from tests.unprivileged import SERVICE_USER, let_through


def attempt(archive: Path, sender: Sender, prefix: Path) -> Outcome:
    let_through(prefix)
    return install(
        io.BytesIO(archive.read_bytes()), sender.root, prefix, now=datetime.now(UTC), environ=dict(os.environ),
        user=SERVICE_USER,
    )  # fmt: skip


@pytest.fixture(scope="module")
def newest(sender: Sender, release_2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with release 2.0. Do not write to it."""
    prefix = tmp_path_factory.mktemp("trust") / "site"
    attempt(release_2, sender, prefix)
    return prefix


@pytest.fixture
def site(newest: Path, tmp_path: Path) -> Site:
    shutil.copytree(newest, tmp_path / "site", symlinks=True)
    return Site(tmp_path / "site")


def remove_copy(site: Site) -> None:
    shutil.rmtree(site.trust_copy)


def remove_kept(site: Site) -> None:
    shutil.rmtree(site.release("2.0") / "metadata")


def move_aside(site: Site) -> None:
    """What the appliance's user can do to a directory of root's: `state/` is theirs."""
    site.trust.rename(site.state / "elsewhere")
    site.trust.mkdir()


@pytest.mark.parametrize("also", [lambda s: None, remove_copy, remove_kept], ids=["state", "and trust", "and release"])
def test_an_older_archive_is_refused_although_state_trust_is_lost(
    also: Callable[[Site], None], site: Site, sender: Sender, release_1: Path, release_2: Path
) -> None:
    move_aside(site)
    also(site)
    before = listing(site.prefix)
    with pytest.raises(OlderVersionError):
        attempt(release_1, sender, site.prefix)
    assert listing(site.prefix) == before
    outcome = attempt(release_2, sender, site.prefix)
    assert "state/trust was lost or damaged" in outcome.notes[0]
    assert (site.trust / "timestamp.json").read_bytes() == (site.trust_copy / "timestamp.json").read_bytes()
    assert attempt(release_2, sender, site.prefix).notes == ()


def test_a_site_that_remembers_nothing_is_refused(site: Site, sender: Sender, release_2: Path) -> None:
    move_aside(site)
    remove_copy(site)
    remove_kept(site)
    with pytest.raises(TrustLostError):
        attempt(release_2, sender, site.prefix)


def test_the_copy_belongs_to_who_installs(site: Site) -> None:
    assert {path.stat().st_uid for path in site.trust_copy.rglob("*")} == {os.geteuid()}
    assert not any(path.stat().st_mode & 0o022 for path in site.trust_copy.rglob("*"))
