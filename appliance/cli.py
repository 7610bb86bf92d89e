"""The `appliance` command: serve, look after, and check an installed site.

The commands import heavy modules themselves: `serve` must shut the door before any of them is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

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
    say,
    site_of,
)
from appliance.config import init_state, load_config
from appliance.errors import ApplianceError
from appliance.isolation.confinement import seal
from appliance.people.cli import users
from appliance.people.keys_cli import keys


class _Group(click.Group):
    """Turns any error of the appliance into one line and exit status 1."""

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
@click.option("--plain-http", is_flag=True, help="Serve a network without TLS; anybody on the path reads everything.")
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
    # The name is looked up now, because a later lookup could need a name service behind a socket.
    environ = {**os.environ, OPERATOR: login_name()}
    run(
        config, programs_of(config, environ), say=_say, inherited_listener=_listener_of_service_manager(),
        installed=installed,
    )  # fmt: skip


def _listener_of_service_manager() -> int | None:
    """The listener of systemd's socket activation, sd_listen_fds(3); None without one."""
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
        say(json.dumps(report.in_json(), indent=2))
    else:
        for line in report.lines():
            say(line)
    if not report.is_well:
        sys.exit(1)


@main.command()
@json_option
def about(as_json: bool) -> None:
    """Show the settings with their defaults, and the schema of the database, of this application."""
    from appliance.about import about as facts
    from installer.formats.about import encode_about

    found = facts()
    if as_json:
        say(encode_about(found).decode().rstrip())
        return
    say(f"database schema {found.schema}")
    for name, default in found.settings.items():
        say(f"  {name} = {default}")


@main.command()
@home_option
@click.option("--despite-damage", "reason", metavar="REASON",
              help="Upgrade even a damaged record. The damage stays, and the record keeps REASON.")  # fmt: skip
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
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False),
              help="Write known answers to this file instead; uses every instruction set of this machine.")  # fmt: skip
@json_option
def selftest(release: Path, record: Path | None, as_json: bool) -> None:
    """Compare what each operator of the model gives on this machine with the known answers, in silence. Exit status 1
    if one differs."""
    from appliance.isolation import check_access, shut_the_door
    from appliance.isolation.files import selftest_rules
    from appliance.isolation.policy import Kind
    from appliance.runtime.installed import verify_installed
    from appliance.runtime.processes import graphs_of

    release = release.resolve()
    verify_installed(release)
    if record is not None:
        open_for_writing(record).close()  # while this process still may
    graphs = graphs_of(release)
    engine = Kind.ENGINE_CUDA if graphs and "cpu" not in graphs else Kind.ENGINE_CPU
    rules = selftest_rules(
        release,
        engine=engine,
        reads=[],
        writes=[record] if record else [],
    )
    shut_the_door(keep=[], become=_owner_of_site(release), kind=engine, rules=rules)
    for path in (Path(__file__), release):
        check_access(path, os.R_OK)
    from appliance.engine.selftest.answers import check_known_answers, record_known_answers
    from appliance.installed_release import load_release

    found = load_release(release)
    with progress_bar("Known answers", hidden=as_json) as progress:
        if record is not None:
            record_known_answers(found, record, progress=progress)
        else:
            result = check_known_answers(found, progress=progress)
    if record is not None:
        print_result(as_json, {"recorded": str(record)}, f"Recorded known answers in {record}.")
        return
    text = f"{result.parts} operators give their known answers with {result.path} (at most {result.decoded:.0%} of "
    text += f"what rounding may change, {result.prompt:.0%} in prompts)."
    print_result(as_json, dataclasses.asdict(result), text)


main.add_command(audit)
main.add_command(users)
main.add_command(keys)


def _owner_of_site(release: Path) -> tuple[int, int] | None:
    """The owner that root changes to for a self-test of an installed release; None for any other release."""
    from appliance.isolation import owner_to_become

    state = release.absolute().parent.parent / "state"
    return owner_to_become(state) if state.is_dir() else None


if __name__ == "__main__":
    main()
