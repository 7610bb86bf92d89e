"""`bundler build`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import click

from bundler.build import SigningRequest, build
from bundler.carrying import write_carriage
from bundler.commands.options import (
    JSON,
    PASSPHRASE_FILE,
    PATH,
    PYTHONS,
    default_wheel_cache,
    secret_of,
    target_options,
)
from bundler.commands.show import describe, print_advisories, print_carriage, print_release, print_what_is_missing
from bundler.commands.volumes import SIZE, SIZE_HELP, describe_volumes, print_volumes
from bundler.contents import BuildRequest
from bundler.graph.cpu import DenseKind
from bundler.keys import load_keys, utc
from bundler.lock import Runtime, WheelTarget
from bundler.sign import is_complete
from bundler.volumes import volumes_of
from installer.commands.output import say
from installer.terminal import StageLines

RELEASE_LIFETIME_DAYS = 730


@click.command("build")
@click.option("--checkpoint", required=True, type=PATH, help="Checkpoint directory in the Hugging Face layout.")
@click.option("--adapter", type=PATH, help="Directory of a LoRA adapter (PEFT), which is merged into the weights.")
@click.option("--keys", required=True, type=PATH, help="Directory made by `bundler keygen`.")
@click.option("--out", required=True, type=PATH, help="The archive to write, NAME-VERSION.airgap.")
@click.option("--python", "pythons", multiple=True, default=PYTHONS, show_default=True,
              help="A Python version of the hosts; may be given several times, and adds its wheels.")  # fmt: skip
@target_options
@click.option("--dense", type=click.Choice(["int8", "bf16"]), default="int8", show_default=True,
              help="Attention and head on CPUs: int8 is faster; bf16 is as published and rounds less.")  # fmt: skip
@click.option("--name", help="Name of the release; default: the model's id.")
@click.option("--version", help="Version of the release; default: the project's and a digest of the contents.")
@click.option("--expires", type=click.DateTime(["%Y-%m-%d"]), help="When the signatures expire; default: in two years.")
@click.option("--metadata-version", type=click.IntRange(min=1),
              help="Version of the signed metadata; default: what the ledger beside the keys says.")  # fmt: skip
@click.option("--wheel-cache", type=PATH, help="Where fetched wheels are kept; default: the user's cache directory.")
@click.option("--own-wheel", type=PATH, help="This project's wheel; default: built from the source tree.")
@click.option("--advisories", type=PATH, multiple=True,
              help="Vulnerability data to compare the parts with: records of OSV (JSON or zip), or grype's JSON. "
              "May be given several times. The findings travel with the release.",
)  # fmt: skip
@click.option(
    "--no-kit", is_flag=True, help="Write neither the installer kit nor the carrying sheet beside the archive."
)
@click.option(
    "--base",
    type=PATH,
    metavar="OLD.airgap",
    help="Make a delta: leave out what OLD has, and what sites that installed OLD need not be sent again.",
)
@click.option("--volume-size", "volume_bytes", type=SIZE, help=f"Write volumes instead of one file. {SIZE_HELP}")
@click.option("--no-known-answers", is_flag=True, help="Record none; the installer then cannot test the release.")
@PASSPHRASE_FILE
@JSON
def build_command(
    checkpoint: Path, adapter: Path | None, keys: Path, out: Path, pythons: tuple[str, ...], platform: str,
    accelerator: str, dense: DenseKind, name: str | None, version: str | None, expires: datetime | None,
    metadata_version: int | None, wheel_cache: Path | None, own_wheel: Path | None, advisories: tuple[Path, ...],
    base: Path | None, volume_bytes: int | None, no_kit: bool, no_known_answers: bool, passphrase_file: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Export, collect, sign and verify one archive. Write the kit that installs it, and a sheet to print, beside it.

    If the root demands signatures of people who are elsewhere, the command says whose, and leaves a small file for them
    to sign (`bundler sign`). Kit and sheet follow when they have signed (`bundler carry`).

    The same inputs and keys give the same bytes until the signatures expire: contents that were signed before keep
    their metadata version and expiry date. The ledger signed.json beside the keys remembers both.
    """
    now = datetime.now(UTC)
    request = BuildRequest(
        checkpoint=checkpoint,
        adapter=adapter,
        targets=tuple(WheelTarget(python, platform, cast(Runtime, accelerator)) for python in dict.fromkeys(pythons)),
        wheel_cache=wheel_cache or default_wheel_cache(),
        own_wheel=own_wheel,
        dense=dense,
        name=name,
        version=version,
        known_answers=not no_known_answers,
        environ=os.environ,
        advisories=advisories,
    )
    end = expires.replace(tzinfo=UTC) if expires else utc(now + timedelta(days=RELEASE_LIFETIME_DAYS))
    with StageLines() as progress:
        secret = secret_of(passphrase_file)
        signing = SigningRequest(keys, end, metadata_version, secret)
        built = build(out, request, signing, now=now, base=base, volume_bytes=volume_bytes, progress=progress)
        verified = built.verified
        complete = is_complete(verified.metadata.members)
        volumes = volumes_of(out) if volume_bytes is not None and complete else ()
        parts = volumes or (out,)
        carriage = None
        if not no_kit and complete:
            carriage = write_carriage(parts, verified, load_keys(keys, secret), request.wheel_cache, progress)
    size_bytes = sum(path.stat().st_size for path in parts)
    if as_json:
        more: dict[str, Any] = {"volumes": describe_volumes(volumes)} if volumes else {}
        more |= {} if carriage is None else {"carriage": carriage.as_json()}
        more["advisories"] = None if built.advisories is None else asdict(built.advisories)
        click.echo(json.dumps({"archive": str(out), "size_bytes": size_bytes, **more, **describe(verified)}))
        return
    say(f"{out} written and verified ({size_bytes:,} bytes).")
    if volumes:
        print_volumes(volumes)
    print_release(verified)
    print_advisories(built.advisories, now)
    print_what_is_missing(out, verified)
    if volume_bytes is not None and not volumes:
        say(f"It was not cut into volumes. When it is complete: bundler split {out} --volume-size ..")
    if carriage is not None:
        print_carriage(carriage)
