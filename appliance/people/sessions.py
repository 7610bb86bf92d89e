"""Sessions of signed-in browsers.

A token is 256 random bits and stored as a SHA-256 hash alone. The end of a session takes effect on the next request and
on an answer under way, because both look the session up.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.damaged_rows import Rows, read_rows
from appliance.database.tables import sessions, users
from appliance.database.transactions import CLOCK_SLACK_US, Database, as_datetime, now_us
from appliance.people.users import User, user_of_row

LONGEST_SESSION_S = 7 * 24 * 3600  # even if it is used all the time
MOST_SESSIONS = 50  # of one person
_SEEN_STEP_US = 60_000_000  # how often "last seen" is written


@dataclass(frozen=True)
class Session:
    """One signed-in browser; ``is_own`` marks the one that asks. ``id`` names it and opens nothing."""

    id: str
    address: str
    created_at: datetime
    seen_at: datetime
    is_own: bool


class Sessions:
    """Browser sessions; thread-safe."""

    def __init__(
        self,
        database: Database,
        record: AuditLog,
        *,
        idle_s: float = 12 * 3600.0,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        """Args: idle_s: a session ends after this long without a request."""
        self._database = database
        self._record = record
        self._idle_us = int(idle_s * 1e6)
        self._clock_us = clock_us

    def set_idle(self, idle_s: float) -> None:
        """From now on a session ends after this long without a request."""
        self._idle_us = int(idle_s * 1e6)

    def create(self, user: User, *, address: str) -> str:
        """Begin a session for a user who has just proved who they are; returns its token."""
        with self._database.write(serial=True) as connection:
            return self.create_in(connection, user, address=address)

    def create_in(self, connection: sa.Connection, user: User, *, address: str) -> str:
        """As `create`, within the caller's transaction. The oldest sessions of a person end when there are very
        many."""
        token, now = secrets.token_urlsafe(32), self._clock_us()
        connection.execute(sessions.delete().where(self._expired(now)))
        connection.execute(
            sessions.insert().values(
                token_hash=_hash(token), user_id=user.id, address=address, created_us=now, seen_us=now
            )
        )
        connection.execute(users.update().where(users.c.id == user.id).values(signed_in_us=now))
        mine = sessions.c.user_id == user.id
        newest = sa.select(sessions.c.token_hash).where(mine).order_by(sessions.c.created_us.desc())
        kept = newest.limit(MOST_SESSIONS)  # not read here: a damaged one keeps nobody from signing in
        connection.execute(sessions.delete().where(mine, sessions.c.token_hash.not_in(kept)))
        return token

    def user(self, token: str, *, is_used: bool = True) -> User | None:
        """Whose session it is; None when it has ended or the account is disabled.

        Args: is_used: whether a request of that person asks, by which the session lasts longer.
        """
        now = self._clock_us()
        mine = sessions.c.token_hash == _hash(token)
        query = sa.select(users, sessions.c.seen_us).join(sessions, sessions.c.user_id == users.c.id)
        with self._database.read() as connection:
            row = connection.execute(query.where(mine, sa.not_(self._expired(now)))).one_or_none()
        if row is None or row.disabled:
            return None
        if is_used and now - row.seen_us > _SEEN_STEP_US:
            with self._database.write() as connection:
                connection.execute(sessions.update().where(mine).values(seen_us=now))
        return user_of_row(row)

    def end(self, token: str, *, by: Actor) -> None:
        """Sign out; ending a session twice does nothing."""
        with self._database.write(serial=True) as connection:
            ended = connection.execute(sessions.delete().where(sessions.c.token_hash == _hash(token)))
            if ended.rowcount:
                self._record.append_in(connection, NewEvent(by, "sign_out", subject=by.name))

    def list_sessions(self, user_id: str, *, own_token: str) -> Rows[Session]:
        """The sessions of a user that still open the account, the last used first, and what is damaged."""
        alive = sa.and_(sessions.c.user_id == user_id, sa.not_(self._expired(self._clock_us())))
        query = sa.select(sessions).where(alive).order_by(sessions.c.seen_us.desc(), sessions.c.created_us.desc())
        own = _hash(own_token)

        def session(row: sa.Row[Any]) -> Session:
            times = as_datetime(row.created_us), as_datetime(row.seen_us)
            return Session(row.token_hash.hex(), row.address, *times, row.token_hash == own)

        with self._database.read() as connection:
            return read_rows(connection, query, sessions.c.address, session)

    def end_others(self, user: User, *, own_token: str, by: Actor) -> int:
        """End every session of a user but the one with this token; returns how many there were."""
        others = sa.and_(sessions.c.user_id == user.id, sessions.c.token_hash != _hash(own_token))
        with self._database.write(serial=True) as connection:
            ended = connection.execute(sessions.delete().where(others)).rowcount
            if ended:
                words = Content(f"{ended} other {'session' if ended == 1 else 'sessions'}")
                self._record.append_in(connection, NewEvent(by, "sign_out", subject=user.name, content=words))
        return ended

    def _expired(self, now: int) -> sa.ColumnElement[bool]:
        idle = sessions.c.seen_us < now - self._idle_us
        is_old = sessions.c.created_us < now - LONGEST_SESSION_S * 1_000_000
        return sa.or_(idle, is_old, sessions.c.created_us > now + CLOCK_SLACK_US)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
