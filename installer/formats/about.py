"""about.json: what a release's application is, for whoever compares two releases before an upgrade.

    {"format": 1, "schema": "0003", "settings": {"listen.port": "8080", ..}}

`schema` is the revision to which the release upgrades the database. `settings` are the names of all settings and their
defaults, as JSON. `appliance about --json` prints these facts, and the bundler puts them into the release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from installer.formats.fields import Text, parse_file

FORMAT = 1
FILE = "about.json"


@dataclass(frozen=True)
class About:
    """The facts."""

    schema: Text
    settings: Mapping[str, Text]  # section.key -> default, as JSON


def encode_about(about: About) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(about)}, indent=1, sort_keys=True) + "\n").encode()


def parse_about(data: bytes) -> About:
    """Read the file's bytes.

    Raises:
        FormatError: it is not such a file.
    """
    return parse_file(About, data, version=FORMAT)
