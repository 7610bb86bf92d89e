"""The `appliance` command: serve, look after, and check an installed site.

Heavy modules are imported inside the commands that need them: `serve` must shut the door before any of them is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance import __version__
from appliance.config import Config, init_state, load_config
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.accounts import Accounts, User
    from appliance.audit.event import Actor
    from appliance.audit.log import AuditLog

_ROLES = ("user", "reviewer", "admin")


class _Group(click.Group):
    """Turns the one error root into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ApplianceError as exc:
            click.echo(f"Error: {exc}", err=True)
            ctx.exit(1)


def _home(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        required=True,
        envvar="APPLIANCE_HOME",
        help="The site directory (the installer's prefix).",
    )(command)


def _json(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="appliance")
def main() -> None:
    """Serve gpt-oss from an installed site: silent, recorded, on its own."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)


@main.command()
@_home
@click.option("--host", help="Address to listen on instead of the configured one.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on instead of the configured one.")
def serve(home: Path, host: str | None, port: int | None) -> None:
    """Serve the site until Ctrl-C or SIGTERM."""
    from appliance.processes import programs_of
    from appliance.supervisor import serve as run

    config = load_config(home)
    if host is not None:
        config = dataclasses.replace(config, listen_host=host)
    if port is not None:
        config = dataclasses.replace(config, listen_port=port)
    run(config, programs_of(config, os.environ), say=_say, inherited_listener=_listener_of_service_manager())


def _listener_of_service_manager() -> int | None:
    """systemd's socket activation, sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return 3


def _say(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


@main.command()
@_home
@_json
def doctor(home: Path, as_json: bool) -> None:
    """Check this host and this site: silence, release, record, disk, clock. Exit status 1 if something is wrong."""
    from appliance.doctor import examine

    report = examine(load_config(home))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        for line in report.lines():
            click.echo(line)
    if not report.is_well:
        sys.exit(1)


@main.command()
@click.option("--release", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True,
              help="The release directory.")  # fmt: skip
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="Write known answers to this file.")
@click.option("--prompts", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="With --record: a JSON list of lists of token ids.")  # fmt: skip
@_json
def selftest(release: Path, record: Path | None, prompts: Path | None, as_json: bool) -> None:
    """Have the model give its known answers on this machine, in silence. Exit status 1 if one differs."""
    if (record is None) != (prompts is None):
        raise click.UsageError("--record and --prompts go together")
    from appliance.isolation import check_access, shut_the_door

    shut_the_door(keep=[], become=None)
    for path in (Path(__file__), release):
        check_access(path, os.R_OK)
    from appliance.engine.selftest import check_known_answers, load_prompts, record_known_answers
    from appliance.release import load_release

    found = load_release(release.absolute())
    if record is not None and prompts is not None:
        record_known_answers(found, load_prompts(prompts), record)
        _print(as_json, {"recorded": str(record)}, f"Recorded known answers in {record}.")
        return
    with _progress("Known answers", hidden=as_json) as progress:
        result = check_known_answers(found, progress=progress)
    text = f"{result.cases} known answers agree on {result.accelerator} (largest deviation {result.worst:.1e}"
    text += ")." if result.prompt_distance is None else f", {result.prompt_distance:.1e} read as prompts)."
    _print(as_json, dataclasses.asdict(result), text)


@main.group()
def users() -> None:
    """Accounts: add, list, disable, and one-time links."""


@users.command("add")
@click.argument("name")
@_home
@click.option("--role", "roles", type=click.Choice(_ROLES), multiple=True, default=("user",), show_default=True)
@click.option("--display-name", default="", help="The name shown on the pages.")
@click.option("--url", help="Address of the appliance to put before the link.")
@_json
def users_add(name: str, home: Path, roles: tuple[str, ...], display_name: str, url: str | None, as_json: bool) -> None:
    """Make the account NAME and print a one-time link with which its owner sets the password."""
    from appliance.accounts import Role

    with _people(home) as people:
        given = [Role(role) for role in roles]
        user = people.accounts.create_user(name, None, given, by=people.actor, display_name=display_name)
        link = people.link(people.accounts.make_reset_link(user.id, by=people.actor), url)
    _print(as_json, {**_public(user), "link": link}, f"Made {user.name}. One-time link, valid for 24 hours:\n{link}")


@users.command("list")
@_home
@_json
def users_list(home: Path, as_json: bool) -> None:
    """List the accounts."""
    with _people(home) as people:
        found = [_public(user) for user in people.accounts.list_users()]
    lines = [f"{u['name']:<24} {','.join(u['roles']):<22} {'disabled' if u['disabled'] else 'active'}" for u in found]
    _print(as_json, found, "\n".join(lines) or "There is no account yet; see: appliance users first-admin-link")


@users.command("disable")
@click.argument("name")
@_home
def users_disable(name: str, home: Path) -> None:
    """Lock the account NAME out: its sessions end at once, its API keys stop working."""
    with _people(home) as people:
        people.accounts.disable(people.accounts.find(name).id, by=people.actor)
    click.echo(f"Disabled {name}.")


@users.command("enable")
@click.argument("name")
@_home
def users_enable(name: str, home: Path) -> None:
    """Let the disabled account NAME in again."""
    with _people(home) as people:
        people.accounts.enable(people.accounts.find(name).id, by=people.actor)
    click.echo(f"Enabled {name}.")


@users.command("link")
@click.argument("name")
@_home
@click.option("--url", help="Address of the appliance to put before the link.")
@_json
def users_link(name: str, home: Path, url: str | None, as_json: bool) -> None:
    """Print a one-time link with which NAME sets a new password."""
    with _people(home) as people:
        user = people.accounts.find(name)
        link = people.link(people.accounts.make_reset_link(user.id, by=people.actor), url)
    _print(as_json, {"name": user.name, "link": link}, link)


@users.command("first-admin-link")
@_home
@click.option("--url", help="Address of the appliance to put before the link.")
@_json
def users_first_admin_link(home: Path, url: str | None, as_json: bool) -> None:
    """Print a one-time link that makes the first administrator; nothing if there is one already."""
    with _people(home) as people:
        token = people.accounts.make_first_admin_link(by=people.actor)
        link = None if token is None else people.link(token, url)
    if as_json:
        click.echo(json.dumps({"link": link}))
    elif link is not None:
        click.echo(f"Make the first administrator with this one-time link, valid for 24 hours:\n  {link}")


@main.group()
def audit() -> None:
    """The record: verify it, sign it, export evidence and check evidence."""


@audit.command("verify")
@_home
@_json
def audit_verify(home: Path, as_json: bool) -> None:
    """Check every event, hash and signed checkpoint. Exit status 1 if anything is broken."""
    from appliance.audit.checkpoint import keep_verdict
    from appliance.audit.verify import verify_log

    with _record(home) as (config, log, _), _progress("Verifying the log", hidden=as_json) as progress:
        report = verify_log(log.database, config.state_dir, progress=progress)
        keep_verdict(log.database, report)
    newest = None if report.newest is None else report.newest.size
    if as_json:
        body = {
            "intact": report.is_intact,
            "events": report.size,
            "erased": report.erased,
            "root": None if report.root is None else report.root.hex(),
            "checkpoints": report.checkpoints,
            "signed_up_to": newest,
            "faults": [dataclasses.asdict(fault) for fault in report.faults],
        }
        click.echo(json.dumps(body, indent=2))
    else:
        for fault in report.faults:
            click.echo(f"FAULT  {fault}")
        word = "intact" if report.is_intact else "BROKEN"
        signed = "none signed" if newest is None else f"signed up to event {newest}"
        click.echo(f"The log is {word}: {report.size} events, {report.erased} erased, {signed}.")
    if not report.is_intact:
        sys.exit(1)


@audit.command("checkpoint")
@_home
def audit_checkpoint(home: Path) -> None:
    """Sign the log as it is now and print the signed checkpoint, to be kept elsewhere."""
    from appliance.audit.checkpoint import newest_note, write_checkpoint

    with _record(home) as (config, log, _):
        write_checkpoint(log, config.state_dir)
        note = newest_note(log.database)
    if note is None:
        raise ApplianceError("the log is empty; there is nothing to sign")
    click.echo(note, nl=False)


@audit.command("export")
@_home
@click.option("--first", type=click.IntRange(1), default=1, show_default=True, help="Number of the first event.")
@click.option("--last", type=click.IntRange(1), help="Number of the last event.  [default: the newest]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--without-content", is_flag=True, help="Headers and proofs only: who and when, not what.")
def audit_export(home: Path, first: int, last: int | None, out: Path, without_content: bool) -> None:
    """Write events with the proofs that they are in the log, for any other machine to check."""
    from appliance.audit.evidence import export_evidence

    with _record(home) as (config, log, actor):
        wanted = range(first, (last or log.size()) + 1)
        data = export_evidence(log, config.state_dir, wanted, by=actor, with_content=not without_content)
    try:
        out.write_bytes(data)
    except OSError as exc:
        raise ApplianceError(f"{out}: cannot be written: {exc.strerror}") from exc
    click.echo(f"Wrote {len(wanted)} events to {out}; check them with: appliance audit check {out} --key audit.pub")


@audit.command("check")
@click.argument("evidence", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
              help="The log's public key, a copy of state/keys/audit.pub that you trust.")  # fmt: skip
@_json
def audit_check(evidence: Path, key: Path, as_json: bool) -> None:
    """Check an EVIDENCE file against the log's public key; needs no site."""
    from appliance.audit.evidence import verify_evidence

    try:
        proven = verify_evidence(evidence.read_bytes(), key.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ApplianceError(f"cannot be read: {exc}") from exc
    first, last = proven.checkpoint.origin, proven.checkpoint.size
    text = f"Proven: {len(proven.events)} events of the log {first}, signed when it held {last} events."
    _print(as_json, {"events": len(proven.events), "origin": first, "signed_size": last}, text)


@contextmanager
def _progress(title: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=hidden or not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@dataclasses.dataclass(frozen=True)
class _People:
    """What the commands of `users` work with."""

    config: Config
    accounts: Accounts
    actor: Actor

    def link(self, token: str, url: str | None) -> str:
        base = url or f"http://{self.config.listen_host}:{self.config.listen_port}"
        return f"{base.rstrip('/')}/welcome/{token}"


@contextmanager
def _people(home: Path) -> Iterator[_People]:
    from appliance.accounts import Accounts

    with _record(home) as (config, log, actor):
        yield _People(config, Accounts(log.database, log), actor)


@contextmanager
def _record(home: Path) -> Iterator[tuple[Config, AuditLog, Actor]]:
    """The site's log, opened as the owner of its files, and who is at this terminal."""
    from appliance.audit.event import Actor
    from appliance.audit.log import AuditLog
    from appliance.database import open_database

    config = _site(home)
    database = open_database(config.database_url)
    try:
        yield config, AuditLog(database), Actor("", _login_name(), "cli")
    finally:
        database.close()


def _site(home: Path) -> Config:
    """The settings, with state/ made if need be and root left for its owner, so that what is written stays theirs."""
    from appliance.isolation import become_user, owner_to_become

    config = load_config(home)
    init_state(config.home)
    owner = owner_to_become(config.state_dir)
    if owner is not None:
        become_user(*owner)
    return config


def _login_name() -> str:
    """Whoever called, for the record: the name before sudo, else the user's own."""
    import pwd

    name = os.environ.get("SUDO_USER")
    if name is None:
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            name = f"uid {os.getuid()}"
    return name


def _public(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "display_name": user.display_name,
        "roles": sorted(role.value for role in user.roles),
        "disabled": user.disabled,
        "created_at": user.created_at.isoformat(),
    }


def _print(as_json: bool, value: object, text: str) -> None:
    click.echo(json.dumps(value, indent=2) if as_json else text)


if __name__ == "__main__":
    main()
