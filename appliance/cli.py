"""The `appliance` command: serve, look after, and check an installed site.

Heavy modules are imported inside the commands that need them: `serve` must shut the door before any of them is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.audit.cli import audit
from appliance.command import (
    OPERATOR,
    home_option,
    json_option,
    login_name,
    open_for_writing,
    print_result,
    progress_bar,
    record_of,
    say,
    site_of,
)
from appliance.config import Config, init_state, load_config
from appliance.errors import ApplianceError
from appliance.isolation.confinement import seal
from appliance.site_address import site_url
from appliance.transport import transport_of

if TYPE_CHECKING:
    from appliance.audit.event import Actor
    from appliance.people.accounts import Accounts, User

_ROLES = ("user", "reviewer", "admin")


class _Group(click.Group):
    """Turns the one error root into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ApplianceError as exc:
            say(f"Error: {exc}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt-oss-appliance", prog_name="appliance")
def main() -> None:
    """Serve gpt-oss from an installed site: silent, recorded, on its own."""
    seal(os.environ)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)


@main.command()
@home_option
@click.option("--host", help="Address to listen on instead of the configured one.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on instead of the configured one.")
@click.option("--plain-http", is_flag=True, help="Serve a network without TLS: anybody on the way reads everything.")
def serve(home: Path, host: str | None, port: int | None, plain_http: bool) -> None:
    """Serve the site until Ctrl-C or SIGTERM."""
    from appliance.runtime.installed import verify_installed
    from appliance.runtime.processes import programs_of
    from appliance.runtime.serve import serve as run

    config = load_config(home)
    installed = verify_installed(config.release_dir)
    if host is not None:
        config = dataclasses.replace(config, listen_host=host)
    if port is not None:
        config = dataclasses.replace(config, listen_port=port)
    if plain_http:
        config = dataclasses.replace(config, tls_certificate=None, tls_key=None, tls_plain_http=True)
    # Looked up now: afterwards, asking who somebody is could mean asking a name service over a socket.
    environ = {**os.environ, OPERATOR: login_name()}
    run(
        config, programs_of(config, environ), say=_say, inherited_listener=_listener_of_service_manager(),
        installed=installed,
    )  # fmt: skip


def _listener_of_service_manager() -> int | None:
    """systemd's socket activation, sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return 3


def _say(line: str) -> None:
    say(line)
    sys.stdout.flush()


@main.command()
@home_option
@json_option
def doctor(home: Path, as_json: bool) -> None:
    """Check this host and this site: silence, release, memory, record, disk, clock. Exit status 1 if something is
    wrong."""
    from appliance.doctor import examine

    config = load_config(home)
    init_state(config.home, config.database_file)
    report = examine(config)
    if as_json:
        say(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        for line in report.lines():
            say(line)
    if not report.is_well:
        sys.exit(1)


@main.command()
@home_option
@click.option("--despite-damage", "reason", metavar="REASON",
              help="Upgrade even a damaged record; the damage stays as it is, and REASON is recorded.")  # fmt: skip
def upgrade(home: Path, reason: str | None) -> None:
    """Upgrade the database of an earlier release, which `serve` does by itself. The site must not be served."""
    from appliance.runtime.site_lock import lock_site

    if reason is not None and not reason.strip():
        raise click.UsageError("--despite-damage needs a reason, which is recorded")
    name = login_name()
    config = load_config(home)
    init_state(config.home)
    lock_site(config)  # until this process ends
    config = site_of(home)
    from appliance.audit.event import Actor
    from appliance.audit.upgrade import upgrade as run
    from appliance.database.tables import SCHEMA
    from appliance.database.transactions import open_database

    actor = Actor("", name, "cli")
    to_this = partial(run, state_dir=config.state_dir, by=actor, despite=reason)
    open_database(config.database_url, upgrade=to_this).close()
    say(f"The database has the schema {SCHEMA}, which this release uses.")


@main.command()
@click.option("--release", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True,
              help="The release directory.")  # fmt: skip
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="Write known answers to this file.")
@click.option("--prompts", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="With --record: a JSON list of lists of token ids.")  # fmt: skip
@json_option
def selftest(release: Path, record: Path | None, prompts: Path | None, as_json: bool) -> None:
    """Have the model give its known answers on this machine, in silence. Exit status 1 if one differs."""
    if (record is None) != (prompts is None):
        raise click.UsageError("--record and --prompts go together")
    from appliance.isolation import check_access, shut_the_door
    from appliance.isolation.files import selftest_rules
    from appliance.isolation.policy import Kind
    from appliance.runtime.installed import verify_installed
    from appliance.runtime.processes import graphs_of

    release = release.resolve()
    verify_installed(release)
    if record is not None:
        open_for_writing(record).close()  # while that is still allowed
    graphs = graphs_of(release)
    engine = Kind.ENGINE_CUDA if graphs and "cpu" not in graphs else Kind.ENGINE_CPU
    rules = selftest_rules(
        release,
        engine=engine,
        reads=[prompts] if prompts else [],
        writes=[record] if record else [],
    )
    shut_the_door(keep=[], become=_owner_of_site(release), kind=engine, rules=rules)
    for path in (Path(__file__), release):
        check_access(path, os.R_OK)
    from appliance.engine.selftest import check_known_answers, load_prompts, record_known_answers
    from appliance.release import load_release

    found = load_release(release)
    if record is not None and prompts is not None:
        record_known_answers(found, load_prompts(prompts), record)
        print_result(as_json, {"recorded": str(record)}, f"Recorded known answers in {record}.")
        return
    with progress_bar("Known answers", hidden=as_json) as progress:
        result = check_known_answers(found, progress=progress)
    text = f"{result.cases} known answers agree on {result.accelerator} (largest deviation {result.worst:.1e}"
    text += ")." if result.prompt_distance is None else f", {result.prompt_distance:.1e} read as prompts)."
    print_result(as_json, dataclasses.asdict(result), text)


main.add_command(audit)


@main.group()
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


def _owner_of_site(release: Path) -> tuple[int, int] | None:
    """Whom root leaves root for, to examine an installed release; None for another one."""
    from appliance.isolation import owner_to_become

    state = release.absolute().parent.parent / "state"
    return owner_to_become(state) if state.is_dir() else None


def _public(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "display_name": user.display_name,
        "roles": sorted(role.value for role in user.roles),
        "disabled": user.disabled,
        "created_at": user.created_at.isoformat(),
    }


if __name__ == "__main__":
    main()
