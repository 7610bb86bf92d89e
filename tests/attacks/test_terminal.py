"""Other people choose the names and words in the database, and a compromised web worker can. An administrator's command
shows them at a terminal, which must not obey them.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

_HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b6n\u202eeve"


def run(home: Path, *command: str) -> str:
    line = [sys.executable, "-m", "appliance.cli", *command, "--home", str(home)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", [("users", "list"), ("users", "list", "--json"), ("audit", "verify"), ("audit", "verify", "--json")]
)
def test_no_command_prints_what_a_terminal_obeys(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert "Made eve" in run(tmp_path, "users", "add", "eve")
    with sqlite3.connect(tmp_path / "state" / "database" / "appliance.sqlite3") as database:
        database.execute("UPDATE users SET name = ?", [_HOSTILE])
        database.execute(f'CREATE VIEW "{_HOSTILE}" AS SELECT 1')
    said = run(tmp_path, *command)
    assert "eve" in said
    assert all(letter.isprintable() or letter == "\n" for letter in said), ascii(said)
