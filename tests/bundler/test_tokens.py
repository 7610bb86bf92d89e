"""Keys in PKCS#11 tokens, with SoftHSM 2 as the token."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.errors import KeysError
from bundler.private_keys import read_public
from bundler.tokens import TokenPlace, read_token
from tests.bundler.test_signing import bundler
from tests.conftest import require

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN, LABEL = "47110815", "bob"
_CLI = [sys.executable, "-m", "bundler.cli"]


@dataclass(frozen=True)
class Token:
    """A token of its own. PKCS#11 libraries read their settings once in a process, so the commands run in others."""

    directory: Path

    @property
    def environ(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}

    def run(self, *words: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [*_CLI, *map(str, words)], env=self.environ, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def keygen(self, directory: str, *words: str | Path, code: int = 0) -> str:
        pin = self.directory / "pin"
        return self.run(
            "keygen", "--keys", self.directory / directory, "--person", "bob", "--token", LABEL, "--module", MODULE,
            "--passphrase-file", pin, *words, code=code,
        )  # fmt: skip


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """A token with the key of bob, and the directory `bob` that knows it."""
    require(MODULE.exists(), "SoftHSM 2")
    require(importlib.util.find_spec("pkcs11") is not None, "the Python module pkcs11 (extra `pkcs11`)")
    made = Token(tmp_path_factory.mktemp("token"))
    (made.directory / "tokens").mkdir()
    (made.directory / "softhsm2.conf").write_text(f"directories.tokendir = {made.directory / 'tokens'}\n")
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--so-pin", "12345678", "--pin", PIN],
        env=made.environ, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (made.directory / "pin").touch(mode=0o600)
    (made.directory / "pin").write_text(PIN + "\n")
    made.keygen("bob")
    return made


def test_a_key_in_a_token_signs_a_root_with_a_key_in_a_file(token: Token, tmp_path: Path) -> None:
    bundler("keygen", "--keys", tmp_path / "ada", "--person", "ada", "--no-passphrase")
    people: list[str | Path] = [
        "--root-key",
        token.directory / "bob" / "bob.pub",
        "--root-key",
        tmp_path / "ada" / "ada.pub",
    ]
    bundler("trust", "new", "--keys", tmp_path / "place", *people, "--root-threshold", "2")
    draft = tmp_path / "place" / "next-root.json"
    bundler("sign", draft, "--keys", tmp_path / "ada", "--yes")
    words: list[str | Path] = [
        "sign",
        draft,
        "--keys",
        token.directory / "bob",
        "--yes",
        "--passphrase-file",
        token.directory / "pin",
    ]
    assert "Signed as bob" in token.run(*words)
    (shown,) = json.loads(bundler("trust", "show", "--json", "--keys", tmp_path / "place").stdout)
    assert shown["complete"] is True


def test_the_private_half_is_in_no_file(token: Token) -> None:
    files = {path.name: path.read_bytes() for path in (token.directory / "bob").iterdir()}
    assert files.keys() == {"bob.pub", "bob.token"}
    assert json.loads(files["bob.token"]) == {"module": str(MODULE), "token": LABEL, "label": "bob"}
    assert not any(b"PRIVATE" in data for data in files.values())


def test_the_key_that_is_there_is_used_again(token: Token) -> None:
    token.keygen("again")
    one, two = (read_public(token.directory / name / "bob.pub") for name in ("bob", "again"))
    assert one == two


def test_another_key_under_the_label_does_not_sign(token: Token, tmp_path: Path) -> None:
    """The token was exchanged, or the public half belongs to somebody else."""
    bundler("keygen", "--keys", tmp_path / "ada", "--person", "ada", "--no-passphrase")
    bundler("trust", "new", "--keys", tmp_path / "place", "--root-key", tmp_path / "ada" / "ada.pub")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "bob.token").write_bytes((token.directory / "bob" / "bob.token").read_bytes())
    (stranger / "bob.pub").write_bytes((tmp_path / "ada" / "ada.pub").read_bytes())
    draft = tmp_path / "place" / "next-root.json"
    said = token.run(
        "sign", draft, "--keys", stranger, "--yes", "--passphrase-file", token.directory / "pin", code=1
    )  # fmt: skip
    assert "could not sign" in said


REFUSED = {
    "a wrong PIN": (["--token", LABEL, "--module", str(MODULE)], "0000\n", "PinIncorrect"),
    "no such token": (["--token", "carol", "--module", str(MODULE)], PIN, "No token matching"),
    "no such library": (["--token", LABEL, "--module", "/nonexistent.so"], PIN, "cannot be used"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_that_cannot_be_used_is_named(case: str, token: Token, tmp_path: Path) -> None:
    words, pin, expected = REFUSED[case]
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text(pin)
    said = token.run(
        "keygen", "--keys", tmp_path / "new", "--person", "eve", *words, "--passphrase-file", tmp_path / "pin", code=1
    )  # fmt: skip
    assert expected in said
    assert said.startswith("bundler: KeysError: the token ")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"module": "x", "token": "y"}', '{"label": "a", "other": 1}'])
def test_a_token_file_that_is_none_is_refused(text: str, token: Token, tmp_path: Path) -> None:
    (tmp_path / "bob.token").write_text(text)
    with pytest.raises(KeysError, match="does not say which token"):
        read_token(tmp_path / "bob.token", read_public(token.directory / "bob" / "bob.pub"), None)


def test_without_a_pin_the_command_says_how_to_give_it(token: Token) -> None:
    signer = read_token(token.directory / "bob" / "bob.token", read_public(token.directory / "bob" / "bob.pub"), None)
    assert TokenPlace(str(MODULE), LABEL) == signer._place
    words: list[str | Path] = ["--person", "bob", "--token", LABEL, "--module", MODULE]
    said = token.run("keygen", "--keys", token.directory / "x", *words, code=1)
    assert "needs its PIN: give --passphrase-file" in said
