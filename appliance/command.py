"""What all groups of commands share: the options of a site, its record, and the printing of results."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from appliance.child import fork
from appliance.config import Config, init_state, load_config
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.audit.event import Actor
    from appliance.audit.log import AuditLog

OPERATOR = "APPLIANCE_OPERATOR"  # who started the appliance; the record names this person for its acts

_REDRAW_S: Final = 0.1


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
    say(json.dumps(value, indent=2) if as_json else text)


def say(text: str, *, err: bool = False) -> None:
    """Print lines for the person at the terminal.

    The lines may hold names and words of other people, so control characters are printed as escapes.
    """
    letters = (letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)
    click.echo("".join(letters), err=err)


@contextmanager
def progress_bar(title: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal. No thread draws it, only calls do: a verification forks, which needs a single thread."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    is_shown = not hidden and console.is_terminal
    with Progress(console=console, disable=not is_shown, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(title, total=None)
        next_s = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal next_s
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + _REDRAW_S
                bar.update(task, completed=done, total=total, refresh=True)

        yield show


@contextmanager
def record_of(home: Path, *, signs: bool = False) -> Iterator[tuple[Config, AuditLog, Actor]]:
    """Confine this command, open the site's log, and name the person at this terminal.

    Heavy modules are imported after this, so that they run confined from their first line.
    """
    name = login_name()
    config = site_of(home, signs=signs)
    from appliance.audit.event import Actor
    from appliance.audit.log import AuditLog
    from appliance.database.transactions import open_database

    database = open_database(config.database_url)
    try:
        yield config, AuditLog(database), Actor("", name, "cli")
    finally:
        database.close()


def site_of(home: Path, *, signs: bool = False) -> Config:
    """Load the settings, make state/ if it is missing, and confine this command for ever as the owner of state/."""
    from appliance.isolation.administration import confine_command

    config = load_config(home)
    init_state(config.home, config.database_file)
    confine_command(config, signs=signs)
    return config


def open_for_writing(path: Path) -> BinaryIO:
    """Open the file, or make it, with the rights of the caller: the confined command could not open it later.

    Raises:
        ApplianceError: the caller may not write it.
    """
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "wb")
    except OSError as exc:
        raise ApplianceError(f"{path}: cannot be written: {exc.strerror}") from exc


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at ``path`` when the block ends well; otherwise none is left, even if this process is killed.

    The confined command may neither rename nor remove the file. A process that was forked before does this, and nothing
    else: it renames the file when it is told to, and removes it when the command has gone without a word.

    Raises:
        ApplianceError: the file cannot be written.
    """
    if path.exists() and not path.is_file():  # a device or a pipe: what was written cannot be taken back
        with open_for_writing(path) as stream:
            yield stream
        return
    part = path.with_name(f".{path.name}.part")
    with open_for_writing(part) as file, _putting_in_place(part, path) as put_in_place:
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
        except OSError as exc:
            raise ApplianceError(f"{path}: cannot be written: {exc.strerror}") from exc
        put_in_place()


@contextmanager
def _putting_in_place(part: Path, path: Path) -> Iterator[Callable[[], None]]:
    """Yield a call that has ``part`` renamed to ``path``; without that call ``part`` is removed at the end."""
    told, tell = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(tell)
        os._exit(_put_in_place(told, part, path))
    os.close(told)
    try:
        yield lambda: _tell(tell)
    finally:
        os.close(tell)
        failed = os.waitpid(pid, 0)[1] != 0
    if failed:
        raise ApplianceError(f"{path}: cannot be put in its place")


def _put_in_place(told: int, part: Path, path: Path) -> int:
    """The work of the other process; return its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        if os.read(told, 1):
            part.replace(path)
        else:
            part.unlink(missing_ok=True)
    except OSError:
        return 1
    return 0


def _tell(descriptor: int) -> None:
    os.write(descriptor, b"\x01")


def login_name() -> str:
    """The name of the caller for the record: the name before sudo, otherwise the name of this user."""
    import pwd

    from appliance.isolation.administration import CONFINED_ENVIRON

    is_ours = os.environ.get(CONFINED_ENVIRON) == "1"  # the kernel must confirm this later
    name = (os.environ.get(OPERATOR) if is_ours else None) or os.environ.get("SUDO_USER")
    if name is None:
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            name = f"uid {os.getuid()}"
    return name
