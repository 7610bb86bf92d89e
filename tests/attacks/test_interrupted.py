"""An installation that is interrupted from outside: by signals, by a pipe that ends, by another installer, by limits.
The old release is served meanwhile, nobody sees a traceback, and the same command then ends what was begun.
"""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from installer.site import Site
from tests.attacks.test_kills import is_tidy, serves_whole
from tests.attacks.test_odd_surroundings import COMMAND, run
from tests.installer.archives import Sender, listing, release_files
from tests.installer.sites import copy_site, install_archive
from tests.unprivileged import USER_OPTION
from tests.waiting import wait_for

OLD, NEW = "1.0", "2.0"


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    return Sender.make(tmp_path_factory.mktemp("interrupted") / "sender")


@pytest.fixture(scope="module")
def new(sender: Sender) -> Path:
    return sender.archive(release_files(NEW, extra={"model/weights-00002.bin": bytes(1 << 20)}), "new", version=2)


@pytest.fixture(scope="module")
def installed(sender: Sender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("interrupted") / "site"
    install_archive(sender.archive(release_files(OLD), "old", version=1), sender, prefix)
    return prefix


@pytest.fixture
def site(installed: Path, tmp_path: Path) -> Path:
    return copy_site(installed, tmp_path / "site")


def arguments(archive: Path | str, sender: Sender, site: Path) -> list[str]:
    return ["install", str(archive), "--root", str(sender.root_path), "--prefix", str(site), *USER_OPTION]


@pytest.fixture
def stalled(new: Path, sender: Sender, site: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An installation from a pipe that brings a part of the archive and then nothing."""
    command = [*COMMAND, *arguments("-", sender, site)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(new.read_bytes()[:-100_000])
    process.stdin.flush()
    wait_for((site / ".incoming").is_dir)
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGINT] * 3, 1), ([signal.SIGTERM], -signal.SIGTERM), ([signal.SIGHUP], -signal.SIGHUP),
    ],
    ids=["three Ctrl-C", "SIGTERM", "SIGHUP"],
)  # fmt: skip
def test_signals_leave_the_old_release_and_the_same_command_goes_on(
    numbers: Sequence[int], status: int, stalled: subprocess.Popen[bytes], new: Path, sender: Sender, site: Path
) -> None:
    for number in numbers:
        stalled.send_signal(number)
    said = stalled.communicate()[1].decode()
    assert stalled.returncode == status, said
    assert "Traceback" not in said
    assert serves_whole(site) == OLD
    assert run(arguments(new, sender, site)).returncode == 0
    assert serves_whole(site) == NEW
    assert is_tidy(site)


def test_a_pipe_that_stalls_and_ends_is_an_archive_that_is_too_short(
    stalled: subprocess.Popen[bytes], new: Path, sender: Sender, site: Path, installed: Path
) -> None:
    second = run(arguments(new, sender, site))
    assert second.returncode == 1
    assert f"BusyError: another installer is working on {site}" in second.stderr
    said = stalled.communicate()[1].decode()
    assert stalled.returncode == 1
    assert "TruncatedArchiveError: the archive ends too early" in said
    assert listing(site) == listing(installed)


@pytest.mark.parametrize("limit", [10, 20])
def test_the_run_after_one_with_too_few_open_files_ends_it(limit: int, new: Path, sender: Sender, site: Path) -> None:
    command = arguments(new, sender, site)
    done = run(command, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
    assert "Traceback" not in done.stderr
    assert serves_whole(site) == (NEW if done.returncode == 0 else OLD)
    assert Site(site).pointed("current") is not None
    assert run(command).returncode == 0
    assert serves_whole(site) == NEW
    assert is_tidy(site)
