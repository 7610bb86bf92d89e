"""Texts of a signed release: its title is brief, no field stands twice, and no command prints what a terminal obeys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bundler.cli import main as bundler_main
from installer.cli import main as installer_main
from installer.formats.fields import FormatError
from installer.formats.release import DESCRIPTOR, MAX_TITLE_CHARACTERS, encode_release, parse_release
from tests.installer.archives import Sender, small_files

DESCRIBED = small_files()[DESCRIPTOR]
_HOSTILE = "a\x1b[2J\r\nforged: ok\u202e\x9b31m\x07"


def titled(title: str) -> bytes:
    release = parse_release(DESCRIBED)
    return encode_release(replace(release, model=replace(release.model, title=title)))


def test_a_title_has_a_limit() -> None:
    assert parse_release(titled(MAX_TITLE_CHARACTERS * "x")).model.title == MAX_TITLE_CHARACTERS * "x"


def with_accelerators(*names: str) -> bytes:
    return encode_release(replace(parse_release(DESCRIBED), accelerators=names))


DESCRIPTIONS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a title of 900,000 characters": (lambda: titled(900_000 * "x"), "model.title has 900000 characters, the limit is"),
    "a version twice": (lambda: DESCRIBED.replace(b"{", b'{"version": "6.6",', 1), "a field stands there twice"),
    "a version of 500,000 characters": (
        lambda: DESCRIBED.replace(b'"9.9"', b'"' + 500_000 * b"x" + b'"'), "version is 'xxx",
    ),
    "an unknown accelerator": (lambda: with_accelerators("cpu", "npu"), "accelerators[1] is 'npu', which is none of"),
    "no accelerator": (lambda: with_accelerators(), "accelerators must name at least one"),
}  # fmt: skip


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_description_of_an_insider_is_refused(case: str) -> None:
    make, words = DESCRIPTIONS[case]
    with pytest.raises(FormatError) as refused:
        parse_release(make())
    assert words in str(refused.value)
    assert len(str(refused.value)) < MAX_TITLE_CHARACTERS


def test_no_command_prints_what_a_terminal_obeys(tmp_path: Path) -> None:
    sender = Sender.make(tmp_path / "sender")
    archive = sender.archive({**small_files(), DESCRIPTOR: titled(_HOSTILE)}, "titled")
    for main, command in ((bundler_main, "inspect"), (installer_main, "verify")):
        done = CliRunner().invoke(main, [command, str(archive), "--root", str(sender.root_path)])
        assert done.exit_code == 0, done.output
        assert r"a\x1b[2J\r\nforged: ok\u202e\x9b31m\x07" in done.output
        assert all(letter.isprintable() or letter == "\n" for letter in done.output), ascii(done.output)
