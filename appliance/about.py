"""What this application is, without any site: its settings with their defaults, and the schema of its database."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from appliance.config import parse_config, settings_by_section
from appliance.database.tables import SCHEMA
from installer.formats.about import About

_ANY_HOME = Path("/SITE")  # defaults below the site's directory show this word


def about() -> About:
    """The facts of the running code."""
    defaults = parse_config("", _ANY_HOME)
    settings = {
        f"{section}.{key}": json.dumps(getattr(defaults, field), default=_plain)
        for section, keys in settings_by_section().items()
        for key, field in keys.items()
    }
    return About(SCHEMA, dict(sorted(settings.items())))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
