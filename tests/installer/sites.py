"""Sites for the tests: installed once, then copied for each test that changes them."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from installer.install import Outcome, install
from installer.progress import SILENT, Progress
from tests.installer.archives import Sender
from tests.unprivileged import SERVICE_USER, let_through

NOW = datetime.now(UTC).replace(microsecond=0)


def install_archive(
    archive: Path, sender: Sender, prefix: Path, progress: Progress = SILENT, now: datetime = NOW
) -> Outcome:
    let_through(prefix)
    with archive.open("rb") as stream:
        return install(
            stream, sender.root, prefix, now=now, environ=dict(os.environ), progress=progress, user=SERVICE_USER
        )


def copy_site(site: Path, to: Path) -> Path:
    """A copy with the same links, modes, owners and times."""
    let_through(to)
    subprocess.run(["cp", "-a", str(site), str(to)], check=True)
    return to


def works(prefix: Path, release: str = "current") -> bool:
    """Whether the release's own command runs and gives its known answers."""
    path = prefix / release
    command = [str(path / "venv" / "bin" / "appliance"), "selftest", "--release", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def exchange(where: object, name: str, value: object) -> None:
    """Put this in the place of a function; only for a child process that dies."""
    setattr(where, name, value)
