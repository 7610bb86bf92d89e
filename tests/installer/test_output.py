"""Signed text never forges output: what comes from outside is printed with escapes, by every command."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import installer
from installer.cli import main
from installer.commands.output import counted_bytes
from installer.formats.release import DESCRIPTOR, encode_release, parse_release
from tests.installer.archives import Sender, release_files
from tests.unprivileged import USER_OPTION, let_through

HOSTILE = "Good\r\nFAIL  all lost\x1b[2J\x1b]0;owned\x07 \u202etxt.exe\u2066 \x85\u2028end"
ESCAPED = r"Good\r\nFAIL  all lost\x1b[2J\x1b]0;owned\x07 \u202etxt.exe\u2066 \x85\u2028end"
_ROOM = Path(installer.__file__).parent


@pytest.fixture(scope="module")
def archive(sender: Sender) -> Path:
    files = release_files("5.0")
    described = parse_release(files[DESCRIPTOR])
    title = replace(described.model, title=HOSTILE)
    return sender.archive(
        {**files, DESCRIPTOR: encode_release(replace(described, model=title))}, "hostile", version=821
    )


@pytest.fixture(scope="module")
def hostile_site(archive: Path, sender: Sender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("hostile") / "site"
    let_through(prefix)
    done = run("install", archive, "--root", sender.root_path, "--prefix", prefix, *USER_OPTION)
    assert done.exit_code == 0, done.output
    is_plain(done)
    assert ESCAPED in done.stdout
    (prefix / HOSTILE.replace("/", "_")).touch()
    return prefix


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def is_plain(done: Result) -> None:
    """Every line consists of characters that are seen as themselves, and no line begins as the hostile text wants."""
    for line in (*done.stdout.split("\n"), *done.stderr.split("\n")):
        assert line.isprintable(), line
        assert not line.startswith("FAIL  all lost")


COMMANDS = {
    "status": ["status", "--prefix", "{site}"],
    "status json": ["status", "--prefix", "{site}", "--json"],
    "verify": ["verify", "{archive}", "--root", "{root}"],
    "verify json": ["verify", "{archive}", "--root", "{root}", "--json"],
    "verify a site": ["verify", "--prefix", "{site}", "--root", "{root}"],
    "verify a site json": ["verify", "--prefix", "{site}", "--root", "{root}", "--json"],
    "install again": ["install", "{archive}", "--root", "{root}", "--prefix", "{site}", *USER_OPTION],
    "install json": ["install", "{archive}", "--root", "{root}", "--prefix", "{site}", "--json", *USER_OPTION],
    "repair": ["repair", "{archive}", "--root", "{root}", "--prefix", "{site}"],
    "repair json": ["repair", "{archive}", "--root", "{root}", "--prefix", "{site}", "--json"],
    "preflight": ["preflight", "{archive}", "--root", "{root}", "--prefix", "{site}"],
    "preflight json": ["preflight", "{archive}", "--root", "{root}", "--prefix", "{site}", "--json"],
    "dry run": ["install", "--dry-run", "{archive}", "--root", "{root}", "--prefix", "{site}"],
    "diff": ["diff", "{archive}", "--root", "{root}", "--prefix", "{site}"],
    "diff json": ["diff", "{archive}", "--root", "{root}", "--prefix", "{site}", "--json"],
    "trust show": ["trust", "show", "--prefix", "{site}"],
    "trust update": ["trust", "update", "{root}", "--prefix", "{site}"],
    "a hostile root": ["trust", "update", HOSTILE, "--prefix", "{site}"],
    "service": ["service", "install", "--prefix", "{site}", "--destdir", "{destdir}"],
    "service json": ["service", "install", "--prefix", "{site}", "--destdir", "{destdir}", "--json"],
    "service show": ["service", "show", "--prefix", "{site}", "--destdir", "{destdir}"],
    "service of a hostile name": [
        "service", "install", "--prefix", "{site}", "--destdir", "{destdir}", "--name", HOSTILE, "--listen", HOSTILE,
    ],
    "fapolicyd": ["service", "fapolicyd", "--prefix", "{site}"],
    "remove": ["remove", HOSTILE, "--prefix", "{site}"],
    "rollback": ["rollback", "--to", HOSTILE, "--prefix", "{site}"],
    "prune": ["prune", "--keep", "1", "--prefix", "{site}"],
    "a hostile prefix": ["status", "--prefix", HOSTILE],
    "a hostile archive": ["verify", HOSTILE, "--root", HOSTILE],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_title_forges_nothing(
    command: str, archive: Path, hostile_site: Path, sender: Sender, tmp_path: Path
) -> None:
    places = {"site": hostile_site, "archive": archive, "root": sender.root_path, "destdir": tmp_path}
    done = run(*(part if part == HOSTILE else part.format(**places) for part in COMMANDS[command]))
    is_plain(done)
    if command.endswith("json"):
        assert done.stdout.isascii()
        assert len(done.stdout.splitlines()) == 1
        json.loads(done.stdout)
    if command == "status":
        assert done.stdout.count(ESCAPED) == 2, "the title, and the name of a file"


def test_the_output_of_a_self_test_forges_nothing(sender: Sender, tmp_path: Path) -> None:
    """Its prompt is printed when it fails; the fixture's appliance prints what known_answers.json holds."""
    answers = json.dumps({"cases": [{"prompt": [1], "answer": HOSTILE}]}).encode()
    bad = sender.archive(release_files("5.1", extra={"known_answers.json": answers}), "hostile-answer", version=822)
    let_through(tmp_path)
    done = run("install", bad, "--root", sender.root_path, "--prefix", tmp_path / "site", *USER_OPTION)
    is_plain(done)
    assert done.exit_code == 1
    assert "failed its self-test" in done.stderr
    assert r"\x1b[2J" in done.stderr


def test_commands_print_in_one_way_only() -> None:
    """`say` and `say_json` escape; nothing else prints.

    The service's keeper is one file that imports nothing of ours. It prints versions, which it has compared with their
    pattern.
    """
    printing = {
        f"{path.relative_to(_ROOM)}:{node.lineno}"
        for path in _ROOM.rglob("*.py") if path.name not in ("output.py", "keeper.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "click.secho", "print", "echo")
    }  # fmt: skip
    assert printing == set()


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (13_900_000_000, "13.9 GB")]
)
def test_bytes_for_a_person(count: int, words: str) -> None:
    assert counted_bytes(count) == words
