"""A terminal asks for the passphrase of new keys, twice, and of keys that sign, once."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from bundler.keys import load_keys

PASSPHRASE = "correct horse battery staple"


def on_a_terminal(command: Sequence[str | Path], answers: Sequence[tuple[bytes, str]]) -> tuple[int, str]:
    """Run a command on a terminal of its own, and type each answer after its question."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bundler.cli", *map(str, command)], stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    shown = b""
    for question, answer in answers:
        while not shown.endswith(question):
            shown += os.read(master, 1)
        os.write(master, answer.encode() + b"\n")
    try:
        while data := os.read(master, 1 << 16):
            shown += data
    except OSError:  # the terminal is gone with its last process
        pass
    os.close(master)
    return process.wait(timeout=120), shown.decode()


def test_new_keys_are_encrypted_where_a_terminal_asks(tmp_path: Path) -> None:
    twice = [(b"none): ", PASSPHRASE), (b"Repeat for confirmation: ", PASSPHRASE)]
    code, shown = on_a_terminal(["keygen", "--keys", tmp_path / "keys"], twice)
    assert code == 0, shown
    assert PASSPHRASE not in shown
    assert "NOT encrypted" not in shown
    assert b"ENCRYPTED" in (tmp_path / "keys" / "targets.pem").read_bytes()
    assert len(load_keys(tmp_path / "keys", lambda: PASSPHRASE).signers) == 3

    once = [(b"Passphrase (or PIN) of the keys: ", PASSPHRASE)]
    code, shown = on_a_terminal(["trust", "expire", "--days", "9", "--keys", tmp_path / "keys"], once)
    assert code == 0, shown
    assert "Root 2, valid until" in shown
