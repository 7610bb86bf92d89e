"""Details of conversations that leave and enter as files."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.audit.details.codec import Details


@dataclass(frozen=True, kw_only=True)
class ConversationExported(Details):
    """A conversation that left in a file: its form, how many messages it has, and the digest of the file."""

    form: str
    messages: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ConversationImported(Details):
    """A conversation that came from a file: who claims to have written it, how many messages were taken, how many were
    left out, and the digest of what was sent. The event's text holds every message."""

    source: str
    messages: int
    left_out: int
    sha256: str
