"""What the commands of every group share: the site's options, its record, and how results are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.config import Config, init_state, load_config

if TYPE_CHECKING:
    from appliance.audit.event import Actor
    from appliance.audit.log import AuditLog


def home_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        required=True,
        envvar="APPLIANCE_HOME",
        help="The site directory (the installer's prefix).",
    )(command)


def json_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


def print_result(as_json: bool, value: object, text: str) -> None:
    click.echo(json.dumps(value, indent=2) if as_json else text)


@contextmanager
def progress_bar(title: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=hidden or not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def record_of(home: Path) -> Iterator[tuple[Config, AuditLog, Actor]]:
    """The site's log, opened as the owner of its files, and who is at this terminal."""
    from appliance.audit.event import Actor
    from appliance.audit.log import AuditLog
    from appliance.database import open_database

    config = site_of(home)
    database = open_database(config.database_url)
    try:
        yield config, AuditLog(database), Actor("", _login_name(), "cli")
    finally:
        database.close()


def site_of(home: Path) -> Config:
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
