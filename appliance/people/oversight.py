"""What an administrator sees of a person's access, and ends: sessions, API keys, one-time links.

It shows no secret: a session and a link are named by the hash that is stored, which opens nothing. Each end is an event
in the same transaction. Ending access needs no second administrator; giving it does (four_eyes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.tables import api_keys, sessions, users
from appliance.database.transactions import now_us
from appliance.people.account_changes import Transaction, open_admin_change
from appliance.people.links import Invitation, open_links, withdraw_link
from appliance.people.users import AccountError, find_user


@dataclass(frozen=True)
class OpenLink:
    """A link that still works, with the name of the account that it opens; "" for the first administrator's."""

    id: str
    user_id: str | None
    name: str
    is_invitation: bool  # the account has no password yet
    ends_at: datetime


class Oversight:
    """Ends access that was given; without a state of its own."""

    def __init__(self, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._record = record
        self._clock_us = clock_us

    def end_sessions(self, user_id: str, session_id: str | None = None, *, by: Actor) -> int:
        """End one session of a person, or all; returns how many there were.

        Raises:
            AccountError: there is no such person.
        """
        wanted = sessions.c.user_id == user_id
        if session_id is not None:
            wanted = sa.and_(wanted, sessions.c.token_hash == _hash_of(session_id))
        with self._change(by) as change:
            user = find_user(change.connection, users.c.id == user_id)
            ended = change.connection.execute(sessions.delete().where(wanted)).rowcount
            if ended:
                change.note("session_ended", user.name, "one session" if ended == 1 else f"{ended} sessions")
        return ended

    def revoke_key(self, user_id: str, key_id: str, *, by: Actor) -> None:
        """Stop a key of this person's for good; one that was revoked stays so.

        Raises:
            AccountError: there is no such person or key.
        """
        mine = sa.and_(api_keys.c.id == key_id, api_keys.c.user_id == user_id)
        with self._change(by) as change:
            user = find_user(change.connection, users.c.id == user_id)
            found = sa.select(api_keys.c.label, api_keys.c.revoked_us).where(mine)
            row = change.connection.execute(found).one_or_none()
            if row is None:
                raise AccountError("There is no such API key.")
            if row.revoked_us is None:
                change.connection.execute(api_keys.update().where(mine).values(revoked_us=change.now_us))
                change.note("api_key_revoked", f"{user.name}/{row.label}", "by an administrator")

    def open_links(self, user_id: str | None = None) -> list[OpenLink]:
        """The one-time links that still work, the next to end first; with `user_id` those of one account."""
        with self._record.database.read() as connection:
            found = open_links(connection, now_us=self._clock_us(), user_id=user_id)
            wanted = users.c.id.in_([link.user_id for link in found])
            rows = connection.execute(sa.select(users.c.id, users.c.name, users.c.password_hash).where(wanted))
            named = {row.id: (row.name, row.password_hash is None) for row in rows}
        return [_open_link(link, *named.get(link.user_id or "", ("", True))) for link in found]

    def withdraw(self, link_id: str, *, by: Actor) -> str:
        """End a link that nobody has used; returns the name of its account.

        Raises:
            AccountError: it has ended already.
        """
        with self._change(by) as change:
            found = open_links(change.connection, now_us=change.now_us)
            link = next((link for link in found if link.id == link_id), None)
            if link is None:
                raise AccountError("This link has ended already.")
            name = change.connection.scalar(sa.select(users.c.name).where(users.c.id == link.user_id)) or ""
            withdraw_link(change.connection, link)
            change.note("link_withdrawn", name)
            return name

    def _change(self, by: Actor) -> AbstractContextManager[Transaction]:
        return open_admin_change(self._record, by, clock_us=self._clock_us)


def _open_link(link: Invitation, name: str, is_invitation: bool) -> OpenLink:
    return OpenLink(link.id, link.user_id, name, is_invitation, link.ends_at)


def _hash_of(session_id: str) -> bytes:
    try:
        return bytes.fromhex(session_id)
    except ValueError:
        return b""
