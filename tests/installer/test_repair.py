"""`installer repair`: it puts back what differs, only that, from the archive of the release that lies there.

tests/attacks/test_kills_leaving.py kills it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from installer.cli import main
from installer.errors import InstallerError, NewerReceiptError, NoReleaseError, ReleaseConflictError
from installer.inspection import inspect_site
from installer.progress import Silent
from installer.repair import Repair, repair
from installer.site import Site
from tests.installer.archives import PYTHON, Sender, listing, release_files
from tests.installer.sites import NOW, copy_site, works
from tests.unprivileged import SERVICE_UID

WEIGHTS = "model/weights-00001.bin"
PACKAGES = f"venv/lib/python{PYTHON}/site-packages"
CODE = f"{PACKAGES}/appliance/cli.py"


def run_repair(archive: Path, sender: Sender, prefix: Path, progress: Silent | None = None) -> Repair:
    with archive.open("rb") as stream:
        return repair(stream, sender.root, prefix, now=NOW, environ=dict(os.environ), progress=progress or Silent())


def is_well(prefix: Path, sender: Sender) -> bool:
    """Whether every file is the signed one, by the signatures."""
    inspections, faults = inspect_site(Site(prefix), sender.root)
    return all(inspection.is_well for inspection in inspections) and not faults


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def replaced_directory(release: Path) -> None:
    (release / "model").rename(release / "elsewhere")
    (release / "model").symlink_to("elsewhere")


def bind_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 108 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


DAMAGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "weights differ": (lambda r: rewrite(r / WEIGHTS, b"0" * 2051), {f"{WEIGHTS} differs"}),
    "weights cut short": (lambda r: os.truncate(r / WEIGHTS, 100), {f"{WEIGHTS} differs"}),
    "weights missing": (lambda r: (r / WEIGHTS).unlink(), {f"{WEIGHTS} is missing"}),
    "weights writable": (lambda r: (r / WEIGHTS).chmod(0o666), {f"{WEIGHTS} can be written by others"}),
    "weights a FIFO": (lambda r: in_place_of(r / WEIGHTS, os.mkfifo), {f"{WEIGHTS} is no plain file"}),
    "weights a directory": (lambda r: in_place_of(r / WEIGHTS, Path.mkdir), {f"{WEIGHTS} is not part of the release"}),
    "code differs": (lambda r: rewrite(r / CODE, b"import os"), {f"{CODE} differs"}),
    "code missing": (lambda r: (r / CODE).unlink(), {f"{CODE} is missing"}),
    "launcher differs": (lambda r: rewrite(r / "venv/bin/appliance", b"#!/bin/sh"), {"venv/bin/appliance differs"}),
    "a file too many": (
        lambda r: (r / PACKAGES / "sitecustomize.py").write_text("evil"),
        {f"{PACKAGES}/sitecustomize.py is not part of the release"},
    ),
    "a name that forges": (
        lambda r: (r / "model" / "x\nok\x1b[2J").write_text("evil"), {"model/x\\nok\\x1b[2J is not part of the release"}
    ),
    "a socket too many": (lambda r: bind_socket(r / "model" / "s"), {"model/s is not part of the release"}),
    "a directory too many": (lambda r: (r / "extra").mkdir(), {"extra is not part of the release"}),
    "a link as directory": (
        replaced_directory,
        {"model is not part of the release", "elsewhere is not part of the release", f"{WEIGHTS} is missing",
         "elsewhere/weights-00001.bin is not part of the release"},
    ),
    "a directory closed": (lambda r: (r / "model").chmod(0), {"model cannot be read"}),
    "a directory open to all": (lambda r: (r / "venv").chmod(0o777), {"venv can be written by others"}),
    "metadata missing": (
        lambda r: (r / "metadata/snapshot.json").unlink(), {"metadata/snapshot.json is missing"}
    ),
    "manifest damaged": (lambda r: rewrite(r / "manifest.json", b"{"), {"manifest.json differs"}),
    "manifest missing": (lambda r: (r / "manifest.json").unlink(), {"manifest.json is missing"}),
    "receipt damaged": (lambda r: rewrite(r / "receipt.json", b"{"), {"receipt.json cannot be used"}),
    "receipt missing": (lambda r: (r / "receipt.json").unlink(), {"receipt.json is missing"}),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_puts_back_exactly_what_differs(damage: str, site: Path, release_2: Path, sender: Sender) -> None:
    release = site / "releases" / "2.0"
    before, inodes = listing(site), {path: path.lstat().st_ino for path in release.rglob("*")}
    harm, expected = DAMAGES[damage]
    harm(release)
    done = run_repair(release_2, sender, site)
    assert {str(difference) for difference in done.differences} == expected
    after = listing(site)
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} <= {
        "releases/2.0/manifest.json", "releases/2.0/receipt.json",
    }, "as it was, but for times in the two files that hold some"  # fmt: skip
    touched = {difference.path for difference in done.differences} | {"manifest.json", "receipt.json"}
    same = {path for path, inode in inodes.items() if path.lstat().st_ino == inode}
    kept = {path for path in inodes if str(path.relative_to(release)) not in touched}
    assert {path for path in kept - same if path.is_file() and "elsewhere" not in damage} <= {
        path for path in kept if damage == "a link as directory"
    }, "no other file was made anew"
    assert is_well(site, sender)
    assert works(site)
    assert run_repair(release_2, sender, site).differences == (), "a second time finds nothing"


def test_weights_that_are_right_are_not_copied_again(site: Path, release_2: Path, sender: Sender) -> None:
    release = site / "releases" / "2.0"
    weights, store = (release / WEIGHTS).stat(), listing(site / "store")
    rewrite(release / CODE, b"damaged")
    done = run_repair(release_2, sender, site)
    assert done.copied_bytes == 0
    assert (release / WEIGHTS).stat().st_ino == weights.st_ino
    assert listing(site / "store") == store


def test_a_damaged_blob_is_put_right_in_every_release_that_shares_it(
    site: Path, release_2: Path, sender: Sender
) -> None:
    wheel = "wheels/appliance_fixture-1.0-py3-none-any.whl"
    rewrite(site / "releases" / "1.0" / wheel, b"damaged")
    assert (site / "releases" / "2.0" / wheel).read_bytes() == b"damaged", "one file with two names"
    done = run_repair(release_2, sender, site)
    assert [str(difference) for difference in done.differences] == [f"{wheel} differs"]
    assert done.others == (f"1.0/{wheel}",)
    assert is_well(site, sender)


def test_the_times_of_weights_stay_so_that_no_start_hashes_them(site: Path, release_2: Path, sender: Sender) -> None:
    release = site / "releases" / "2.0"
    manifest = (release / "manifest.json").read_bytes()
    rewrite(release / WEIGHTS, b"damaged")
    run_repair(release_2, sender, site)
    assert (release / "manifest.json").read_bytes() == manifest


def test_the_previous_release_is_repaired_though_the_site_has_accepted_a_newer_archive(
    site: Path, release_1: Path, sender: Sender
) -> None:
    (site / "releases" / "1.0" / WEIGHTS).unlink()
    done = run_repair(release_1, sender, site)
    assert [str(difference) for difference in done.differences] == [f"{WEIGHTS} is missing"]
    assert os.readlink(site / "current") == "releases/2.0"


def test_an_older_archive_is_refused_where_no_receipt_names_the_release(
    site: Path, release_1: Path, sender: Sender
) -> None:
    (site / "releases" / "1.0" / "receipt.json").unlink()
    before = listing(site)
    with pytest.raises(InstallerError, match="already accepted"):
        run_repair(release_1, sender, site)
    assert listing(site) == before


def test_another_release_is_not_put_in_its_place(site: Path, sender: Sender) -> None:
    before = listing(site)
    with pytest.raises(NoReleaseError, match="does not lie here: install it"):
        run_repair(sender.archive(release_files("7.0"), "seven", version=811), sender, site)
    other = sender.archive(release_files("2.0", extra={"licences/x": b"x"}), "other-two", version=812)
    with pytest.raises(ReleaseConflictError):
        run_repair(other, sender, site)
    assert listing(site) == before


def test_a_release_of_a_newer_installer_is_left_to_that(site: Path, release_2: Path, sender: Sender) -> None:
    path = site / "releases" / "2.0" / "receipt.json"
    rewrite(path, json.dumps({**json.loads(path.read_bytes()), "format": 2}).encode())
    before = listing(site)
    with pytest.raises(NewerReceiptError, match="format 2"):
        run_repair(release_2, sender, site)
    assert listing(site) == before


@pytest.mark.skipif("os.geteuid() != 0", reason="only root can give a file away")
def test_a_release_that_was_given_to_another_user_is_taken_back(site: Path, release_2: Path, sender: Sender) -> None:
    for path in (site / "releases" / "2.0").rglob("*"):
        os.chown(path, SERVICE_UID, SERVICE_UID)
    assert run_repair(release_2, sender, site).differences != ()
    assert is_well(site, sender)


def test_the_command_prints_each_file(site: Path, release_2: Path, sender: Sender) -> None:
    command = ["repair", str(release_2), "--root", str(sender.root_path), "--prefix", str(site)]
    rewrite(site / "releases" / "2.0" / WEIGHTS, b"damaged")
    (site / "releases" / "2.0" / "model" / "more").write_text("")
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[:2] == [
        "removed   model/more (is not part of the release)", f"put back  {WEIGHTS} (differs)",
    ]  # fmt: skip
    told = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert told == {"version": "2.0", "repaired": [], "copied_bytes": 0, "other_releases": []}
    assert "nothing was changed" in CliRunner().invoke(main, command).stdout


def test_a_site_that_a_copy_tore_apart_is_repaired(
    two_releases: Path, tmp_path: Path, release_2: Path, sender: Sender
) -> None:
    """`cp -r` gives every file a name and a time of its own."""
    moved = copy_site(two_releases, tmp_path / "a")
    os.system(f"cp -r {moved} {tmp_path / 'b'}")  # noqa: S605
    assert run_repair(release_2, sender, tmp_path / "b").copied_bytes == 0
    assert works(tmp_path / "b")
