"""Every address of the administration: importing this module makes all of them part of `blueprint`."""

from __future__ import annotations

from webui.admin import (
    bulk,
    engine,
    first_steps,
    groups,
    markings,
    people,
    prompts,
    quotas,
    settings,
    standing,
    usage,
    why,
)
from webui.admin.routes import blueprint

__all__ = [
    "blueprint",
    "bulk",
    "engine",
    "first_steps",
    "groups",
    "markings",
    "people",
    "prompts",
    "quotas",
    "settings",
    "standing",
    "usage",
    "why",
]
