"""The commands about a site that exists: `installer status`, `rollback` and `own`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from installer.commands.options import JSON, PREFIX, USER
from installer.errors import NoReleaseError, OwnerError
from installer.formats.manifest import damage
from installer.formats.trial import end_trial
from installer.inspection import differences_of
from installer.owner import find_owner, hand_over
from installer.site import Receipt, Site, open_site


@click.command()
@PREFIX
@JSON
def status(prefix: Path, as_json: bool) -> None:
    """Show the releases of a site: which is current, which is the previous one, which is damaged.

    The command compares weights and wheels by size and time and all other files by digest; `installer verify --prefix`
    reads everything. The exit code is 1 if a release is damaged.
    """
    site = Site(prefix)
    current, previous = site.pointed("current"), site.pointed("previous")
    releases = site.installed()
    looks = {receipt.version: differences_of(site, receipt.version, hash_all=False) for receipt in releases}
    damaged = {version: found for version, found in looks.items() if found}
    if as_json:
        body = {"current": current, "previous": previous, "releases": [asdict(r) for r in releases],
                "damaged": {version: [asdict(d) for d in found] for version, found in damaged.items()}}  # fmt: skip
        click.echo(json.dumps(body))
    elif not releases:
        raise NoReleaseError(f"no release is installed in {prefix}")
    else:
        for receipt in releases:
            mark = {current: "current ", previous: "previous"}.get(receipt.version, "        ")
            click.echo(f"{mark}  {_line(receipt)}")
        for version, found in damaged.items():
            click.echo(f"FAIL  release {version} is not as it was installed: {damage(found)}")
            click.echo("      to do: install its archive again, which repairs it")
    if damaged:
        sys.exit(1)


@click.command()
@PREFIX
@click.option("--to", "version", help="Make this installed version current instead of the previous one.")
@JSON
def rollback(prefix: Path, version: str | None, as_json: bool) -> None:
    """Make the previous release the current one, by one rename. Run it again to return to the newer release."""
    if not (prefix / "releases").is_dir():
        raise NoReleaseError(f"no release is installed in {prefix}")
    with open_site(prefix) as site:
        before, after = site.roll_back(version)
        end_trial(site.prefix)  # somebody has decided
    if as_json:
        click.echo(json.dumps({"current": after, "previous": before}))
    else:
        click.echo(f"The current release is now {after} (was {before}). Restart the appliance to serve it.")


@click.command()
@PREFIX
@USER
@JSON
def own(prefix: Path, user: str | None, as_json: bool) -> None:
    """Give the state/ of a site to an unprivileged user, and its releases to root. Only root can do so."""
    if os.geteuid() != 0:
        raise OwnerError("only root can give a site to another user")
    if not (prefix / "state").is_dir() and not (prefix / "releases").is_dir():
        raise NoReleaseError(f"{prefix} is not a site")
    with open_site(prefix) as site:
        owner = find_owner(user, site.prefix)
        if owner is None:
            raise RuntimeError("internal error: root has no owner to choose")
        hand_over(site.prefix, owner)
    text = f"{site.state} belongs to {owner.name} now, as whom the appliance runs; the releases are root's."
    click.echo(json.dumps({"user": owner.name, "uid": owner.uid}) if as_json else text)


def _line(receipt: Receipt) -> str:
    return f"{receipt.version}  {receipt.model}  installed {receipt.installed_at}  self-test {receipt.self_test}"
