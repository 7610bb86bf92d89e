"""about.json of a release: `appliance about` says it, because the bundler does not import the appliance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bundler.errors import BuildError
from installer.formats.about import FILE, encode_about, parse_about
from installer.formats.fields import FormatError


def write_about(tree: Path) -> None:
    """Write about.json into a release tree.

    Raises:
        BuildError: `appliance about` failed or said something else.
    """
    command = [str(Path(sys.executable).with_name("appliance")), "about", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            raise BuildError(f"`appliance about` failed: {done.stderr.decode(errors='replace').strip()[-200:]}")
        (tree / FILE).write_bytes(encode_about(parse_about(done.stdout)))
    except FormatError as exc:
        raise BuildError(f"`appliance about` said something else than about.json: {exc}") from exc
