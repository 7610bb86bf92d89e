"""What lies in a site is named, whatever it is, and never stops a command: `status`, `verify` and the next install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from installer.cli import main
from installer.errors import NewerReceiptError
from installer.site import Site
from installer.survey import survey_site
from tests.conftest import require
from tests.installer.archives import Sender, appliance_wheel, listing
from tests.installer.sites import copy_site, install_archive, works
from tests.unprivileged import let_through


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def newer(path: Path) -> None:
    rewrite(path, json.dumps({**json.loads(path.read_bytes()), "format": 2}).encode())


def other_field(path: Path) -> None:
    rewrite(path, json.dumps({**json.loads(path.read_bytes()), "files": "many"}).encode())


def renamed(path: Path) -> None:
    path.parent.rename(path.parent.with_name("3.0"))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


RECEIPTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: rewrite(path, b""), "the receipt of release 1.0 is damaged: it is no JSON"),
    "no object": (lambda path: rewrite(path, b"[]"), "the receipt of release 1.0 is damaged: it is no JSON object"),
    "nested": (lambda path: rewrite(path, b"[" * 100_000), "the receipt of release 1.0 is damaged: it is no JSON"),
    "fields missing": (lambda path: rewrite(path, b"{}"), "damaged: its field name is missing"),
    "field of another type": (other_field, "damaged: its field files has another type"),
    "newer format": (newer, "a newer installer installed release 1.0 (its receipt has format 2): use that installer"),
    "no format": (lambda path: rewrite(path, b'{"format": "x"}'), "damaged: its format is 'x'"),
    "of another release": (renamed, "the receipt of release 3.0 is damaged: it is the receipt of release 1.0"),
    "a FIFO": (fifo, "the receipt of release 1.0 is damaged: it is no plain file"),
}


@pytest.mark.parametrize("damage", RECEIPTS)
def test_a_receipt_that_cannot_be_used_is_named_and_stops_nothing(
    damage: str, site: Path, release_2: Path, sender: Sender
) -> None:
    harm, words = RECEIPTS[damage]
    harm(site / "releases" / "1.0" / "receipt.json")
    for command in (["status"], ["verify"]):
        done = run(*command, "--prefix", site)
        assert done.exit_code == 1
        assert words in done.stdout
    told = json.loads(run("status", "--prefix", site, "--json").stdout)
    assert [words in sentence for sentence in told["unusable"].values()] == [True]
    assert told["current"] == "2.0"
    kept = sorted((site / "releases").rglob("*"))
    assert not install_archive(release_2, sender, site).switched
    assert run("prune", "--keep", "1", "--prefix", site).exit_code == 0
    assert sorted((site / "releases").rglob("*")) == kept, "nothing decides by a receipt that it cannot use"


def test_a_release_of_a_newer_installer_is_not_replaced(site: Path, release_2: Path, sender: Sender) -> None:
    newer(site / "releases" / "2.0" / "receipt.json")
    before = listing(site)
    with pytest.raises(NewerReceiptError, match="use that installer"):
        install_archive(release_2, sender, site)
    assert listing(site) == before


def test_status_names_everything_that_lies_there_and_what_it_costs(site: Path) -> None:
    releases = site / "releases"
    (releases / ".3.0.new").mkdir()
    (releases / ".3.0.new" / "part").write_bytes(bytes(100_000))
    (releases / "9.9").mkdir()
    (site / "no\nrelease\x1b[31m").write_text("mine")
    (site / ".incoming").mkdir()
    done = run("status", "--prefix", site)
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    found = [line for line in done.stdout.splitlines() if line.startswith("besides")]
    assert len(found) == 4
    for words in (
        "releases/.3.0.new  10", "left by a command that was killed", "releases/9.9", "it has no receipt",
        "no\\nrelease\\x1b[31m", "not part of the site", ".incoming",
    ):  # fmt: skip
        assert words in "\n".join(found), words
    assert "previous  1.0" in done.stdout
    assert "current   2.0" in done.stdout


def test_a_shared_blob_is_counted_once(site: Path) -> None:
    survey = survey_site(Site(site))
    inodes = {(status.st_dev, status.st_ino): status.st_blocks * 512
              for status in (path.lstat() for path in (site, *site.rglob("*")))}  # fmt: skip
    assert survey.total_bytes == sum(inodes.values())
    first, second = survey.releases
    shared = first.size_bytes - first.own_bytes
    assert shared > len(appliance_wheel()[1]), "both count what they share"
    assert first.own_bytes + second.own_bytes + shared < survey.total_bytes
    freed = survey.total_bytes - first.own_bytes
    assert run("remove", "1.0", "--prefix", site).exit_code == 0
    assert abs(survey_site(Site(site)).total_bytes - freed) <= 64 << 10, "what it takes alone, but for directories"


LINKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "dangles": (lambda path: relink(path, "releases/7.0"), "current leads to release 7.0, which does not lie here"),
    "leads out": (lambda path: relink(path, "/etc"), "current is a link to /etc and leads to no release of this site"),
    "leads to another site": (
        lambda path: relink(path, "/srv/other/releases/1.0"), "leads to no release of this site"
    ),
    "leads to a broken release": (
        lambda path: rewrite(path / "receipt.json", b"{"),
        "current leads to release 2.0, whose receipt cannot be used",
    ),
}  # fmt: skip


def relink(path: Path, goal: str) -> None:
    path.unlink()
    path.symlink_to(goal)


@pytest.mark.parametrize("fault", LINKS)
def test_a_current_that_leads_nowhere_is_named_and_put_right_by_the_next_install(
    fault: str, site: Path, release_2: Path, sender: Sender
) -> None:
    harm, words = LINKS[fault]
    harm(site / "current")
    done = run("status", "--prefix", site)
    assert done.exit_code == 1
    assert words in done.stdout
    assert json.loads(run("status", "--prefix", site, "--json").stdout)["current"] is None
    assert words in run("verify", "--prefix", site).stdout
    install_archive(release_2, sender, site)
    assert Site(site).pointed("current") == "2.0"
    assert run("status", "--prefix", site).exit_code == 0


def test_a_release_that_was_complete_when_the_installer_was_killed_gets_its_name(site: Path) -> None:
    """Killed between the two renames that exchange a damaged release."""
    releases = site / "releases"
    shutil.copytree(releases / "2.0", releases / ".2.0.old", symlinks=True)
    (releases / "2.0").rename(releases / ".2.0.new")
    assert "does not lie here" in run("status", "--prefix", site).stdout
    assert run("prune", "--keep", "2", "--prefix", site).exit_code == 0
    assert sorted(os.listdir(releases)) == ["1.0", "2.0"]
    assert works(site)


def test_a_file_in_the_store_that_is_no_blob_stops_nothing(site: Path, release_2: Path, sender: Sender) -> None:
    (site / "store" / "sha256" / "readme").write_text("mine")
    (site / "store" / "sha256" / "zz").mkdir()
    (site / "store" / "sha256" / "zz" / "inner").mkdir()
    install_archive(release_2, sender, site)
    assert run("remove", "1.0", "--prefix", site).exit_code == 0
    assert (site / "store" / "sha256" / "readme").read_text() == "mine"


MOVES: dict[str, Callable[[Path, Path], object]] = {
    "moved": lambda site, to: site.rename(to),
    "copied with everything": copy_site,
    "copied by cp -r": lambda site, to: subprocess.run(["cp", "-r", site, to], check=True),
    "behind a link": lambda site, to: to.symlink_to(site),
}


@pytest.mark.parametrize("way", MOVES)
def test_a_site_in_another_place_works(
    way: str, site: Path, tmp_path: Path, release_1: Path, release_2: Path, sender: Sender
) -> None:
    there = tmp_path / "there"
    MOVES[way](site, there)
    assert works(there)
    assert run("status", "--prefix", there).exit_code == 0
    assert not install_archive(release_2, sender, there).switched
    assert run("rollback", "--prefix", there).exit_code == 0
    assert works(there)
    assert run("verify", "--prefix", there, "--root", sender.root_path).exit_code == 0


@pytest.mark.skipif("os.geteuid() != 0", reason="only root mounts file systems")
def test_a_bind_mounted_site_works(site: Path, tmp_path: Path, release_2: Path, sender: Sender) -> None:
    require(shutil.which("unshare") is not None, "unshare")
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    script = (
        'mount --bind "$1" "$2" && "$2/current/venv/bin/appliance" selftest --release "$2/current" && '
        'python=$3 && "$python" -m installer.cli install "$4" --root "$5" --prefix "$2" && '
        '"$python" -m installer.cli status --prefix "$2"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", site, there, sys.executable, release_2, sender.root_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing was changed" in done.stdout


def test_the_state_of_another_user_is_counted_as_not_readable(site: Path) -> None:
    require(os.geteuid() == 0, "root, to become another user")
    code = "import sys; from installer.cli import main; main(sys.argv[1:])"
    let_through(site)
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--prefix", site], user=54321, group=54321, extra_groups=(),
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "state not readable for this user" in done.stdout, done.stderr


def test_a_link_in_the_place_of_a_release_is_no_release(site: Path, sender: Sender, release_2: Path) -> None:
    """What it leads to lies anywhere, and belongs to anybody."""
    release = site / "releases" / "2.0"
    release.rename(site / "releases" / "elsewhere")
    release.symlink_to("elsewhere")
    words = "the receipt of release 2.0 is damaged: its directory is a link"
    for command in (["status"], ["verify"], ["verify", "--root", sender.root_path]):
        done = run(*command, "--prefix", site)
        assert done.exit_code == 1
        assert words in done.stdout
    assert "current leads to release 2.0, whose receipt cannot be used" in run("status", "--prefix", site).stdout
    assert install_archive(release_2, sender, site).assembled
    assert not release.is_symlink()
    assert works(site)
