"""`bundler carry`: the kit and the carrying sheet of an archive that is complete only now."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from bundler.carrying import write_carriage
from bundler.commands.options import JSON, PASSPHRASE_FILE, PATH, default_wheel_cache, secret_of
from bundler.commands.show import print_carriage
from bundler.keys import load_keys, load_signers
from installer.terminal import StageLines
from installer.verify import DiscardingSink, verify_archive


@click.command()
@click.argument("file", type=PATH)
@click.option("--keys", required=True, type=PATH, help="Directory of the build place.")
@click.option(
    "--signer", type=PATH, help="Directory of a person who signs as targets, to sign the kit.  [default: --keys]"
)
@click.option("--wheel-cache", type=PATH, help="Where fetched wheels are kept; default: the user's cache directory.")
@PASSPHRASE_FILE
@JSON
def carry(
    file: Path, keys: Path, signer: Path | None, wheel_cache: Path | None, passphrase_file: Path | None, as_json: bool
) -> None:
    """Verify archive FILE, and write the kit that installs it, and a sheet to print, beside it.

    `bundler build` does so itself, unless signatures are missing: each of them changes the archive's digest, which the
    sheet has.
    """
    secret = secret_of(passphrase_file)
    loaded = load_keys(keys, secret)
    if signer is not None:
        loaded = replace(loaded, signers=(*loaded.signers, *load_signers(signer, secret)))
    with StageLines() as progress:
        with file.open("rb") as stream:
            progress.stage("Verifying", file.stat().st_size)
            verified = verify_archive(stream, loaded.roots[-1], sink=DiscardingSink(), progress=progress)
        carriage = write_carriage([file], verified, loaded, wheel_cache or default_wheel_cache(), progress)
    if as_json:
        click.echo(json.dumps(carriage.as_json()))
    else:
        print_carriage(carriage)
