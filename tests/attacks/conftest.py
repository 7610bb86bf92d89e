"""Fixtures of the attacks: a whole web application over a site of its own."""

from __future__ import annotations

from tests.webui.conftest import empty_database, gate, make_site, site

__all__ = ["empty_database", "gate", "make_site", "site"]
