"""The command `installer`. The modules that its commands call do not print, exit or read the environment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from installer.commands.diff import diff
from installer.commands.install import install_command
from installer.commands.output import give_up_output, open_missing_streams, say
from installer.commands.preflight import preflight_command
from installer.commands.removal import prune_command, remove_command, uninstall_command
from installer.commands.repair import repair_command
from installer.commands.service import service
from installer.commands.site import own, rollback
from installer.commands.status import status
from installer.commands.trust import trust
from installer.commands.verify import verify_command
from installer.errors import InstallerError, told
from installer.scratch import collect_scratch


class _Group(click.Group):
    """Turns the installer's errors into one line on stderr and exit code 1."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_missing_streams()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InstallerError as exc:
            say(f"installer: {told(exc)}", err=True)
        except OSError as exc:
            if exc.filename is not None:  # outside a site: for example no room for temporary files
                say(f"installer: {exc.strerror}: {exc.filename}", err=True)
            else:
                give_up_output()
                say(
                    f"installer: the output cannot be written: {exc.strerror}",
                    err=True,
                )
        except RecursionError:
            say("installer: directories are nested too deeply to be walked: remove them by hand", err=True)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses it again sees this sentence all the same
            say("installer: stopped before the end: the same command goes on from there", err=True)
        except MemoryError:
            say(
                "installer: this process may not take enough memory: raise its limit (ulimit -v), or free some",
                err=True,
            )
        except RuntimeError as exc:
            if "thread" not in str(exc):  # "can't start new thread"
                raise
            say("installer: this user may not start another thread: raise the limit (ulimit -u)", err=True)
        sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt-oss-appliance")
def main() -> None:
    """Verify and install signed release archives on a host without a network.

    Nothing from an archive is used before its bytes match metadata signed by keys that --root trusts.
    """
    os.umask(0o022)  # others may read a site and never write it; state/ is 0700 whatever the umask is
    with contextlib.suppress(FileNotFoundError):  # there is no directory for temporary files, and we need none
        collect_scratch(Path(tempfile.gettempdir()), time.time())


for command in (
    verify_command,
    preflight_command,
    install_command,
    diff,
    repair_command,
    status,
    rollback,
    remove_command,
    prune_command,
    uninstall_command,
    own,
    service,
    trust,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
