"""`bundler keygen`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from bundler.commands.options import JSON, PASSPHRASE_FILE, PATH, first_line, secret_of
from bundler.commands.show import ONE_SIGNS, print_fingerprint
from bundler.errors import KeysError
from bundler.keys import INSTALLER_KEY, generate_in_token, generate_keys, generate_person, load_keys, utc
from bundler.kit import public_key_pem
from bundler.private_keys import SHORTEST_PASSPHRASE
from bundler.tokens import TokenPlace
from installer.commands.output import say
from installer.fingerprint import root_fingerprint

ROOT_LIFETIME_DAYS = 3650


@click.command()
@click.option("--keys", required=True, type=PATH, help="New directory for the private keys; it gets mode 0700.")
@click.option(
    "--person", help="Make one person's key of this name, for a root of several people (`bundler trust new`)."
)
@click.option("--token", help="Make the person's key inside the PKCS#11 token of this label; it never leaves it.")
@click.option("--module", help="With --token: the PKCS#11 library, such as /usr/lib/softhsm/libsofthsm2.so.")
@click.option("--days", default=ROOT_LIFETIME_DAYS, show_default=True, help="How long the root of trust is valid.")
@PASSPHRASE_FILE
@click.option("--no-passphrase", is_flag=True, help="Leave the keys unencrypted: whoever reads the files can sign.")
@JSON
def keygen(
    keys: Path, person: str | None, token: str | None, module: str | None, days: int, passphrase_file: Path | None,
    no_passphrase: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make signing keys, and what the isolated side needs to trust them: root.json and installer-key.pem.

    Keep the directory on the connected side. Bring the two files to the installer by another way than the archives, and
    read the fingerprint of root.json over the telephone: `installer verify` prints it there. With --person, make one
    person's key instead: several people then make the root together (docs/keys.md).
    """
    if (token is None) != (module is None) or (token is not None and person is None):
        raise click.UsageError("a key in a token needs --person, --token and --module")
    if token is not None and module is not None and person is not None:
        secret = secret_of(passphrase_file)
        if secret is None:
            raise KeysError(f"the token {token} needs its PIN: give --passphrase-file, or run this in a terminal")
        made = generate_in_token(keys, person, TokenPlace(module, token), secret)
        _say({"keys": str(keys), "public": str(made)}, as_json, f"The key of {person} is in the token {token}.", made)
        return
    passphrase = _new_passphrase(passphrase_file, no_passphrase)
    plain = "" if passphrase is not None else " The private keys are NOT encrypted."
    if person is not None:
        made = generate_person(keys, person, passphrase=passphrase)
        _say({"keys": str(keys), "public": str(made)}, as_json, f"The key of {person} is in {keys}.{plain}", made)
        return
    root = generate_keys(keys, expires=utc(datetime.now(UTC) + timedelta(days=days)), passphrase=passphrase)
    installer_key = keys / INSTALLER_KEY
    installer_key.write_bytes(public_key_pem(load_keys(keys, None if passphrase is None else lambda: passphrase)))
    fingerprint = root_fingerprint(root.read_bytes())
    if as_json:
        body = {"keys": str(keys), "root": str(root), "installer_key": str(installer_key), "fingerprint": fingerprint}
        click.echo(json.dumps(body | {"encrypted": passphrase is not None}))
        return
    say(f"Keys written to {keys}.{plain} Give {root} and {installer_key} to the people who install.")
    say(ONE_SIGNS)
    say("Two of three people are safer: `bundler keygen --person` for each, then `bundler trust new` (docs/keys.md).")
    print_fingerprint(fingerprint)


def _say(body: dict[str, str], as_json: bool, text: str, public: Path) -> None:
    click.echo(json.dumps(body) if as_json else f"{text} Give {public} to whoever makes the root.")


def _new_passphrase(file: Path | None, none: bool) -> str | None:
    """From the file, else from the terminal, where an empty one is no choice; None leaves the keys unencrypted."""
    if file is not None and none:
        raise click.UsageError("give either --passphrase-file or --no-passphrase")
    if file is not None:
        return first_line(file)
    if none or not sys.stdin.isatty():
        return None
    return str(
        click.prompt(
            f"New passphrase of the keys (at least {SHORTEST_PASSPHRASE} characters; --no-passphrase: none)",
            hide_input=True, confirmation_prompt=True, err=True,
        )
    )  # fmt: skip
