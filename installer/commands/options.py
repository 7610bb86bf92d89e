"""Options and inputs that several commands of `installer` share."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click

from installer.errors import InstallerError

ROOT_HELP = "The sender's root.json, brought by another way than the archive."
FILE = click.argument("file", type=click.Path(path_type=Path))
ROOT = click.option("--root", required=True, type=click.Path(path_type=Path), help=ROOT_HELP)
PREFIX = click.option(
    "--prefix", required=True, type=click.Path(path_type=Path), help="Directory of the site, which holds the releases."
)
USER = click.option(
    "--user", help="Unprivileged user (name or uid) who gets state/.  [default: its present owner, else gpt-oss]"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")


def open_archive(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as exc:
        raise InstallerError(f"cannot read {file}: {exc.strerror}") from exc


def read_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InstallerError(f"cannot read the root {path}: {exc.strerror}") from exc
