"""`installer trust`: which keys a site trusts, and roots that travel alone."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click
from tuf.api.metadata import Root

from installer.commands.options import JSON, PREFIX, READ, read_root
from installer.commands.output import say, say_json
from installer.errors import NoReleaseError
from installer.root_update import site_roots, update_roots
from installer.signers import key_name
from installer.site import Site, open_site

_ROLES = ("root", "targets", "snapshot", "timestamp")


@click.group()
def trust() -> None:
    """Which keys this site trusts, and what it has accepted."""


@trust.command()
@click.argument("files", type=READ, nargs=-1, required=True)
@PREFIX
@JSON
def update(files: tuple[Path, ...], prefix: Path, as_json: bool) -> None:
    """Accept FILES, the sender's next roots, so that keys that they revoke sign nothing more that is installed here.

    An archive brings its roots along; this is for a change that cannot wait for the next archive. The roots need no
    other proof: those of this site must have signed them.
    """
    _require_site(prefix)
    with open_site(prefix) as site:
        done = update_roots(site, [read_root(file) for file in files], datetime.now(timezone.utc))
    if as_json:
        say_json(asdict(done))
        return
    same = done.before == done.after
    say(f"This site {'already had' if same else 'now has'} root {done.after}.")
    for note in done.notes:
        say(f"Note: {note}.")


@trust.command()
@PREFIX
@JSON
def show(prefix: Path, as_json: bool) -> None:
    """Show the newest root of a site: whose signatures an archive needs, and until when the root is valid."""
    _require_site(prefix)
    newest = site_roots(Site(prefix))[-1].signed
    if as_json:
        roles = {role: _group(newest, role) for role in _ROLES}
        say_json({"root": newest.version, "expires": newest.expires.isoformat(), "roles": roles})
        return
    say(f"Root {newest.version}, valid until {newest.expires:%Y-%m-%d}")
    for role in _ROLES:
        names = ", ".join(key_name(newest.keys[keyid]) for keyid in newest.roles[role].keyids)
        say(f"  {role}: {newest.roles[role].threshold} of {len(newest.roles[role].keyids)} must sign: {names}")


def _group(root: Root, role: str) -> dict[str, object]:
    keys = [key_name(root.keys[keyid]) for keyid in root.roles[role].keyids]
    return {"threshold": root.roles[role].threshold, "keys": keys}


def _require_site(prefix: Path) -> None:
    if not (prefix / "releases").is_dir():
        raise NoReleaseError(f"no release is installed in {prefix}")
