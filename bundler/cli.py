"""The command `bundler`. The modules that its commands call do not print, exit or read the environment."""

from __future__ import annotations

import sys
from typing import Any

import click

from bundler.commands.build import build_command
from bundler.commands.carry import carry
from bundler.commands.diff import diff
from bundler.commands.inputs import demo_checkpoint, lock
from bundler.commands.inspect import inspect
from bundler.commands.keys import keygen
from bundler.commands.sign import sign
from bundler.commands.trust import trust
from bundler.commands.volumes import split
from bundler.errors import BundlerError
from installer.commands.output import say
from installer.errors import InstallerError, told


class _Group(click.Group):
    """Turns the errors of the bundler and of the installer into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BundlerError as exc:
            say(f"bundler: {type(exc).__name__}: {exc}", err=True)
        except InstallerError as exc:
            say(f"bundler: {told(exc)}", err=True)
        except OSError as exc:
            say(f"bundler: {exc.strerror}: {exc.filename}", err=True)
        sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt-oss-appliance")
def main() -> None:
    """Turn a gpt-oss checkpoint into one signed archive for an isolated network."""


for command in (
    keygen,
    build_command,
    inspect,
    diff,
    split,
    lock,
    demo_checkpoint,
    sign,
    carry,
    trust,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
