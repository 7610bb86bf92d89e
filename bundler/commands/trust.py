"""`bundler trust`: whose signatures an archive needs, and how that changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from tuf.api.metadata import Metadata, Root

from bundler.commands.keys import ROOT_LIFETIME_DAYS
from bundler.commands.options import JSON, PASSPHRASE_FILE, PATH, secret_of
from bundler.commands.show import describe_root, print_root
from bundler.errors import KeysError
from bundler.keys import DRAFT, ROOT, load_roots, load_signers, make_directory, put_root, utc
from bundler.private_keys import Secret, read_public
from bundler.roots import (
    ROLES,
    Group,
    find_key,
    first_root,
    is_complete,
    next_root,
    parse_draft,
    sign_root,
    without_key,
)
from bundler.rotation import NO_KEYS, FreshKeys, fresh_keys
from installer.commands.output import say

_KEYS = click.option("--keys", required=True, type=PATH, help="Directory of the build place: roots, ledger, its keys.")


@click.group()
def trust() -> None:
    """Whose signatures an archive needs: make a root for several people, change it, revoke keys."""


def _role_options(command: Callable[..., None]) -> Callable[..., None]:
    for role in reversed(ROLES):
        how_many = f"How many of them must sign as {role}."
        whose = f"Public half (NAME.pub) of somebody who signs as {role}. Repeatable."
        command = click.option(f"--{role}-threshold", type=click.IntRange(min=1), help=how_many)(command)
        command = click.option(f"--{role}-key", type=PATH, multiple=True, help=whose)(command)
    return command


@trust.command()
@_KEYS
@_role_options
@click.option("--days", default=ROOT_LIFETIME_DAYS, show_default=True, help="How long the root is valid.")
@PASSPHRASE_FILE
@JSON
def new(keys: Path, days: int, passphrase_file: Path | None, as_json: bool, **roles: Any) -> None:
    """Make root 1 of several people, from the public halves of their keys.

    A role for which no key is given has the people and the threshold of the role before it, in the order root, targets,
    snapshot, timestamp. Keys in the directory sign at once; everybody else signs next-root.json with `bundler sign`.
    """
    if not roles["root_key"]:
        raise click.UsageError("give at least one --root-key")
    groups: dict[str, Group] = {}
    before = Group(())
    for role in ROLES:
        people = tuple(read_public(path) for path in roles[f"{role}_key"]) or before.keys
        given = 1 if roles[f"{role}_key"] else before.threshold
        before = groups[role] = Group(people, roles[f"{role}_threshold"] or given)
    make_directory(keys)
    root = first_root(groups, expires=utc(datetime.now(UTC) + timedelta(days=days)))
    _sign_and_put(keys, root, NO_KEYS, secret_of(passphrase_file), as_json)


@trust.command()
@_KEYS
@click.option("--role", "roles", type=click.Choice(ROLES), multiple=True, required=True, help="Repeatable.")
@click.option("--key", "public", type=PATH, multiple=True,
              help="Public half of a new key (NAME.pub). Repeatable.  [default: a new ROLE.pem in the directory]",
)  # fmt: skip
@click.option(
    "--threshold", type=click.IntRange(min=1), help="How many of them must sign.  [default: as many as before]"
)
@PASSPHRASE_FILE
@JSON
def rotate(
    keys: Path, roles: tuple[str, ...], public: tuple[Path, ...], threshold: int | None, passphrase_file: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Give roles other keys. The old ones sign nothing more that sites accept.

    After a change of the keys of timestamp, snapshot and targets, sites also accept lower versions than before. That is
    how one recovers from a version number that a thief made too high.
    """
    newest, secret = _newest(keys), secret_of(passphrase_file)
    people = tuple(read_public(path) for path in public)
    fresh = NO_KEYS if people else fresh_keys(keys, roles, secret)
    groups = {
        role: Group(people or (fresh.signers[role].public_key,), threshold or newest.roles[role].threshold)
        for role in roles
    }
    _sign_and_put(keys, next_root(newest, groups), fresh, secret, as_json)


@trust.command()
@click.argument("key")
@_KEYS
@click.option("--replace-with", type=PATH, help="Public half (NAME.pub) of the key that takes its place.")
@PASSPHRASE_FILE
@JSON
def revoke(key: str, keys: Path, replace_with: Path | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Take KEY (a name, or the beginning of a key id) out of every role.

    If it was the only key of a role and is a ROLE.pem in the directory, use `bundler trust rotate` for that role.
    """
    newest = _newest(keys)
    instead = read_public(replace_with) if replace_with else None
    groups = without_key(newest, find_key(newest, key), instead)
    _sign_and_put(keys, next_root(newest, groups), NO_KEYS, secret_of(passphrase_file), as_json)


@trust.command()
@_KEYS
@click.option("--on", type=click.DateTime(["%Y-%m-%d"]), help="The day on which the root ends.")
@click.option("--days", type=click.IntRange(min=1), help="How many days from now it is valid.")
@PASSPHRASE_FILE
@JSON
def expire(keys: Path, on: datetime | None, days: int | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Give the root another end, later or earlier; everything else stays."""
    if (on is None) == (days is None):
        raise click.UsageError("give either --on or --days")
    end = on.replace(tzinfo=UTC) if on else utc(datetime.now(UTC) + timedelta(days=days or 0))
    newest = _newest(keys)
    _sign_and_put(keys, next_root(newest, {}, expires=end), NO_KEYS, secret_of(passphrase_file), as_json)


@trust.command()
@click.argument("file", type=PATH, required=False)
@_KEYS
@JSON
def adopt(file: Path | None, keys: Path, as_json: bool) -> None:
    """Make a root that others have signed the newest root of this directory: FILE, or its own next-root.json.

    Several people may have signed copies of one root; adopt each, and the signatures are put together.
    """
    path = file or keys / DRAFT
    if not path.exists():
        raise KeysError(f"{path} does not exist; `bundler trust new`, `rotate`, `revoke` and `expire` make it")
    make_directory(keys)
    metadata = parse_draft(path.read_bytes())
    pending = keys / DRAFT
    if pending.exists():
        other = parse_draft(pending.read_bytes())
        if other.signed_bytes == metadata.signed_bytes:
            metadata.signatures = dict(sorted((other.signatures | metadata.signatures).items()))
    _put(keys, metadata, NO_KEYS, as_json)


@trust.command()
@_KEYS
@JSON
def show(keys: Path, as_json: bool) -> None:
    """Show the newest root: whose keys it trusts, how many must sign, until when; and a root that is not complete."""
    shown = [(parse_draft(root), None) for root in load_roots(keys)[-1:]] if (keys / ROOT).exists() else []
    newest = shown[0][0].signed if shown else None
    drafts = [(parse_draft((keys / DRAFT).read_bytes()), newest)] if (keys / DRAFT).exists() else []
    if not shown and not drafts:
        raise KeysError(f"{keys} has no {ROOT}")
    if as_json:
        click.echo(json.dumps([describe_root(metadata, before) for metadata, before in (*shown, *drafts)]))
        return
    for metadata, before in (*shown, *drafts):
        print_root(metadata, before)


def _newest(keys: Path) -> Root:
    try:
        return parse_draft(load_roots(keys)[-1]).signed
    except OSError as exc:
        raise KeysError(f"cannot read {exc.filename}: {exc.strerror}; `bundler trust new` makes a root") from exc


def _sign_and_put(keys: Path, root: Metadata[Root], fresh: FreshKeys, secret: Secret | None, as_json: bool) -> None:
    """Sign the root with the keys that are here, and make it the newest one if it is complete."""
    if (keys / DRAFT).exists():
        raise KeysError(f"{keys / DRAFT} still waits for signatures: adopt it, or remove it to make another root")
    before = _newest(keys) if root.signed.version > 1 else None
    here = load_signers(keys, secret) if any(keys.glob("*.pem")) or any(keys.glob("*.token")) else ()
    sign_root(root, before, [*here, *fresh.signers.values()])
    _put(keys, root, fresh, as_json)


def _put(keys: Path, root: Metadata[Root], fresh: FreshKeys, as_json: bool) -> None:
    before = _newest(keys) if root.signed.version > 1 else None
    fresh.write(keys)
    path = put_root(keys, root)
    if as_json:
        click.echo(json.dumps({"file": str(path), **describe_root(root, before)}))
        return
    print_root(root, before)
    if is_complete(root, before):
        say(f"{path} is the newest root now. The next archives carry it; give it to people who install anew.")
    else:
        say(f"{path} is NOT complete. Each person who is missing signs it: bundler sign {path} --keys DIRECTORY")
