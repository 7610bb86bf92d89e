"""`installer install`."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click

from installer.commands.continuing import INTERPRETER, fitting_python
from installer.commands.options import FILES, JSON, MEDIA, PREFIX, ROOT, USER, given_media, read_root
from installer.commands.output import say, say_json
from installer.commands.preflight import rehearse
from installer.commands.service import after_install
from installer.install import ALLOWED, Outcome, install
from installer.media.source import PIPE
from installer.terminal import StageLines


@click.command("install")
@FILES
@MEDIA
@ROOT
@PREFIX
@USER
@INTERPRETER
@click.option("--no-service", is_flag=True, help="Make no systemd service, even if root installs.")
@click.option("--switch-product", is_flag=True, help="Replace another product, such as gpt-oss-20b by gpt-oss-120b.")
@click.option("--allow-downgrade", is_flag=True, help="Take an archive that is older than what the site has accepted.")
@click.option("--allow-expired", is_flag=True, help="Take an archive whose signatures have expired.")
@click.option("--dry-run", is_flag=True, help="Verify the archive and check host and site, and write nothing.")
@JSON
def install_command(
    files: tuple[Path, ...],
    directories: tuple[Path, ...],
    root: Path,
    prefix: Path,
    user: str | None,
    interpreter: Path | None,
    no_service: bool,
    switch_product: bool,
    allow_downgrade: bool,
    allow_expired: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Verify archive FILE while copying it, test the release, and make it the current one of the site.

    FILE is an archive, - for a pipe, or the volumes of an archive in any order. Volumes that lie beside a named one or
    in a --media directory need not be named. On a terminal, the command asks for the next medium and waits.

    --switch-product, --allow-downgrade and --allow-expired are kept in the receipt and shown by `installer status`.

    The previous release stays installed; `installer rollback` returns to it. The command may be interrupted at any
    moment: the old release keeps working, and the same command resumes. If root runs it, the release belongs to root,
    and state/ to an unprivileged user, as whom the appliance then runs; and systemd gets a service that serves it.
    """
    if os.geteuid() == 0:
        os.umask(0o022)  # the release is for another user to read
    typed = zip(ALLOWED, (allow_downgrade, allow_expired, switch_product))
    allowed = tuple(name for name, is_typed in typed if is_typed)
    if dry_run:
        rehearse(files, directories, root, prefix, allowed=allowed, whole=True, as_json=as_json)
        return
    with (
        fitting_python(interpreter, may_begin_again=PIPE not in files),
        StageLines() as progress,
        given_media(files, directories, progress) as media,
    ):
        outcome = install(
            media.stream,
            read_root(root),
            prefix,
            now=datetime.now(timezone.utc),
            environ=os.environ,
            progress=progress,
            user=user,
            allowed=allowed,
        )
    receipt = outcome.receipt
    served, lines = after_install(prefix, user, wanted=not no_service)
    if as_json:
        say_json({**asdict(outcome), "current": receipt.version, **served})
        return
    _say(outcome)
    for line in lines:
        say(line)


def _say(outcome: Outcome) -> None:
    receipt = outcome.receipt
    for note in outcome.notes:
        say(f"Note: {note}.")
    if outcome.repaired:
        say(f"{receipt.name} {receipt.version} was damaged and is repaired. Restart the appliance to serve it.")
        return
    if not outcome.switched:
        say(f"{receipt.name} {receipt.version} is already the current release; nothing was changed.")
        return
    done = "installed" if outcome.assembled else "was installed before"
    say(f"{receipt.name} {receipt.version} ({receipt.model}) {done} and is now the current release.")
    if receipt.self_test == "passed":
        say("Its self-test passed: the model gives its known answers on this machine.")
    else:
        say("No self-test was run: this release was built without known answers.")
