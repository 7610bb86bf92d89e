"""`appliance users`: accounts and one-time links."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.command import home_option, json_option, print_result, record_of, say
from appliance.config import Config
from appliance.site_address import site_url
from appliance.transport import transport_of

if TYPE_CHECKING:
    from appliance.audit.event import Actor
    from appliance.people.accounts import Accounts, User

_ROLES = ("user", "reviewer", "admin")


@click.group()
def users() -> None:
    """Accounts: add, list, disable, and one-time links."""


@users.command("add")
@click.argument("name")
@home_option
@click.option("--role", "roles", type=click.Choice(_ROLES), multiple=True, default=("user",), show_default=True)
@click.option("--display-name", default="", help="The name shown on the pages.")
@click.option("--url", help="Address of the appliance to put before the link.")
@json_option
def users_add(name: str, home: Path, roles: tuple[str, ...], display_name: str, url: str | None, as_json: bool) -> None:
    """Make the account NAME and print a one-time link with which its owner sets the password."""
    with _people(home) as people:
        from appliance.people.accounts import Role

        given = [Role(role) for role in roles]
        user = people.accounts.create_user(name, None, given, by=people.actor, display_name=display_name)
        link = people.link(people.accounts.make_reset_link(user.id, by=people.actor), url)
    print_result(
        as_json, {**_public(user), "link": link}, f"Made {user.name}. One-time link, valid for 24 hours:\n{link}"
    )


@users.command("list")
@home_option
@json_option
def users_list(home: Path, as_json: bool) -> None:
    """List the accounts. Exit status 1 if one of them is damaged."""
    with _people(home) as people:
        listed = people.accounts.list_users()
        found, damaged = [_public(user) for user in listed], listed.damaged
    lines = [f"{u['name']:<24} {','.join(u['roles']):<22} {'disabled' if u['disabled'] else 'active'}" for u in found]
    lines += [f"{row.name:<24} DAMAGED, and can do nothing: {row}" for row in damaged]
    body = [*found, *({"name": row.name, "damaged": str(row)} for row in damaged)]
    print_result(as_json, body, "\n".join(lines) or "There is no account yet; see: appliance users first-admin-link")
    if damaged:
        sys.exit(1)


@users.command("disable")
@click.argument("name")
@home_option
def users_disable(name: str, home: Path) -> None:
    """Lock the account NAME out: its sessions end at once, its API keys stop working."""
    with _people(home) as people:
        people.accounts.disable(people.accounts.find(name).id, by=people.actor)
    say(f"Disabled {name}.")


@users.command("enable")
@click.argument("name")
@home_option
def users_enable(name: str, home: Path) -> None:
    """Let the disabled account NAME in again."""
    with _people(home) as people:
        people.accounts.enable(people.accounts.find(name).id, by=people.actor)
    say(f"Enabled {name}.")


@users.command("roles")
@click.argument("name")
@home_option
@click.option("--role", "roles", type=click.Choice(_ROLES), multiple=True, required=True, help="One of the new roles.")
@click.option("--keep-keys", is_flag=True, help="Leave the account's API keys as they are; else they end.")
def users_roles(name: str, home: Path, roles: tuple[str, ...], keep_keys: bool) -> None:
    """Give the account NAME exactly these roles; its sessions end. No second administrator is asked."""
    from appliance.people.accounts import Role

    with _people(home) as people:
        user = people.accounts.find(name)
        given = [Role(role) for role in roles]
        people.accounts.set_roles(user.id, given, by=people.actor, end_keys=not keep_keys)
    say(f"{user.name} now has the roles {', '.join(sorted(set(roles)))}.")


@users.command("link")
@click.argument("name")
@home_option
@click.option("--url", help="Address of the appliance to put before the link.")
@json_option
def users_link(name: str, home: Path, url: str | None, as_json: bool) -> None:
    """Print a one-time link with which NAME sets a new password."""
    with _people(home) as people:
        user = people.accounts.find(name)
        link = people.link(people.accounts.make_reset_link(user.id, by=people.actor), url)
    print_result(as_json, {"name": user.name, "link": link}, link)


@users.command("first-admin-link")
@home_option
@click.option("--url", help="Address of the appliance to put before the link.")
@json_option
def users_first_admin_link(home: Path, url: str | None, as_json: bool) -> None:
    """Print a one-time link that makes the first administrator; nothing if there is one already."""
    with _people(home) as people:
        token = people.accounts.make_first_admin_link(by=people.actor)
        link = None if token is None else people.link(token, url)
    if as_json:
        say(json.dumps({"link": link}))
    elif link is not None:
        say(f"Make the first administrator with this one-time link, valid for 24 hours:\n  {link}")


@dataclasses.dataclass(frozen=True)
class _People:
    """What the commands of `users` work with."""

    config: Config
    accounts: Accounts
    actor: Actor

    def link(self, token: str, url: str | None) -> str:
        host, port = self.config.listen_host, self.config.listen_port
        scheme = transport_of(self.config, host).scheme
        base = url or site_url(self.config.site_addresses, host, port, scheme)
        return f"{base.rstrip('/')}/welcome/{token}"


@contextmanager
def _people(home: Path) -> Iterator[_People]:
    with record_of(home) as (config, log, actor):
        from appliance.people.account_store import AccountStore
        from appliance.people.accounts import Accounts

        yield _People(config, Accounts(AccountStore(log)), actor)


def _public(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "display_name": user.display_name,
        "roles": sorted(role.value for role in user.roles),
        "disabled": user.disabled,
        "created_at": user.created_at.isoformat(),
    }
