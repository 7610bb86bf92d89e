"""`installer preflight`, and `installer install --dry-run`, which checks the same and also verifies every byte."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click

from installer.commands.options import FILES, JSON, MEDIA, ROOT, given_media, read_root
from installer.commands.output import say, say_json
from installer.examination import SERVES_ON, Check, Question, examine_host, examine_site, is_well
from installer.formats.serving import is_served
from installer.head import read_head
from installer.host import look_at_host
from installer.site import Site
from installer.terminal import StageLines


@click.command("preflight")
@FILES
@MEDIA
@ROOT
@click.option("--prefix", type=click.Path(path_type=Path), help="Check this prefix, too. It need not exist.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=SERVES_ON, show_default=True, help="Where it will serve."
)
@JSON
def preflight_command(
    files: tuple[Path, ...], directories: tuple[Path, ...], root: Path, prefix: Path | None, port: int, as_json: bool
) -> None:
    """Check whether this host can take archive FILE and serve it. Reads the archive's head alone, and writes nothing.

    A line for each thing: ok, warn or FAIL. The exit code is 1 if there is a FAIL.
    """
    rehearse(files, directories, root, prefix, port=port, as_json=as_json)


def rehearse(
    files: tuple[Path, ...],
    directories: tuple[Path, ...],
    root: Path,
    prefix: Path | None,
    *,
    port: int = SERVES_ON,
    allowed: Collection[str] = (),
    whole: bool = False,
    as_json: bool,
) -> None:
    """Examine host and prefix for an archive, print every check, and exit with 1 if one fails."""
    site = None if prefix is None else Site(Path(os.path.abspath(prefix)))
    with StageLines() as progress, given_media(files, directories, progress) as media:
        progress.stage("Verifying", media.size_bytes)
        release, metadata = read_head(
            media.stream, read_root(root), site, whole=whole, allowed=allowed, progress=progress
        )
    question = Question(
        release, metadata, look_at_host(), datetime.now(timezone.utc), os.environ, None if _serves(site) else port,
        switch_product="switch-product" in allowed,
    )  # fmt: skip
    checks = [*examine_host(question), *examine_site(question, prefix)]
    if as_json:
        body = {"name": release.name, "version": release.version, "is_well": is_well(checks)}
        say_json({**body, "checks": [asdict(check) for check in checks]})
    else:
        _print(f"{release.name} {release.version} ({release.model.title})", checks)
    if not is_well(checks):
        sys.exit(1)


def _serves(site: Site | None) -> bool:
    """Whether the site itself has the port now, as far as this user may know."""
    try:
        return site is not None and is_served(site.state)
    except OSError:
        return False


def _print(title: str, checks: list[Check]) -> None:
    say(title)
    for check in checks:
        say(f"{check.outcome:<4}  {check.subject}: {check.detail}")
        if check.remedy is not None:
            say(f"      to do: {check.remedy}")
