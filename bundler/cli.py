"""The command `bundler`. The modules that it calls do not print, exit or read the environment."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import click

from bundler.build import SigningRequest, build
from bundler.contents import BuildRequest
from bundler.errors import BundlerError
from bundler.graph.cpu import DenseKind
from bundler.keys import generate_keys, utc
from bundler.lock import Runtime, WheelTarget, resolve_lock
from bundler.own_wheel import project_requirements
from installer.archive import ArchiveReader, root_name
from installer.errors import InstallerError
from installer.terminal import StageLines
from installer.verify import DiscardingSink, VerifiedArchive, verify_archive

ROOT_LIFETIME_DAYS = 3650
RELEASE_LIFETIME_DAYS = 730
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")
_PATH = click.Path(path_type=Path)
_TARGET_OPTIONS = (
    click.option("--python", default="3.11", show_default=True, help="Python version of the hosts."),
    click.option("--platform", default="manylinux_2_28_x86_64", show_default=True, help="Platform tag of the hosts."),
    click.option(
        "--accelerator", type=click.Choice(["cpu", "cuda", "both"]), default="cpu", show_default=True,
        help="Graphs and runtime of the release; `both` has the CUDA runtime, which also runs on CPUs.",
    ),
)  # fmt: skip


class _Group(click.Group):
    """Turns the errors of the bundler and of the installer into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BundlerError, InstallerError) as exc:
            click.echo(f"bundler: {type(exc).__name__}: {exc}", err=True)
        except OSError as exc:
            click.echo(f"bundler: {exc.strerror}: {exc.filename}", err=True)
        sys.exit(1)


def _target_options(command: Any) -> Any:
    for option in reversed(_TARGET_OPTIONS):
        command = option(command)
    return command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt-oss-appliance")
def main() -> None:
    """Turn a gpt-oss checkpoint into one signed archive for an isolated network."""


@main.command()
@click.option("--keys", required=True, type=_PATH, help="New directory for the private keys; it gets mode 0700.")
@click.option("--days", default=ROOT_LIFETIME_DAYS, show_default=True, help="How long the root of trust is valid.")
@_JSON
def keygen(keys: Path, days: int, as_json: bool) -> None:
    """Make signing keys, and the root.json that the isolated side needs.

    Keep the directory on the connected side. Bring root.json to the installer by another way than the archives.
    """
    root = generate_keys(keys, expires=utc(datetime.now(UTC) + timedelta(days=days)))
    if as_json:
        click.echo(json.dumps({"keys": str(keys), "root": str(root)}))
    else:
        click.echo(f"Keys written to {keys}. Give {root} to the people who install.")


@main.command("build")
@click.option("--checkpoint", required=True, type=_PATH, help="Checkpoint directory in the Hugging Face layout.")
@click.option("--keys", required=True, type=_PATH, help="Directory made by `bundler keygen`.")
@click.option("--out", required=True, type=_PATH, help="The archive to write, NAME-VERSION.airgap.")
@_target_options
@click.option("--dense", type=click.Choice(["int8", "bf16"]), default="int8", show_default=True,
              help="Attention and head on CPUs: int8 is faster; bf16 is as published and rounds less.")  # fmt: skip
@click.option("--name", help="Name of the release; default: the model's id.")
@click.option("--version", help="Version of the release; default: the project's and a digest of the contents.")
@click.option("--expires", type=click.DateTime(["%Y-%m-%d"]), help="When the signatures expire; default: in two years.")
@click.option("--metadata-version", type=click.IntRange(min=1),
              help="Version of the signed metadata; default: what the ledger beside the keys says.")  # fmt: skip
@click.option("--wheel-cache", type=_PATH, help="Where fetched wheels are kept; default: the user's cache directory.")
@click.option("--own-wheel", type=_PATH, help="This project's wheel; default: built from the source tree.")
@click.option("--no-known-answers", is_flag=True, help="Record none; the installer then cannot test the release.")
@_JSON
def build_command(
    checkpoint: Path, keys: Path, out: Path, python: str, platform: str, accelerator: str, dense: DenseKind,
    name: str | None, version: str | None, expires: datetime | None, metadata_version: int | None,
    wheel_cache: Path | None, own_wheel: Path | None, no_known_answers: bool, as_json: bool,
) -> None:  # fmt: skip
    """Export, collect, sign and verify one archive.

    The same inputs and keys give the same bytes until the signatures expire: contents that were signed before keep
    their metadata version and expiry date. The ledger signed.json beside the keys remembers both.
    """
    now = datetime.now(UTC)
    default_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt-oss-appliance" / "wheels"
    request = BuildRequest(
        checkpoint=checkpoint,
        target=WheelTarget(python, platform, cast(Runtime, accelerator)),
        wheel_cache=wheel_cache or default_cache,
        own_wheel=own_wheel,
        dense=dense,
        name=name,
        version=version,
        known_answers=not no_known_answers,
        environ=os.environ,
    )
    end = expires.replace(tzinfo=UTC) if expires else utc(now + timedelta(days=RELEASE_LIFETIME_DAYS))
    with StageLines() as progress:
        verified = build(out, request, SigningRequest(keys, end, metadata_version), now=now, progress=progress)
    if as_json:
        click.echo(json.dumps({"archive": str(out), "size_bytes": out.stat().st_size, **_describe(verified)}))
    else:
        click.echo(f"{out} written and verified ({out.stat().st_size:,} bytes).")
        _print(verified)


@main.command()
@click.argument("file", type=_PATH)
@click.option("--root", type=_PATH, help="Trusted root.json; without it, nothing proves who signed.")
@_JSON
def inspect(file: Path, root: Path | None, as_json: bool) -> None:
    """Show what archive FILE contains, after checking every byte of it."""
    with file.open("rb") as stream:
        root_bytes = root.read_bytes() if root else ArchiveReader(stream).read_metadata()[root_name(1)]
    with file.open("rb") as stream, StageLines() as progress:
        progress.stage("Verifying", file.stat().st_size)
        verified = verify_archive(stream, root_bytes, sink=DiscardingSink(), progress=progress)
    if as_json:
        click.echo(json.dumps({"archive": str(file), "trusted": root is not None, **_describe(verified)}))
        return
    trusted = "verified against the given root" if root else "complete, not checked against a root you trust (--root)"
    click.echo(f"{file}: {trusted}")
    _print(verified)
    for target in verified.metadata.targets:
        click.echo(f"  {target.size_bytes:>14,}  {target.sha256[:16]}  {target.path}")


@main.command()
@_target_options
@click.option("--out", type=_PATH, help="Default: the project's own lock for this target.")
def lock(python: str, platform: str, accelerator: str, out: Path | None) -> None:
    """Resolve the project's dependencies for a target and write a lock with hashes. Review its diff before a build."""
    target = WheelTarget(python, platform, cast(Runtime, accelerator))
    text = resolve_lock(target, project_requirements(target))
    path = out or target.lock_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    click.echo(f"{path} written: {text.count('==')} wheels.")


@main.command("demo-checkpoint")
@click.option("--out", required=True, type=_PATH, help="A new directory for the checkpoint.")
def demo_checkpoint(out: Path) -> None:
    """Write the embedded demo model as a checkpoint in the official layout."""
    from bundler.demo_model.expand import expand_demo_checkpoint  # only this command needs the demo model's weights

    with StageLines() as progress:
        expand_demo_checkpoint(out, progress)
    click.echo(f"{out} written: the demo model as a checkpoint.")


_DENSE_WORDS = {"int8": "8 bits (blocks of 32), and a prompt's activations", "bf16": "bfloat16 as published"}


def _describe(verified: VerifiedArchive) -> dict[str, Any]:
    return {
        "release": asdict(verified.release),
        "metadata_version": verified.metadata.version,
        "expires": verified.metadata.expires,
        "targets": [asdict(target) for target in verified.metadata.targets],
    }


def _print(verified: VerifiedArchive) -> None:
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


if __name__ == "__main__":
    main()
