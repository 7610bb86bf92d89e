"""API keys: programs sign in with them for a person.

A key is 256 random bits, shown once and stored as a SHA-256 hash alone; nobody guesses it, so looking it up needs no
slow hash. A key ends at the time chosen when it was made, when it is revoked, or with the password or roles of its
owner, and does nothing while the owner is disabled. Every request looks the key up.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import sqlalchemy as sa

from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.damaged_rows import Rows, read_rows
from appliance.database.tables import api_keys, users
from appliance.database.transactions import Database, as_datetime, now_us
from appliance.errors import ApplianceError
from appliance.people.users import AccountError, User, user_of_row

API_KEY_PREFIX = "gpo_"
DEFAULT_DAYS: Final = 90
LONGEST_DAYS: Final = 366  # the longest life of a key that ends
MAX_KEYS: Final = 100  # working keys of one person
_SEEN_STEP_US: Final = 60_000_000  # how often "last used" is written
_MAX_LABEL_CHARS: Final = 100

KeyEnd = Literal["unknown", "revoked", "expired", "account_disabled"]


class KeyRefusedError(ApplianceError):
    """The key opens nothing; ``user`` is the owner of a key that once worked."""

    def __init__(self, why: KeyEnd, user: User | None = None) -> None:
        super().__init__(f"the API key is refused: {why}")
        self.why = why
        self.user = user


@dataclass(frozen=True)
class ApiKey:
    """An API key, without its secret; ``expires_at`` is None for one without an end."""

    id: str
    user_id: str
    label: str
    created_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None
    expires_at: datetime | None

    def works_at(self, moment: datetime) -> bool:
        """Whether the key is neither revoked nor past its end."""
        return self.revoked_at is None and (self.expires_at is None or moment < self.expires_at)


class ApiKeys:
    """Keys for programs that act for a user; thread-safe."""

    def __init__(
        self,
        database: Database,
        record: AuditLog,
        *,
        allow_endless: bool = False,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        """Args: allow_endless: whether people may make keys that never end."""
        self._database = database
        self._record = record
        self.allow_endless = allow_endless
        self._clock_us = clock_us

    def create(
        self, user: User, label: str, *, by: Actor, expires_at: datetime | Literal["default"] | None = "default"
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is shown this once.

        Args:
            expires_at: the key's end; None for a key without one.
        Raises:
            AccountError: the label is empty or too long, the end is not allowed, or the user has too many keys.
        """
        label = " ".join(label.replace("\0", " ").split())
        if not 0 < len(label) <= _MAX_LABEL_CHARS:
            raise AccountError(f"An API key needs a label of 1 to {_MAX_LABEL_CHARS} characters.")
        now = self._clock_us()
        end = as_datetime(now) + timedelta(days=DEFAULT_DAYS) if expires_at == "default" else expires_at
        self._check_end(end, as_datetime(now))
        secret = API_KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(secrets.token_hex(8), user.id, label, as_datetime(now), None, None, end)
        ends = "without an end" if end is None else f"ends {end.isoformat(timespec='seconds')}"
        with self._database.write(serial=True) as connection:
            self._check_count(connection, user.id, now)
            connection.execute(
                api_keys.insert().values(
                    id=key.id, user_id=user.id, label=label, secret_hash=_hash(secret), created_us=now,
                    expires_us=None if end is None else _as_us(end),
                )
            )  # fmt: skip
            event = NewEvent(by, "api_key_created", subject=f"{user.name}/{label}", content=Content(ends))
            self._record.append_in(connection, event)
        return key, secret

    def list_keys(self, user_id: str) -> Rows[ApiKey]:
        """A user's keys, newest first, revoked and expired ones included, and the damaged ones."""
        query = sa.select(api_keys).where(api_keys.c.user_id == user_id).order_by(api_keys.c.created_us.desc())
        with self._database.read() as connection:
            return read_rows(connection, query, api_keys.c.label, _api_key)

    def has_working(self, user_id: str) -> bool:
        """Whether a user has a key that still works."""
        now = as_datetime(self._clock_us())
        return any(key.works_at(now) for key in self.list_keys(user_id))

    def authenticate(self, secret: str) -> tuple[User, datetime | None]:
        """For whom the key acts, and when it ends.

        Raises:
            KeyRefusedError: it is unknown, revoked or past its end, or the account is disabled.
        """
        now = self._clock_us()
        mine = api_keys.c.secret_hash == _hash(secret)
        query = sa.select(users, api_keys.c.used_us, api_keys.c.revoked_us, api_keys.c.expires_us)
        with self._database.read() as connection:
            row = connection.execute(query.join(api_keys, api_keys.c.user_id == users.c.id).where(mine)).one_or_none()
        if row is None:
            raise KeyRefusedError("unknown")
        user = user_of_row(row)
        if row.revoked_us is not None:
            raise KeyRefusedError("revoked", user)
        if row.expires_us is not None and row.expires_us <= now:
            raise KeyRefusedError("expired", user)
        if row.disabled:
            raise KeyRefusedError("account_disabled", user)
        if row.used_us is None or now - row.used_us > _SEEN_STEP_US:
            with self._database.write() as connection:
                connection.execute(api_keys.update().where(mine).values(used_us=now))
        return user, None if row.expires_us is None else as_datetime(row.expires_us)

    def user(self, secret: str) -> User | None:
        """For whom the key acts; None when it opens nothing."""
        try:
            return self.authenticate(secret)[0]
        except KeyRefusedError:
            return None

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

    def _check_end(self, end: datetime | None, now: datetime) -> None:
        if end is None:
            if not self.allow_endless:
                raise AccountError("An API key needs an end; the settings of this site allow none without.")
        elif end <= now:
            raise AccountError("The end of the API key lies in the past.")
        elif end > now + timedelta(days=LONGEST_DAYS) and not self.allow_endless:
            raise AccountError(f"An API key lasts {LONGEST_DAYS} days at most.")

    def _check_count(self, connection: sa.Connection, user_id: str, now: int) -> None:
        working = sa.or_(api_keys.c.expires_us.is_(None), api_keys.c.expires_us > now)
        mine = sa.and_(api_keys.c.user_id == user_id, api_keys.c.revoked_us.is_(None), working)
        query = sa.select(sa.func.count()).select_from(api_keys).where(mine)
        if (connection.scalar(query) or 0) >= MAX_KEYS:
            raise AccountError(f"You have {MAX_KEYS} API keys; revoke one that you no longer need.")


def _api_key(row: sa.Row[Any]) -> ApiKey:
    used_at, revoked_at, expires_at = (
        None if us is None else as_datetime(us) for us in (row.used_us, row.revoked_us, row.expires_us)
    )
    return ApiKey(row.id, row.user_id, row.label, as_datetime(row.created_us), used_at, revoked_at, expires_at)


def _as_us(moment: datetime) -> int:
    return (moment - as_datetime(0)) // timedelta(microseconds=1)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
