"""`bundler keygen`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from bundler.commands.options import JSON, PATH
from bundler.keys import generate_keys, utc

ROOT_LIFETIME_DAYS = 3650


@click.command()
@click.option("--keys", required=True, type=PATH, help="New directory for the private keys; it gets mode 0700.")
@click.option("--days", default=ROOT_LIFETIME_DAYS, show_default=True, help="How long the root of trust is valid.")
@JSON
def keygen(keys: Path, days: int, as_json: bool) -> None:
    """Make signing keys, and the root.json that the isolated side needs.

    Keep the directory on the connected side. Bring root.json to the installer by another way than the archives.
    """
    root = generate_keys(keys, expires=utc(datetime.now(UTC) + timedelta(days=days)))
    if as_json:
        click.echo(json.dumps({"keys": str(keys), "root": str(root)}))
    else:
        click.echo(f"Keys written to {keys}. Give {root} to the people who install.")
