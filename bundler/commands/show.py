"""What commands say of a verified archive."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from installer.verify import VerifiedArchive

_DENSE_WORDS = {"int8": "8 bits (blocks of 32), and a prompt's activations", "bf16": "bfloat16 as published"}


def describe(verified: VerifiedArchive) -> dict[str, Any]:
    return {
        "release": asdict(verified.release),
        "metadata_version": verified.metadata.version,
        "expires": verified.metadata.expires,
        "targets": [asdict(target) for target in verified.metadata.targets],
    }


def print_release(verified: VerifiedArchive) -> None:
    release = verified.release
    click.echo(f"  {release.name} {release.version}: {release.model.title}, {' and '.join(release.accelerators)}")
    click.echo(
        f"  for Python {release.target.python} on {release.target.platform}; {len(verified.metadata.targets)} files"
    )
    click.echo(f"  metadata version {verified.metadata.version}, valid until {verified.metadata.expires}")
    if release.dense is not None:
        click.echo(f"  on CPUs, attention and head in {_DENSE_WORDS[release.dense]}; experts in MXFP4 as published")
    if release.known_answers is None:
        click.echo("  without known answers: the installer cannot test it")
