"""API keys: programs sign in with them for a person.

A key is 256 random bits, shown once and stored as a SHA-256 hash alone; nobody guesses it, so looking it up needs no
slow hash. A key ends at the time chosen when it was made, when it is revoked, or with the password or roles of its
owner, and does nothing while the owner is disabled. Every request looks the key up, with its rights (key_rights.py), so
a change takes effect at once.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Literal

import sqlalchemy as sa

from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.damaged_rows import Rows, read_rows
from appliance.database.tables import api_keys, storable, users
from appliance.database.transactions import Database, as_datetime, as_us, now_us
from appliance.errors import ApplianceError
from appliance.people.key_rights import FULL_RIGHTS, KeyRights, check_rights, columns_of, parse_rights
from appliance.people.key_use import KeyUse
from appliance.people.users import AccountError, Role, User, find_user, user_of_row

API_KEY_PREFIX = "gpo_"
DEFAULT_DAYS: Final = 90
LONGEST_DAYS: Final = 366  # the longest life of a key that ends
MAX_KEYS: Final = 100  # working keys of one person
_SEEN_STEP_US: Final = 60_000_000  # how often "last used" is written
_MAX_LABEL_CHARS: Final = 100
# Control characters, and those that turn the direction of what follows: they would make a list say something else.
_UNSHOWN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

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
    rights: KeyRights

    def works_at(self, moment: datetime) -> bool:
        """Whether the key is neither revoked nor past its end."""
        return self.revoked_at is None and (self.expires_at is None or moment < self.expires_at)


@dataclass(frozen=True)
class KeyAccess:
    """What a valid secret opens: the key, and the user for whom it acts."""

    user: User
    key: ApiKey


class ApiKeys:
    """Keys for programs that act for a user; thread-safe. ``use`` counts what they use of their limits."""

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
        self.use = KeyUse(database, clock_us=clock_us)
        self._clock_us = clock_us

    def create(
        self, user: User, label: str, *, by: Actor, expires_at: datetime | Literal["default"] | None = "default",
        rights: KeyRights = FULL_RIGHTS,
    ) -> tuple[ApiKey, str]:  # fmt: skip
        """A new key and its secret, which is shown this once.

        Args:
            expires_at: the key's end; None for a key without one.
        Raises:
            AccountError: the label is empty or too long, the end or the rights are not allowed, the user has too many
                keys, or may not have one (any more).
        """
        label = _checked_label(label)
        check_rights(rights)
        now = self._clock_us()
        end = as_datetime(now) + timedelta(days=DEFAULT_DAYS) if expires_at == "default" else expires_at
        self._check_end(end, as_datetime(now))
        secret = API_KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(secrets.token_hex(8), user.id, label, as_datetime(now), None, None, end, rights)
        ends = "without an end" if end is None else f"ends {end.isoformat(timespec='seconds')}"
        with self._database.write(serial=True) as connection:
            _check_may_have_keys(find_user(connection, users.c.id == user.id))
            self._check_count(connection, user, now)
            connection.execute(
                api_keys.insert().values(
                    id=key.id, user_id=user.id, label=label, secret_hash=_hash(secret), created_us=now,
                    expires_us=None if end is None else as_us(end), **columns_of(rights),
                )
            )  # fmt: skip
            content = Content(f"{ends}; {rights.words()}")
            event = NewEvent(by, "api_key_created", subject=f"{user.name}/{label}", content=content)
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

    def owner_of(self, key_id: str) -> User:
        """Whose key this is.

        Raises:
            AccountError: there is no such key.
        """
        query = sa.select(users).join(api_keys, api_keys.c.user_id == users.c.id).where(api_keys.c.id == key_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise AccountError("There is no such API key.")
        return user_of_row(row)

    def authenticate(self, secret: str) -> KeyAccess:
        """For whom the key acts, and what it may do.

        Raises:
            KeyRefusedError: it is unknown, revoked or past its end, or the account is disabled.
        """
        now = self._clock_us()
        mine = api_keys.c.secret_hash == _hash(secret)
        of_key = [column.label(f"key_{column.name}") for column in api_keys.c]
        query = sa.select(users, *of_key).join(api_keys, api_keys.c.user_id == users.c.id)
        with self._database.read() as connection:
            row = connection.execute(query.where(mine)).one_or_none()
        if row is None:
            raise KeyRefusedError("unknown")
        user, key = user_of_row(row), _api_key(row, "key_")
        if key.revoked_at is not None:
            raise KeyRefusedError("revoked", user)
        if not key.works_at(as_datetime(now)):
            raise KeyRefusedError("expired", user)
        if user.disabled:
            raise KeyRefusedError("account_disabled", user)
        if row.key_used_us is None or now - row.key_used_us > _SEEN_STEP_US:
            with self._database.write() as connection:
                connection.execute(api_keys.update().where(mine).values(used_us=now))
        return KeyAccess(user, key)

    def user(self, secret: str) -> User | None:
        """For whom the key acts; None when it opens nothing."""
        try:
            return self.authenticate(secret).user
        except KeyRefusedError:
            return None

    def change(self, key_id: str, change: Callable[[KeyRights], KeyRights], *, by: Actor) -> KeyRights:
        """Give a key other rights from its next request on; answers under way end if it lacks their scope.

        Args:
            change: makes the new rights of those that the key has.
        Raises:
            AccountError: there is no such key, it was revoked, or no key can have these rights.
        """
        with self._database.write(serial=True) as connection:
            name, is_revoked = _named_key(connection, api_keys.c.id == key_id)
            if is_revoked:
                raise AccountError("This API key was revoked; make a new one.")
            whole = _api_key(connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).one())
            rights = change(whole.rights)
            check_rights(rights)
            connection.execute(api_keys.update().where(api_keys.c.id == key_id).values(columns_of(rights)))
            content = Content(rights.words())
            self._record.append_in(connection, NewEvent(by, "api_key_changed", subject=name, content=content))
        return rights

    def revoke(self, user_id: str, key_id: str, *, by: Actor) -> None:
        """Stop a key of this user's for good.

        Raises:
            AccountError: the user has no such key.
        """
        mine = sa.and_(api_keys.c.id == key_id, api_keys.c.user_id == user_id)
        with self._database.write(serial=True) as connection:
            name, is_revoked = _named_key(connection, mine)
            if not is_revoked:
                connection.execute(api_keys.update().where(mine).values(revoked_us=self._clock_us()))
                self._record.append_in(connection, NewEvent(by, "api_key_revoked", subject=name))

    def _check_end(self, end: datetime | None, now: datetime) -> None:
        if end is None:
            if not self.allow_endless:
                raise AccountError("An API key needs an end; the settings of this site allow none without.")
        elif end <= now:
            raise AccountError("The end of the API key lies in the past.")
        elif end > now + timedelta(days=LONGEST_DAYS) and not self.allow_endless:
            raise AccountError(f"An API key lasts {LONGEST_DAYS} days at most.")

    def _check_count(self, connection: sa.Connection, user: User, now: int) -> None:
        working = sa.or_(api_keys.c.expires_us.is_(None), api_keys.c.expires_us > now)
        mine = sa.and_(api_keys.c.user_id == user.id, api_keys.c.revoked_us.is_(None), working)
        query = sa.select(sa.func.count()).select_from(api_keys).where(mine)
        if (connection.scalar(query) or 0) >= MAX_KEYS:
            raise AccountError(f"{user.name} has {MAX_KEYS} API keys; revoke one that is no longer needed.")


def end_of_day(day: date) -> datetime:
    """When a key ends that is to last to the end of a day (UTC)."""
    return datetime.combine(day, time(23, 59, 59), tzinfo=UTC)


def _checked_label(label: str) -> str:
    """The label as it is stored.

    Raises:
        AccountError: it is empty, too long, or holds characters that no page or terminal shows.
    """
    label = storable(" ".join(label.replace("\0", " ").split()))
    if not 0 < len(label) <= _MAX_LABEL_CHARS:
        raise AccountError(f"An API key needs a label of 1 to {_MAX_LABEL_CHARS} characters.")
    if _UNSHOWN.search(label):
        raise AccountError("The label of an API key must not hold control characters.")
    return label


def _check_may_have_keys(user: User) -> None:
    """Raises: AccountError: a key of this user would open nothing."""
    if user.disabled:
        raise AccountError(f"{user.name} is disabled; enable the account first.")
    if Role.USER not in user.roles:
        raise AccountError(f"{user.name} does not have the role user, which API keys need.")


def _named_key(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> tuple[str, bool]:
    """OWNER/LABEL, as events name the key, and whether it was revoked; even one with damaged rights can be.

    Raises:
        AccountError: there is none.
    """
    query = sa.select(users.c.name, api_keys.c.label, api_keys.c.revoked_us)
    row = connection.execute(query.join(api_keys, api_keys.c.user_id == users.c.id).where(condition)).one_or_none()
    if row is None:
        raise AccountError("There is no such API key.")
    return f"{row.name}/{row.label}", row.revoked_us is not None


def _api_key(row: sa.Row[Any], prefix: str = "") -> ApiKey:
    """A key of its columns, whose names in `row` begin with `prefix`."""
    of = {column.name: getattr(row, prefix + column.name) for column in api_keys.c if column.name != "secret_hash"}
    used_at, revoked_at, expires_at = (
        None if of[name] is None else as_datetime(of[name]) for name in ("used_us", "revoked_us", "expires_us")
    )
    rights = parse_rights(of["scopes"], of["requests_per_minute"], of["tokens_per_day"])
    created_at = as_datetime(of["created_us"])
    return ApiKey(of["id"], of["user_id"], of["label"], created_at, used_at, revoked_at, expires_at, rights)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
