"""`installer remove`, `prune` and `uninstall`: what goes, what stays, and what is refused.

tests/attacks/test_kills_leaving.py kills them.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import installer.commands.removal
from appliance.config import Config
from appliance.runtime.site_lock import lock_site
from installer.cli import main
from installer.errors import NoReleaseError, ServedError
from installer.removal import prune, remove_release
from installer.site import Site, open_existing_site
from installer.survey import disk_bytes
from tests.installer.archives import Sender, listing, release_files
from tests.installer.sites import NOW, install_archive, works


def run(*arguments: str | Path, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=answer)


@pytest.fixture
def served(site: Path) -> Iterator[Path]:
    """A site whose current release is served, as far as its lock says."""
    locks = lock_site(Config(home=site, release_dir=(site / "current").resolve(), database_url="sqlite://"))
    yield site
    for descriptor in locks:
        os.close(descriptor)


def test_remove_takes_a_release_its_packed_weights_and_what_only_it_used(site: Path) -> None:
    for version in ("1.0", "2.0"):
        (site / "state" / "packed" / version).mkdir(parents=True)
        (site / "state" / "packed" / version / "weights").write_text("packed")
    blobs = len(list((site / "store").rglob("*")))
    before = disk_bytes(site)
    done = run("remove", "1.0", "--prefix", site, "--json")
    assert json.loads(done.stdout) == {"removed": ["1.0"], "freed_bytes": before - disk_bytes(site)}
    assert os.listdir(site / "releases") == ["2.0"]
    assert os.listdir(site / "state" / "packed") == ["2.0"]
    assert not os.path.lexists(site / "previous")
    assert len(list((site / "store").rglob("*"))) < blobs
    assert works(site)


@pytest.mark.parametrize(
    ("version", "words"),
    [("2.0", "is the current one"), ("7.0", "does not lie here"), ("../state", "does not lie here"), ("", "lie here")],
)
def test_what_cannot_be_removed_is_refused(version: str, words: str, site: Path) -> None:
    before = listing(site)
    done = run("remove", version, "--prefix", site)
    assert done.exit_code == 1
    assert words in done.stderr
    assert listing(site) == before


def test_a_broken_release_can_be_removed(site: Path) -> None:
    for name in ("manifest.json", "receipt.json"):
        (site / "releases" / "1.0" / name).unlink()
    (site / "releases" / "1.0" / "receipt.json").write_text("{")
    assert run("remove", "1.0", "--prefix", site).exit_code == 0
    assert os.listdir(site / "releases") == ["2.0"]


def test_a_link_in_the_place_of_packed_weights_is_not_followed(site: Path, tmp_path: Path) -> None:
    """The appliance's user owns state/ and may put a link there; root then removes."""
    (tmp_path / "1.0").mkdir()
    (tmp_path / "1.0" / "kept").write_text("another's")
    (site / "state" / "packed").symlink_to(tmp_path)
    assert run("remove", "1.0", "--prefix", site).exit_code == 0
    assert (tmp_path / "1.0" / "kept").read_text() == "another's"


def test_prune_keeps_the_current_the_previous_and_then_the_youngest(site: Path, sender: Sender) -> None:
    for number, hours in ((3, 0.5), (4, 0)):
        archive = sender.archive(release_files(f"{number}.0"), f"prune-{number}", version=830 + number)
        install_archive(archive, sender, site, now=NOW - timedelta(hours=hours))
    assert run("rollback", "--to", "1.0", "--prefix", site).exit_code == 0
    assert json.loads(run("prune", "--keep", "3", "--prefix", site, "--json").stdout)["removed"] == ["2.0"]
    assert json.loads(run("prune", "--keep", "1", "--prefix", site, "--json").stdout)["removed"] == ["4.0", "3.0"]
    assert "nothing to remove" in run("prune", "--keep", "1", "--prefix", site).stdout
    assert os.readlink(site / "current") == "releases/1.0"
    assert works(site)
    assert run("prune", "--keep", "0", "--prefix", site).exit_code == 2


@pytest.mark.parametrize("leads", ["nowhere", "to a release without a receipt", "to another directory"])
def test_prune_removes_nothing_where_no_release_is_current(leads: str, site: Path) -> None:
    """It would go by the previous one and by dates, and could remove the one that is to be served."""
    (site / "current").unlink()
    if leads == "to a release without a receipt":
        (site / "releases" / "9.0").mkdir()
        (site / "current").symlink_to("releases/9.0")
    elif leads == "to another directory":
        (site / "current").symlink_to("state")
    before = listing(site)
    done = run("prune", "--keep", "1", "--prefix", site)
    assert done.exit_code == 1
    assert "leads to no complete release" in done.stderr
    assert "installer rollback --to VERSION" in done.stderr
    assert listing(site) == before
    assert run("rollback", "--to", "2.0", "--prefix", site).exit_code == 0
    assert run("prune", "--keep", "1", "--prefix", site).exit_code == 0
    assert works(site)


def test_uninstall_keeps_state_and_what_is_not_ours(site: Path, release_2: Path, sender: Sender) -> None:
    (site / "notes.txt").write_text("mine")
    (site / "state" / "database").mkdir(exist_ok=True)
    (site / "state" / "database" / "kept").write_text("records")
    done = run("uninstall", "--prefix", site)
    assert done.exit_code == 0, done.output
    assert set(os.listdir(site)) == {"state", "trust", "notes.txt"}
    assert "still holds notes.txt, state, trust" in done.stdout
    install_archive(release_2, sender, site)
    assert works(site)
    assert (site / "state" / "database" / "kept").read_text() == "records"


def test_purge_asks_and_then_leaves_nothing(site: Path, tmp_path: Path) -> None:
    before = listing(site)
    done = run("uninstall", "--purge", "--without-record", "--prefix", site, answer="n\n")
    assert (done.exit_code, listing(site)) == (1, before)
    assert "nothing was removed" in done.stderr
    done = run("uninstall", "--purge", "--without-record", "--prefix", site, answer="y\n")
    assert done.exit_code == 0
    assert not site.exists()


@pytest.mark.parametrize(
    "options",
    [["--purge"], ["--purge", "--export", "f", "--without-record"], ["--yes"], ["--export", "f"], ["--without-record"]],
    ids=" ".join,
)
def test_purge_without_a_word_about_the_record_is_a_wrong_command(options: list[str], site: Path) -> None:
    before = listing(site)
    assert run("uninstall", *options, "--prefix", site).exit_code == 2
    assert listing(site) == before


@pytest.mark.parametrize(
    ("place", "words"),
    [("{tmp}/there", "exists"), ("{site}/out", "lies in the site"), ("{tmp}/out", "did not export the record")],
)
def test_purge_removes_nothing_if_the_record_is_not_exported(
    place: str, words: str, site: Path, tmp_path: Path
) -> None:
    """The fixture's appliance has no `audit export`, so its command fails."""
    (tmp_path / "there").touch()
    make_used(site)
    before = listing(site)
    out = place.format(tmp=tmp_path, site=site)
    done = run("uninstall", "--purge", "--yes", "--export", out, "--prefix", site)
    assert done.exit_code == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert listing(site) == before


def test_a_site_that_was_never_used_has_no_record_to_export(site: Path, tmp_path: Path) -> None:
    done = run("uninstall", "--purge", "--yes", "--export", tmp_path / "out", "--prefix", site)
    assert done.exit_code == 0, done.output
    assert "never used here: no record exists" in done.stdout
    assert not site.exists()


def test_a_served_site_is_not_removed(served: Path) -> None:
    before = listing(served)
    for command in (["uninstall"], ["uninstall", "--purge", "--without-record", "--yes"]):
        done = run(*command, "--prefix", served)
        assert done.exit_code == 1
        assert "serves" in done.stderr
        assert "stop it" in done.stderr
    assert listing(served) == before


def make_used(site: Path) -> None:
    """As if the appliance had made a record."""
    (site / "state" / "signer").mkdir()
    (site / "state" / "signer" / "audit.key").write_text("key")


def test_the_service_ends_when_nothing_else_stands_in_the_way(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_used(site)
    ended: list[Path] = []
    monkeypatch.setattr(installer.commands.removal, "stop_and_remove", lambda prefix, _root: ended.append(prefix))
    refused: list[str | Path] = ["uninstall", "--purge", "--prefix", site]
    assert run(*refused, "--without-record", answer="n\n").exit_code == 1
    assert run(*refused, "--export", site / "inside", "--yes").exit_code == 1
    assert ended == []
    assert run("uninstall", "--prefix", site).exit_code == 0
    assert ended == [site]
    assert not (site / "service").exists()


def test_what_is_served_is_not_removed_though_another_release_is_current(served: Path) -> None:
    """After a rollback the old process runs on until somebody restarts it."""
    assert run("rollback", "--prefix", served).exit_code == 0
    with open_existing_site(served) as site:
        with pytest.raises(ServedError, match=r"serves release 2\.0 now"):
            remove_release(site, "2.0")
        with pytest.raises(ServedError):
            prune(site, 1)
    assert set(os.listdir(served / "releases")) == {"1.0", "2.0"}


@pytest.mark.skipif("os.geteuid() != 0", reason="only root mounts file systems")
def test_state_on_a_disk_of_its_own_is_not_purged(site: Path) -> None:
    script = (
        'mount -t tmpfs -o mode=700 tmpfs "$1/state" && "$2" -m installer.cli uninstall --purge --without-record --yes '
        '--prefix "$1"; code=$?; ls "$1"; exit $code'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", site, sys.executable],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is a file system of its own" in done.stderr
    assert "releases" in done.stdout.split()


def test_an_older_appliance_that_does_not_name_its_release_protects_both(site: Path) -> None:
    lock = os.open(site / "state" / "supervisor.lock", os.O_RDWR | os.O_CREAT)
    from appliance.file_lock import own

    assert own(lock)
    with open_existing_site(site) as opened, pytest.raises(ServedError):
        remove_release(opened, "1.0")
    os.close(lock)
    with open_existing_site(site) as opened:
        remove_release(opened, "1.0")


def test_nothing_is_made_where_no_site_is(tmp_path: Path) -> None:
    for command in (["remove", "1.0"], ["prune", "--keep", "1"], ["uninstall"], ["rollback"], ["status"]):
        done = run(*command, "--prefix", tmp_path / "absent")
        assert done.exit_code == 1
        assert done.stderr.startswith(f"installer: {NoReleaseError.__name__}: ")
    assert not (tmp_path / "absent").exists()


def test_two_commands_do_not_work_on_one_site(site: Path) -> None:
    descriptor = os.open(site, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    for command in (["remove", "1.0"], ["prune", "--keep", "1"], ["uninstall"]):
        assert "another installer is working" in run(*command, "--prefix", site).stderr
    os.close(descriptor)


def test_a_deep_tree_is_removed_or_refused_in_one_sentence(site: Path) -> None:
    """The appliance's user may make one in state/."""
    here = os.getcwd()
    os.chdir(site / "state")
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)
    done = run("uninstall", "--purge", "--without-record", "--yes", "--prefix", site)
    assert not isinstance(done.exception, RecursionError)
    assert done.exit_code in (0, 1)
    assert len(done.stderr.splitlines()) <= 1
    os.system(f"rm -rf {site}")  # noqa: S605


def test_a_site_without_releases_is_still_a_site(site: Path) -> None:
    assert run("uninstall", "--prefix", site).exit_code == 0
    assert Site(site).versions() == []
    assert run("uninstall", "--prefix", site).exit_code == 0
