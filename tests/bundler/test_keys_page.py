"""The commands of docs/keys.md, in its order and as written, with a small release in the place of gpt-oss-20b."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from bundler.archive import digest_tree, write_archive
from bundler.cli import main
from bundler.keys import load_keys
from bundler.ledger import decide_signing
from installer.verify import DiscardingSink, verify_archive
from tests.installer.archives import NOW, small_files, write_tree
from tests.installer.repository import LATER

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"
LEFT_OUT = "# not run here"  # they need a token, a site or other people; other tests run the same commands


def commands() -> list[str]:
    return [line.strip() for line in PAGE.read_text().splitlines() if line.startswith(("    bundler", "    installer"))]


def build(out: Path, keys: Path) -> None:
    """`bundler build` with a release that is assembled."""
    write_tree(Path("tree"), small_files())
    tree, loaded = digest_tree(Path("tree")), load_keys(keys)
    write_archive(out, tree, loaded, decide_signing(loaded, tree.targets, lifetime_end=LATER, version=None, now=NOW))


def test_the_page_leads_to_an_archive_that_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for line in commands():
        if line.endswith(LEFT_OUT):
            continue
        words = shlex.split(line, comments=True)
        ran += 1
        if words[:2] == ["bundler", "build"]:
            build(Path(words[words.index("--out") + 1]), Path(words[words.index("--keys") + 1]))
            continue
        result = CliRunner().invoke(main, words[1:], input="y\n")
        assert result.exit_code == 0, f"{line}\n{result.output}"
    assert ran >= 15
    with Path("gpt-oss.airgap").open("rb") as stream:
        verify_archive(stream, Path("place/root.json").read_bytes(), sink=DiscardingSink())


def test_what_is_left_out_is_said_on_the_page() -> None:
    assert sum(line.endswith(LEFT_OUT) for line in commands()) == 6
