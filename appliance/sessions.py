"""What a signed-in person carries: a session token in the browser, API keys elsewhere.

Both are random, shown once, and stored only as SHA-256 hashes. Disabling an account or changing its roles takes effect
on the next request, because every request looks the user up.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from appliance.accounts import AccountError, User, user_of_row
from appliance.audit.event import Actor, NewEvent
from appliance.audit.log import AuditLog
from appliance.database import Database, api_keys, as_datetime, now_us, sessions, users

API_KEY_PREFIX = "gpo_"
LONGEST_SESSION_S = 7 * 24 * 3600  # however much it is used
_SEEN_STEP_US = 60_000_000  # how often "last seen" is written
_MAX_LABEL_CHARS = 100


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

    def create(self, user: User, *, address: str) -> str:
        """Begin a session for a user who has just proved who they are; returns its token."""
        token = secrets.token_urlsafe(32)
        now = self._clock_us()
        with self._database.write() as connection:
            connection.execute(sessions.delete().where(self._expired(now)))
            connection.execute(
                sessions.insert().values(
                    token_hash=_hash(token), user_id=user.id, address=address, created_us=now, seen_us=now
                )
            )
        return token

    def user(self, token: str) -> User | None:
        """Whose session it is; None when it has ended or the account is disabled."""
        now = self._clock_us()
        mine = sessions.c.token_hash == _hash(token)
        query = sa.select(users, sessions.c.seen_us).join(sessions, sessions.c.user_id == users.c.id)
        with self._database.read() as connection:
            row = connection.execute(query.where(mine, sa.not_(self._expired(now)))).one_or_none()
        if row is None or row.disabled:
            return None
        if now - row.seen_us > _SEEN_STEP_US:
            with self._database.write() as connection:
                connection.execute(sessions.update().where(mine).values(seen_us=now))
        return user_of_row(row)

    def end(self, token: str, *, by: Actor) -> None:
        """Sign out; ending a session twice does nothing."""
        with self._database.write(serial=True) as connection:
            ended = connection.execute(sessions.delete().where(sessions.c.token_hash == _hash(token)))
            if ended.rowcount:
                self._record.append_in(connection, NewEvent(by, "sign_out", subject=by.name))

    def end_all(self, user_id: str, *, by: Actor) -> int:
        """End every session of a user; returns how many there were."""
        with self._database.write(serial=True) as connection:
            ended = connection.execute(sessions.delete().where(sessions.c.user_id == user_id)).rowcount
            if ended:
                self._record.append_in(connection, NewEvent(by, "sign_out", subject=user_id))
        return ended

    def _expired(self, now: int) -> sa.ColumnElement[bool]:
        idle = sessions.c.seen_us < now - self._idle_us
        return sa.or_(idle, sessions.c.created_us < now - LONGEST_SESSION_S * 1_000_000)


@dataclass(frozen=True)
class ApiKey:
    """An API key, without its secret."""

    id: str
    user_id: str
    label: str
    created_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


class ApiKeys:
    """Keys for programs that act for a user; thread-safe."""

    def __init__(self, database: Database, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._database = database
        self._record = record
        self._clock_us = clock_us

    def create(self, user: User, label: str, *, by: Actor) -> tuple[ApiKey, str]:
        """A new key and its secret, which is shown this once.

        Raises:
            AccountError: the label is empty or too long.
        """
        label = " ".join(label.replace("\0", " ").split())
        if not 0 < len(label) <= _MAX_LABEL_CHARS:
            raise AccountError(f"An API key needs a label of 1 to {_MAX_LABEL_CHARS} characters.")
        secret = API_KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(secrets.token_hex(8), user.id, label, as_datetime(now := self._clock_us()), None, None)
        with self._database.write(serial=True) as connection:
            connection.execute(
                api_keys.insert().values(
                    id=key.id, user_id=user.id, label=label, secret_hash=_hash(secret), created_us=now
                )
            )
            self._record.append_in(connection, NewEvent(by, "api_key_created", subject=f"{user.name}/{label}"))
        return key, secret

    def list_keys(self, user_id: str) -> list[ApiKey]:
        """A user's keys, newest first, revoked ones included."""
        query = sa.select(api_keys).where(api_keys.c.user_id == user_id).order_by(api_keys.c.created_us.desc())
        with self._database.read() as connection:
            return [_api_key(row) for row in connection.execute(query)]

    def user(self, secret: str) -> User | None:
        """For whom the key acts; None when it is unknown or revoked or the account is disabled."""
        now = self._clock_us()
        mine = api_keys.c.secret_hash == _hash(secret)
        query = sa.select(users, api_keys.c.used_us).join(api_keys, api_keys.c.user_id == users.c.id)
        with self._database.read() as connection:
            row = connection.execute(query.where(mine, api_keys.c.revoked_us.is_(None))).one_or_none()
        if row is None or row.disabled:
            return None
        if row.used_us is None or now - row.used_us > _SEEN_STEP_US:
            with self._database.write() as connection:
                connection.execute(api_keys.update().where(mine).values(used_us=now))
        return user_of_row(row)

    def revoke(self, user_id: str, key_id: str, *, by: Actor) -> None:
        """Stop a key of this user's for good.

        Raises:
            AccountError: the user has no such key.
        """
        mine = sa.and_(api_keys.c.id == key_id, api_keys.c.user_id == user_id)
        with self._database.write(serial=True) as connection:
            row = connection.execute(sa.select(api_keys).where(mine)).one_or_none()
            if row is None:
                raise AccountError("There is no such API key.")
            if row.revoked_us is None:
                connection.execute(api_keys.update().where(mine).values(revoked_us=self._clock_us()))
                self._record.append_in(connection, NewEvent(by, "api_key_revoked", subject=row.label))


def _api_key(row: sa.Row[Any]) -> ApiKey:
    used_at, revoked_at = (None if us is None else as_datetime(us) for us in (row.used_us, row.revoked_us))
    return ApiKey(row.id, row.user_id, row.label, as_datetime(row.created_us), used_at, revoked_at)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
