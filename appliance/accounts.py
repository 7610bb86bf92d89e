"""People: who they are, what they may do, how they prove it with a password, and one-time links that let them begin.

Every change and every attempt to sign in is an event of the record, written in the same transaction as the change: one
cannot happen without the other. Sessions and API keys are in sessions.py.

No account exists at first. `make_first_admin_link` gives a token; whoever redeems it chooses name and password and gets
the roles of the link, which the record names.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from appliance.audit.event import Actor, Content, NewEvent, Via
from appliance.audit.log import AuditLog
from appliance.database import Database, as_datetime, links, now_us, sessions, users
from appliance.errors import ApplianceError
from appliance.passwords import Passwords, begin_attempt, check_password, forget_attempts

LINK_LIFETIME_S = 24 * 3600
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_DISPLAY_NAME_CHARS = 100


class Role(StrEnum):
    """What a person may do; roles do not include one another."""

    USER = "user"  # chats
    REVIEWER = "reviewer"  # reads the record
    ADMIN = "admin"  # manages accounts and settings, reads no content


ALL_ROLES = frozenset(Role)


class AccountError(ApplianceError):
    """A change of an account is refused; the message is for the person who asked."""


class UserNotFoundError(AccountError):
    """There is no such user."""


class LinkError(AccountError):
    """The one-time link is unknown, used or expired."""


class SignInError(ApplianceError):
    """Name and password do not open an account, or too many attempts failed: then ``retry_after_s`` > 0."""

    def __init__(self, retry_after_s: float = 0.0) -> None:
        super().__init__(
            "Too many failed attempts. Wait a little, then try again." if retry_after_s else
            "The name or the password is wrong."
        )  # fmt: skip
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class User:
    """One account, without its secrets."""

    id: str
    name: str
    display_name: str
    roles: frozenset[Role]
    disabled: bool
    created_at: datetime

    def actor(self, via: Via, address: str = "") -> Actor:
        """This user, acting."""
        return Actor(self.id, self.name, via, address)


class Accounts:
    """Users and links of one database; thread-safe."""

    def __init__(
        self,
        database: Database,
        record: AuditLog,
        *,
        passwords: Passwords | None = None,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._database = database
        self._record = record
        self._passwords = passwords or Passwords()
        self._clock_us = clock_us

    def list_users(self) -> list[User]:
        """Everyone, by name."""
        with self._database.read() as connection:
            return [user_of_row(row) for row in connection.execute(sa.select(users).order_by(users.c.name))]

    def get(self, user_id: str) -> User:
        """The user with this id.

        Raises:
            UserNotFoundError: there is none.
        """
        return self._one(users.c.id == user_id)

    def find(self, name: str) -> User:
        """The user with this name, in any case.

        Raises:
            UserNotFoundError: there is none.
        """
        return self._one(users.c.name == name.strip().lower())

    def create_user(
        self, name: str, password: str | None, roles: Iterable[Role], *, by: Actor, display_name: str = ""
    ) -> User:
        """Add an account; without a password nobody can sign in to it until one is set.

        Raises:
            AccountError: the name is taken or not a name, or there is no role.
            PasswordRuleError: the password is not accepted.
        """
        name = _checked_name(name)
        encoded = self._hashed(password, name)
        with self._database.write(serial=True) as connection:
            return self._insert(connection, name, display_name, encoded, frozenset(roles), by)

    def disable(self, user_id: str, *, by: Actor) -> None:
        """Lock an account out: its sessions end at once, its API keys stop working.

        Raises:
            AccountError: it is the last administrator's.
        """
        with self._database.write(serial=True) as connection:
            user = self._current(connection, user_id)
            _check_not_last_admin(connection, user)
            connection.execute(users.update().where(users.c.id == user_id).values(disabled=True))
            connection.execute(sessions.delete().where(sessions.c.user_id == user_id))
            self._record.append_in(connection, NewEvent(by, "user_disabled", subject=user.name))

    def enable(self, user_id: str, *, by: Actor) -> None:
        """Let a disabled account in again."""
        with self._database.write(serial=True) as connection:
            user = self._current(connection, user_id)
            connection.execute(users.update().where(users.c.id == user_id).values(disabled=False))
            self._record.append_in(connection, NewEvent(by, "user_enabled", subject=user.name))

    def set_roles(self, user_id: str, roles: Iterable[Role], *, by: Actor) -> User:
        """Give an account exactly these roles; they hold from its next request on.

        Raises:
            AccountError: no role, or the last administrator would cease to be one.
        """
        wanted = _checked_roles(roles)
        with self._database.write(serial=True) as connection:
            user = self._current(connection, user_id)
            if Role.ADMIN not in wanted:
                _check_not_last_admin(connection, user)
            connection.execute(users.update().where(users.c.id == user_id).values(roles=_joined(wanted)))
            change = Content(f"{_joined(user.roles)} -> {_joined(wanted)}")
            self._record.append_in(connection, NewEvent(by, "roles_changed", subject=user.name, content=change))
        return self.get(user_id)

    def set_password(self, user_id: str, password: str, *, by: Actor) -> None:
        """Replace a password and end the account's sessions.

        Raises:
            PasswordRuleError: the password is not accepted.
        """
        encoded = self._hashed(password, self.get(user_id).name)
        with self._database.write(serial=True) as connection:
            self._replace_password(connection, self._current(connection, user_id), encoded, by)

    def authenticate(self, name: str, password: str, *, via: Via, address: str) -> User:
        """The user who signs in; success and failure are recorded.

        Raises:
            SignInError: unknown name, wrong password, disabled account, or too many failures before.
        """
        name = name.strip().lower()
        name = name if _NAME.fullmatch(name) else "(not a name)"
        now = self._clock_us()
        with self._database.write(serial=True) as connection:
            wait_s = begin_attempt(connection, name, address, now)
            row = connection.execute(sa.select(users).where(users.c.name == name)).one_or_none()
            if wait_s:
                self._record_sign_in(connection, Actor("", name, via, address), "too many attempts")
        if wait_s:
            raise SignInError(wait_s)
        right = self._passwords.is_right(password, row.password_hash if row else None)
        if row is None or not right or row.disabled:
            reason = "wrong name or password" if not right else "disabled account"
            with self._database.write(serial=True) as connection:
                self._record_sign_in(connection, Actor("", name, via, address), reason)
            raise SignInError
        return self._signed_in(row, password, Actor(row.id, name, via, address))

    def make_first_admin_link(self, *, roles: Iterable[Role] = ALL_ROLES, by: Actor | None = None) -> str | None:
        """A new token for the first account (and the end of earlier ones), or None when an administrator exists."""
        wanted = _checked_roles(roles) | {Role.ADMIN}
        with self._database.write(serial=True) as connection:
            if _admins(connection):
                return None
            connection.execute(links.delete().where(links.c.first_admin))
            return self._make_link(connection, None, wanted, by or Actor("", "appliance", "system"), first_admin=True)

    def make_invitation(self, roles: Iterable[Role], *, by: Actor) -> str:
        """A token with which someone makes an account of their own with these roles."""
        with self._database.write(serial=True) as connection:
            return self._make_link(connection, None, _checked_roles(roles), by)

    def make_reset_link(self, user_id: str, *, by: Actor) -> str:
        """A token with which `user_id` sets a new password."""
        with self._database.write(serial=True) as connection:
            return self._make_link(connection, self._current(connection, user_id), frozenset(), by)

    def link_user(self, token: str) -> User | None:
        """Whose password the link sets; None when it makes a new account.

        Raises:
            LinkError: the link is unknown, used or expired.
        """
        with self._database.read() as connection:
            row = self._valid_link(connection, token)
        return None if row.user_id is None else self.get(row.user_id)

    def redeem(
        self, token: str, name: str, password: str, *, via: Via, address: str, display_name: str = ""
    ) -> User:
        """Use a link: make its account, or set the password of the account it is for (`name` is then ignored).

        Raises:
            LinkError: the link is unknown, used or expired.
            AccountError, PasswordRuleError: the name or password is refused; the link stays valid.
        """
        target = self.link_user(token)
        name = target.name if target else _checked_name(name)
        encoded = self._hashed(password, name)
        with self._database.write(serial=True) as connection:
            link = self._valid_link(connection, token)
            connection.execute(links.delete().where(links.c.token_hash == link.token_hash))
            if target is None:
                by = Actor("", name, via, address)
                return self._insert(connection, name, display_name, encoded, _roles(link.roles), by)
            self._replace_password(connection, target, encoded, target.actor(via, address))
        return target

    def _one(self, condition: sa.ColumnElement[bool]) -> User:
        with self._database.read() as connection:
            row = connection.execute(sa.select(users).where(condition)).one_or_none()
        if row is None:
            raise UserNotFoundError("There is no such user.")
        return user_of_row(row)

    def _current(self, connection: sa.Connection, user_id: str) -> User:
        row = connection.execute(sa.select(users).where(users.c.id == user_id)).one_or_none()
        if row is None:
            raise UserNotFoundError("There is no such user.")
        return user_of_row(row)

    def _hashed(self, password: str | None, name: str) -> str | None:
        if password is None:
            return None
        check_password(password, name=name)
        return self._passwords.hash(password)

    def _insert(
        self, connection: sa.Connection, name: str, display_name: str, encoded: str | None, roles: frozenset[Role],
        by: Actor,
    ) -> User:  # fmt: skip
        _checked_roles(roles)
        if connection.execute(sa.select(users.c.id).where(users.c.name == name)).first():
            raise AccountError(f"The name {name} is taken.")
        display_name = " ".join(display_name.replace("\0", " ").split())[:_MAX_DISPLAY_NAME_CHARS] or name
        user_id = secrets.token_hex(8)
        now = self._clock_us()
        connection.execute(
            users.insert().values(
                id=user_id, name=name, display_name=display_name, roles=_joined(roles), password_hash=encoded,
                disabled=False, created_us=now,
            )
        )  # fmt: skip
        event = NewEvent(by, "user_created", subject=name, content=Content(_joined(roles)))
        self._record.append_in(connection, event)
        return User(user_id, name, display_name, roles, False, as_datetime(now))

    def _replace_password(self, connection: sa.Connection, user: User, encoded: str | None, by: Actor) -> None:
        connection.execute(users.update().where(users.c.id == user.id).values(password_hash=encoded))
        connection.execute(sessions.delete().where(sessions.c.user_id == user.id))
        self._record.append_in(connection, NewEvent(by, "password_changed", subject=user.name))

    def _record_sign_in(self, connection: sa.Connection, actor: Actor, reason: str) -> None:
        event = NewEvent(actor, "sign_in", "denied", subject=actor.name, content=Content(reason))
        self._record.append_in(connection, event)

    def _signed_in(self, row: sa.Row[Any], password: str, actor: Actor) -> User:
        outdated = self._passwords.is_outdated(row.password_hash)
        encoded = self._passwords.hash(password) if outdated else row.password_hash
        with self._database.write(serial=True) as connection:
            forget_attempts(connection, actor.name, actor.address)
            # Only if the password is still the one that was checked.
            mine = sa.and_(users.c.id == row.id, users.c.password_hash == row.password_hash)
            connection.execute(users.update().where(mine).values(password_hash=encoded))
            user = self._current(connection, row.id)
            self._record.append_in(connection, NewEvent(actor, "sign_in", subject=actor.name))
        return user

    def _make_link(
        self, connection: sa.Connection, user: User | None, roles: frozenset[Role], by: Actor, *,
        first_admin: bool = False,
    ) -> str:  # fmt: skip
        token = secrets.token_urlsafe(32)
        now = self._clock_us()
        connection.execute(links.delete().where(links.c.expires_us < now))
        connection.execute(
            links.insert().values(
                token_hash=_token_hash(token), user_id=user.id if user else None, roles=_joined(roles),
                first_admin=first_admin, expires_us=now + LINK_LIFETIME_S * 1_000_000,
            )
        )  # fmt: skip
        purpose = f"a new password for {user.name}" if user else f"a new account with the roles {_joined(roles)}"
        event = NewEvent(by, "link_made", subject=user.name if user else "", content=Content(purpose))
        self._record.append_in(connection, event)
        return token

    def _valid_link(self, connection: sa.Connection, token: str) -> sa.Row[Any]:
        row = connection.execute(sa.select(links).where(links.c.token_hash == _token_hash(token))).one_or_none()
        if row is None or row.expires_us < self._clock_us() or (row.first_admin and _admins(connection)):
            raise LinkError("This link is not valid: it was used, has expired, or a newer one replaced it.")
        return row


def user_of_row(row: sa.Row[Any]) -> User:
    created_at = as_datetime(row.created_us)
    return User(row.id, row.name, row.display_name, _roles(row.roles), bool(row.disabled), created_at)


def _roles(joined: str) -> frozenset[Role]:
    return frozenset(Role(part) for part in joined.split(",") if part)


def _joined(roles: Iterable[Role]) -> str:
    return ",".join(sorted(roles))


def _checked_roles(roles: Iterable[Role]) -> frozenset[Role]:
    wanted = frozenset(roles)
    if not wanted:
        raise AccountError("An account needs at least one role.")
    return wanted


def _checked_name(name: str) -> str:
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise AccountError(
            "A user name has 1 to 64 characters: a to z, digits, dot, dash, underscore; the first a letter or digit."
        )
    return name


def _admins(connection: sa.Connection) -> list[str]:
    rows = connection.execute(sa.select(users).where(sa.not_(users.c.disabled)))
    return [row.id for row in rows if Role.ADMIN in _roles(row.roles)]


def _check_not_last_admin(connection: sa.Connection, user: User) -> None:
    if _admins(connection) == [user.id]:
        raise AccountError("This is the last administrator; make another one first.")


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
