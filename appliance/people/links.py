"""One-time links: a token with which a person sets the password of one account, or makes the first administrator.

A link ends when it is used, when a newer one is made for the same account, when the account is disabled or its roles or
password change, and after 24 hours; one for the first administrator ends as soon as there is an administrator. Why a
link ended is kept for a month, so that its holder can be told. Tokens are stored as SHA-256 hashes.

Every function works within the caller's transaction, beside the change that makes or ends the link.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import sqlalchemy as sa

from appliance.database.tables import links, users
from appliance.database.transactions import CLOCK_SLACK_US, DatabaseError, as_datetime
from appliance.people.users import AccountError, Role, join_roles, parse_roles

LINK_LIFETIME_S = 24 * 3600
_KEPT_US: Final = 30 * 24 * 3600 * 1_000_000  # after the link's end, so that its page can say why it ended

LinkEnd = Literal[
    "unknown", "used", "replaced", "expired", "account_disabled", "roles_changed", "password_changed", "admin_exists",
    "withdrawn",
]  # fmt: skip
_WORDS: Final[dict[LinkEnd, str]] = {
    "unknown": "There is no such link. Check that the address is complete.",
    "used": "This link was used before, and a link works once.",
    "replaced": "A newer link for the same account replaced this one.",
    "expired": "This link has expired; it was valid for 24 hours.",
    "account_disabled": "This link ended when the account was disabled.",
    "roles_changed": "This link ended when the roles of the account changed.",
    "password_changed": "This link ended when the password of the account was changed.",
    "withdrawn": "An administrator withdrew this link.",
    "admin_exists": "This link was for the first administrator, and there is an administrator now.",
}


class LinkError(AccountError):
    """The one-time link is unknown or has ended; ``why`` says how."""

    def __init__(self, why: LinkEnd) -> None:
        super().__init__(_WORDS[why])
        self.why = why


@dataclass(frozen=True)
class Link:
    """A link that works; ``user_id`` is None for one that makes an account with ``roles``."""

    token_hash: bytes
    user_id: str | None
    roles: frozenset[Role]
    made_by: str  # the id of the user who was shown the token; "" for the appliance and the command line


def make_link(
    connection: sa.Connection, user_id: str | None, roles: frozenset[Role], *, made_by: str, now_us: int
) -> str:
    """A new token. Links that it replaces end: those of the same account, or the earlier ones for the first admin."""
    end_links(connection, user_id, "replaced")
    connection.execute(links.delete().where(links.c.expires_us < now_us - _KEPT_US))
    token = secrets.token_urlsafe(32)
    connection.execute(
        links.insert().values(
            token_hash=_hash(token), user_id=user_id, roles=join_roles(roles), first_admin=user_id is None,
            expires_us=now_us + LINK_LIFETIME_S * 1_000_000, ended=None, made_by=made_by,
        )
    )  # fmt: skip
    return token


def find_link(connection: sa.Connection, token: str, *, now_us: int) -> Link:
    """The link of a token.

    Raises:
        LinkError: it is unknown or has ended.
    """
    disabled = sa.func.coalesce(users.c.disabled, sa.false()).label("disabled")  # a link for a new account has no user
    query = sa.select(links, disabled).outerjoin(users, users.c.id == links.c.user_id)
    row = connection.execute(query.where(links.c.token_hash == _hash(token))).one_or_none()
    if row is None:
        raise LinkError("unknown")
    if row.ended is not None:
        if row.ended not in _WORDS:
            raise DatabaseError("links.ended holds a word that this release does not know")
        raise LinkError(row.ended)
    if not _is_in_time(row.expires_us, now_us):
        raise LinkError("expired")
    if row.disabled:
        raise LinkError("account_disabled")
    return Link(row.token_hash, row.user_id, parse_roles(row.roles), row.made_by or "")


def end_links(connection: sa.Connection, user_id: str | None, why: LinkEnd) -> None:
    """End the links of an account that still work; None: those for the first administrator."""
    whose = links.c.user_id.is_(None) if user_id is None else links.c.user_id == user_id
    connection.execute(links.update().where(whose, links.c.ended.is_(None)).values(ended=why))


def use_link(connection: sa.Connection, link: Link) -> None:
    """Mark the link as used: it works once."""
    connection.execute(links.update().where(links.c.token_hash == link.token_hash).values(ended="used"))


def has_link(connection: sa.Connection, user_id: str, *, now_us: int) -> bool:
    """Whether a link of the account would still work."""
    query = sa.select(links.c.expires_us).where(links.c.user_id == user_id, links.c.ended.is_(None))
    return any(_is_in_time(expires_us, now_us) for expires_us in connection.scalars(query))


@dataclass(frozen=True)
class Invitation:
    """A link that somebody holds and has not used. ``id`` names it and opens nothing; ``user_id`` is None for the first
    administrator's."""

    id: str
    user_id: str | None
    ends_at: datetime


def open_links(connection: sa.Connection, *, now_us: int, user_id: str | None = None) -> list[Invitation]:
    """The links that still work, the next to end first; with `user_id` those of one account."""
    query = sa.select(links).where(links.c.ended.is_(None)).order_by(links.c.expires_us)
    if user_id is not None:
        query = query.where(links.c.user_id == user_id)
    rows = [row for row in connection.execute(query) if _is_in_time(row.expires_us, now_us)]
    return [Invitation(row.token_hash.hex(), row.user_id, as_datetime(row.expires_us)) for row in rows]


def withdraw_link(connection: sa.Connection, invitation: Invitation) -> None:
    """End one link."""
    mine = links.c.token_hash == bytes.fromhex(invitation.id)
    connection.execute(links.update().where(mine).values(ended="withdrawn"))


def _is_in_time(expires_us: int, now_us: int) -> bool:
    """Whether a link's end lies ahead, but no farther than that of one which is made now."""
    return now_us <= expires_us <= now_us + LINK_LIFETIME_S * 1_000_000 + CLOCK_SLACK_US


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
