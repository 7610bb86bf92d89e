"""The commands that change who a site belongs to and which release is current: `installer rollback` and `own`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from installer.commands.options import JSON, PREFIX, USER
from installer.commands.output import say, say_json
from installer.errors import NoReleaseError, OwnerError
from installer.formats.trial import begin_trial, end_trial, load_returned
from installer.owner import find_owner, hand_over
from installer.release import schema_of
from installer.site import Site, open_existing_site


@click.command()
@PREFIX
@click.option("--to", "version", help="Make this installed version current instead of the previous one.")
@JSON
def rollback(prefix: Path, version: str | None, as_json: bool) -> None:
    """Make the previous release the current one, by one rename. Run it again to return to the newer release."""
    if not (prefix / "releases").is_dir():
        raise NoReleaseError(f"no release is installed in {prefix}")
    with open_existing_site(prefix) as site:
        before, after = site.roll_back(version)
        end_trial(site.prefix)  # somebody has decided
        note = _tried_again(site, before, after) or _older_schema(site, before, after)
    if as_json:
        say_json({"current": after, "previous": before, "note": note})
        return
    say(f"The current release is now {after} (was {before}). Restart the appliance to serve it.")
    if note is not None:
        say(f"Note: {note}.")


def _tried_again(site: Site, before: str | None, after: str) -> str | None:
    """Put a release on trial again from which the keeper has returned, and say so. Any other one has served before."""
    returned = load_returned(site.prefix)
    if returned is None or (returned.left, returned.to) != (after, before):
        return None
    begin_trial(site.prefix, after, before)
    return f"{after} {returned.why} at {returned.at}, and is on trial again: {before} is served if it fails again"


def _older_schema(site: Site, before: str | None, after: str) -> str | None:
    """What to know if the release before has upgraded the database further than the one that is current now."""
    if before is None:
        return None
    old, new = schema_of(site.release(before)), schema_of(site.release(after))
    if new >= old:
        return None
    knows, refuses = (f"knows {new}", "refuses") if new else ("does not say which one it knows", "may refuse")
    return (
        f"{before} upgrades the database to the schema {old}, and {after} {knows}: if {before} has served this site, "
        f"{after} {refuses} to start; then run this command again, or put back the copy of state/"
    )


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
    with open_existing_site(prefix, may_mend=True) as site:
        owner = find_owner(user, site.prefix)
        if owner is None:
            raise RuntimeError("internal error: root has no owner to choose")
        hand_over(site.prefix, owner)
    if as_json:
        say_json({"user": owner.name, "uid": owner.uid})
    else:
        say(f"{site.state} belongs to {owner.name} now, as whom the appliance runs; the releases are root's.")
