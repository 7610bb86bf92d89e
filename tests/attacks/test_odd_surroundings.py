"""A command of the installer in surroundings that nobody made on purpose: standard streams that are closed, limits,
paths that are empty or gone. It does its work, or says in one line what is wrong and what to do.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from installer.cli import main
from installer.commands.output import shown
from installer.site import Site
from tests.conftest import require
from tests.installer.archives import Sender, release_files, small_files
from tests.unprivileged import USER_OPTION, let_through

COMMAND = (sys.executable, "-m", "installer.cli")
LONGEST_LINE = 4200


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    return Sender.make(tmp_path_factory.mktemp("surroundings") / "sender")


@pytest.fixture(scope="module")
def small(sender: Sender) -> Path:
    return sender.archive(small_files(), "small")


def run(
    arguments: Sequence[object], before: Callable[[], object] = lambda: None, by: str = '"$@"'
) -> subprocess.CompletedProcess[str]:
    """Run the command by a shell, which may close or redirect its streams."""
    line = ["bash", "-c", by, "bash", *COMMAND, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, errors="replace", check=False, preexec_fn=before)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, small: Path, sender: Sender) -> None:
    done = run(["verify", small, "--root", sender.root_path], by=f'"$@" {closed}')
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_a_pipe_that_is_closed_is_an_empty_archive(sender: Sender) -> None:
    done = run(["verify", "-", "--root", sender.root_path], by='"$@" 0<&-')
    assert done.returncode == 1
    assert "TruncatedArchiveError" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_installation_goes_on_when_nobody_sees_its_progress(sender: Sender, tmp_path: Path) -> None:
    archive = sender.archive(release_files("1.0"), "unseen")
    let_through(tmp_path / "site")
    done = run(
        ["install", archive, "--root", sender.root_path, "--prefix", tmp_path / "site", *USER_OPTION],
        by='"$@" 2>/dev/full',
    )
    assert done.returncode == 0
    assert "is now the current release" in done.stdout


ODD: dict[str, tuple[list[object], str, str]] = {
    "an empty prefix": (["status", "--prefix", ""], '"$@"', "it is empty; name a path"),
    "an empty root": (["verify", "x.airgap", "--root", ""], '"$@"', "it is empty; name a path"),
    "a directory that is gone": (
        ["trust", "update", "root.json", "--prefix", "site"],
        'd=$(mktemp -d); cd "$d"; mkdir -p site/releases; rm -r "$d"; "$@"',
        "no release is installed in site",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_call_is_told_what_is_wrong(case: str) -> None:
    arguments, by, words = ODD[case]
    done = run(arguments, by=by)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_site_in_a_directory_that_is_gone_is_refused(small: Path, sender: Sender) -> None:
    by = 'd=$(mktemp -d); cd "$d"; rmdir "$d"; "$@"'
    done = run(["install", small, "--root", sender.root_path, "--prefix", "site"], by=by)
    assert done.returncode == 1
    assert "the present directory was removed: change to another one" in done.stderr


def test_too_few_open_files_are_named(sender: Sender, tmp_path: Path) -> None:
    archive = sender.archive(release_files("1.0"), "few-files")
    let_through(tmp_path / "site")
    few = (8, 8)
    done = run(
        ["install", archive, "--root", sender.root_path, "--prefix", tmp_path / "site", *USER_OPTION],
        before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few),
    )
    assert done.returncode == 1
    assert "raise the limit (ulimit -n)" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_line_is_endless() -> None:
    assert len(shown("x" * 1_000_000)) < LONGEST_LINE
    assert len(shown("\x1b" * 1_000_000)) < LONGEST_LINE
    assert shown("a\nb") == r"a\nb"


def test_a_refusal_says_what_to_do(small: Path, sender: Sender, tmp_path: Path) -> None:
    (tmp_path / "long.airgap").write_bytes(small.read_bytes() + b"x")
    done = run(["verify", tmp_path / "long.airgap", "--root", sender.root_path])
    words = (
        "the archive has bytes after its end; copy the archive again, and compare its SHA-256 with the carrying sheet"
    )
    assert done.stderr.splitlines()[-1] == f"installer: TrailingBytesError: {words}; if it is right, ask the sender"


@pytest.mark.parametrize("damage", [b"", b"[" * 200_000])
def test_a_manifest_that_cannot_be_used_is_one_finding(damage: bytes, sender: Sender, tmp_path: Path) -> None:
    """Without it every file of the release would be named as one too many."""
    archive = sender.archive(release_files("1.0"), "manifest")
    let_through(site := tmp_path / "site")
    assert run(["install", archive, "--root", sender.root_path, "--prefix", site, *USER_OPTION]).returncode == 0
    manifest = site / "releases" / "1.0" / "manifest.json"
    manifest.unlink()
    manifest.write_bytes(damage)
    done = run(["verify", "--prefix", site])
    assert done.returncode == 1
    assert "1.0: FAIL  manifest.json cannot be used" in done.stdout
    assert "to do: `installer repair` with its archive" in done.stdout
    assert len(done.stdout.splitlines()) == 4


def test_an_odd_thing_in_quarantine_is_removed(sender: Sender, tmp_path: Path) -> None:
    archive = sender.archive(release_files("1.0"), "quarantine")
    let_through(site := tmp_path / "site")
    (site / ".incoming" / "odd.part").mkdir(parents=True)
    assert run(["install", archive, "--root", sender.root_path, "--prefix", site, *USER_OPTION]).returncode == 0
    assert not (site / ".incoming").exists()


def test_directories_that_nobody_can_walk_are_named(sender: Sender, tmp_path: Path) -> None:
    """The appliance's user could make them, to stop root's updates in words that say nothing."""
    require(os.geteuid() == 0, "root")
    archive = sender.archive(release_files("1.0"), "deep")
    let_through(site := tmp_path / "site")
    assert run(["install", archive, "--root", sender.root_path, "--prefix", site, *USER_OPTION]).returncode == 0
    above = os.open(site / "state", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    done = run(["own", "--user", "nobody", "--prefix", site])
    subprocess.run(["rm", "-r", site / "state"], check=True)
    assert done.returncode == 1
    assert f"{site}/state holds directories that are nested too deeply" in done.stderr


def test_a_command_that_is_stopped_says_how_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(site: Site) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("installer.commands.status.survey_site", interrupted)
    (tmp_path / "releases").mkdir()
    done = CliRunner().invoke(main, ["status", "--prefix", str(tmp_path)])
    assert (done.exit_code, done.output) == (
        1,
        "installer: stopped before the end: the same command goes on from there\n",
    )
