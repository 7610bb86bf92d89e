"""A site that 0.1.0 made: it kept neither a manifest nor the signed metadata, and its receipts had fewer fields.

Such a site was made and served by commit 1c60894, and upgraded by hand. These tests need no git history: they take away
from a release of today what 0.1.0 did not write.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from installer.cli import main
from installer.formats.about import FILE as ABOUT
from installer.formats.about import About, encode_about
from installer.formats.manifest import MANIFEST
from installer.receipt import RECEIPT
from installer.site import Site
from tests.installer.archives import Sender
from tests.installer.sites import copy_site, install_archive, works

LATER_FIELDS = ("manifest_sha256", "interpreter", "publisher", "allowed")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def make_earlier(release: Path) -> None:
    """Leave of an installed release what 0.1.0 wrote."""
    receipt = release / RECEIPT
    body = json.loads(receipt.read_bytes())
    receipt.unlink()
    receipt.write_text(json.dumps({name: value for name, value in body.items() if name not in LATER_FIELDS}))
    (release / MANIFEST).unlink()
    shutil.rmtree(release / "metadata")


@pytest.fixture
def earlier(release_1: Path, sender: Sender, tmp_path: Path) -> Path:
    """A site with one release, which 0.1.0 installed."""
    install_archive(release_1, sender, tmp_path / "site")
    make_earlier(tmp_path / "site" / "releases" / "1.0")
    return tmp_path / "site"


def test_a_release_without_a_list_of_its_files_is_said_to_be_one(earlier: Path, sender: Sender) -> None:
    for command in (["status"], ["verify"], ["verify", "--root", sender.root_path]):
        done = run(*command, "--prefix", earlier)
        assert done.exit_code == 1, "whoever removes both from a later release must not pass for an earlier one"
        assert "a version before 0.2.0, which kept no list of its files" in done.stdout
        assert len(done.stdout.splitlines()) <= 4, "not a line for each file"
        assert "repair" not in done.stdout


def test_a_lost_manifest_of_a_later_release_is_damage(site: Path) -> None:
    (site / "releases" / "1.0" / MANIFEST).unlink()
    assert "release 1.0 is not as it was installed: manifest.json" in run("status", "--prefix", site).stdout
    assert "1.0: FAIL  manifest.json cannot be read" in run("verify", "--prefix", site).stdout


def test_an_earlier_release_is_replaced_returned_to_and_removed(earlier: Path, release_2: Path, sender: Sender) -> None:
    assert install_archive(release_2, sender, earlier).receipt.version == "2.0"
    site = Site(earlier)
    assert (site.pointed("current"), site.pointed("previous")) == ("2.0", "1.0")
    for expected in ("1.0", "2.0"):
        assert run("rollback", "--prefix", earlier).exit_code == 0
        assert site.pointed("current") == expected
    assert works(earlier)
    assert run("remove", "1.0", "--prefix", earlier).exit_code == 0
    assert run("status", "--prefix", earlier).exit_code == 0
    assert run("verify", "--prefix", earlier, "--root", sender.root_path).exit_code == 0


def test_the_same_archive_makes_an_earlier_release_whole(earlier: Path, release_1: Path, sender: Sender) -> None:
    assert install_archive(release_1, sender, earlier).repaired
    assert run("verify", "--prefix", earlier, "--root", sender.root_path).exit_code == 0


def test_a_comparison_with_an_earlier_release_says_what_to_compare(
    earlier: Path, release_2: Path, sender: Sender
) -> None:
    done = run("diff", release_2, "--root", sender.root_path, "--prefix", earlier)
    assert done.exit_code == 1
    assert "1.0 has no signed list of its files (a version before 0.2.0 kept none): compare the archives" in done.stderr


@pytest.mark.parametrize(
    ("schemas", "words"),
    [
        (
            (None, "0003"),
            "the schema 0003, and 1.0 does not say which one it knows: if 2.0 has served this site, 1.0 may refuse",
        ),
        (("0002", "0003"), "and 1.0 knows 0002: if 2.0 has served this site, 1.0 refuses to start"),
        (("0003", "0003"), None),
        ((None, None), None),
    ],
    ids=["before 0.2.0", "an older schema", "the same schema", "unknown"],
)
def test_a_rollback_says_if_the_database_may_be_too_new(
    schemas: tuple[str | None, str | None], words: str | None, two_releases: Path, tmp_path: Path
) -> None:
    prefix = copy_site(two_releases, tmp_path / "site")
    for version, schema in zip(("1.0", "2.0"), schemas, strict=True):
        if schema is not None:
            (prefix / "releases" / version / ABOUT).write_bytes(encode_about(About(schema, {})))
    done = run("rollback", "--prefix", prefix)
    assert (done.exit_code, "Note: " in done.stdout) == (0, words is not None)
    assert words is None or words in done.stdout
    again = run("rollback", "--prefix", prefix, "--json")
    assert json.loads(again.stdout) == {"current": "2.0", "previous": "1.0", "note": None}
