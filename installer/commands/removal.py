"""`installer remove`, `prune` and `uninstall`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from installer.commands.options import JSON, PREFIX
from installer.commands.output import counted_bytes, say, say_json
from installer.commands.service import stop_and_remove
from installer.errors import InstallerError
from installer.export import export_record, has_record
from installer.removal import Removal, prune, remove_release, uninstall
from installer.site import Site, open_existing_site


@click.command("remove")
@click.argument("version")
@PREFIX
@JSON
def remove_command(version: str, prefix: Path, as_json: bool) -> None:
    """Remove release VERSION with its packed weights, and what only it used of the store.

    The current release and the one that is served stay. `state/` stays.
    """
    with open_existing_site(prefix) as site:
        removal = remove_release(site, version)
    _report(removal, as_json)


@click.command("prune")
@PREFIX
@click.option("--keep", type=click.IntRange(1), required=True, help="How many releases stay, the current one included.")
@JSON
def prune_command(prefix: Path, keep: int, as_json: bool) -> None:
    """Remove all releases but some: the current one stays, then the previous one, then the youngest."""
    with open_existing_site(prefix) as site:
        removal = prune(site, keep)
    _report(removal, as_json)


@click.command("uninstall")
@PREFIX
@click.option("--purge", is_flag=True, help="Remove state/ as well: accounts, conversations, the record and its key.")
@click.option("--export", type=click.Path(path_type=Path), help="The file to export the record to, before --purge.")
@click.option("--without-record", is_flag=True, help="With --purge: export nothing. The record is lost for good.")
@click.option("--yes", is_flag=True, help="With --purge: do not ask.")
@JSON
def uninstall_command(
    prefix: Path, purge: bool, export: Path | None, without_record: bool, yes: bool, as_json: bool
) -> None:
    """Remove every release, the store, the links and the service. `state/` stays, and with it the record.

    With --purge nothing stays. The command first exports the record to the file --export, by the release's
    own `appliance audit export --jsonl`.
    """
    if purge and (export is None) == (not without_record):
        raise click.UsageError("--purge needs either --export FILE or --without-record")
    if not purge and (export is not None or without_record or yes):
        raise click.UsageError("--export, --without-record and --yes belong to --purge")
    with open_existing_site(prefix) as site:
        removal = uninstall(site, purge=purge, before=lambda: _before(site, purge, export, yes))
    if as_json:
        exported = str(export) if export is not None and export.exists() else None
        say_json({**_body(removal), "left": list(removal.left), "exported": exported})
        return
    if export is not None:
        say(
            f"The record is in {export}." if export.exists() else "The appliance was never used here: no record exists."
        )
    say(f"{len(removal.versions)} releases and the store were removed; {counted_bytes(removal.freed_bytes)} are free.")
    if removal.left:
        say(f"{prefix} still holds {', '.join(removal.left)}.")


def _before(site: Site, purge: bool, export: Path | None, yes: bool) -> None:
    """Ask, export the record, then end the service: a connection to its socket would start the appliance again."""
    if purge and site.state.is_dir():
        question = f"Remove {site.state} with all accounts, conversations and the record?"
        if not yes and not click.confirm(question, err=True):
            raise InstallerError("nothing was removed")
        if export is not None and has_record(site):
            export_record(site, export, os.environ)
    stop_and_remove(site.prefix, Path("/"))


def _report(removal: Removal, as_json: bool) -> None:
    if as_json:
        say_json(_body(removal))
        return
    for version in removal.versions:
        say(f"Release {version} was removed.")
    say(f"{counted_bytes(removal.freed_bytes)} are free." if removal.versions else "There is nothing to remove.")


def _body(removal: Removal) -> dict[str, object]:
    return {"removed": list(removal.versions), "freed_bytes": removal.freed_bytes}
