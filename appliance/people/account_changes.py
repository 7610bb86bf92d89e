"""What each change of an account does, in one transaction with its events.

The callers have decided that the change may be made: `appliance.people.accounts` where one administrator may do it
alone, `appliance.people.approvals` where two have agreed on it.

A change of who may use an account ends the access that was given out before. A new password or other roles end sessions
and one-time links and, unless the person chose otherwise, API keys. Disabling ends sessions and links, and keys stop.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from appliance.audit.event import Action, Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.tables import api_keys, sessions, users
from appliance.database.transactions import as_datetime, now_us
from appliance.people.links import end_links, make_link
from appliance.people.users import (
    AccountError,
    Role,
    User,
    check_free,
    check_not_last_admin,
    check_still_admin,
    checked_roles,
    join_roles,
)

_MAX_DISPLAY_NAME_CHARS: Final = 100


@dataclass(frozen=True)
class Transaction:
    """An open transaction, who acts in it, and when."""

    connection: sa.Connection
    record: AuditLog
    by: Actor
    now_us: int

    def note(self, action: Action, subject: str, *words: str) -> None:
        """Record one event; ``words`` that are empty are left out."""
        text = "; ".join(word for word in words if word)
        self.record.append_in(self.connection, NewEvent(self.by, action, subject=subject, content=Content(text)))


@contextmanager
def open_change(record: AuditLog, by: Actor, *, clock_us: Callable[[], int] = now_us) -> Iterator[Transaction]:
    """A transaction of one change and its events."""
    with record.database.write(serial=True) as connection:
        yield Transaction(connection, record, by, clock_us())


@contextmanager
def open_admin_change(record: AuditLog, by: Actor, *, clock_us: Callable[[], int] = now_us) -> Iterator[Transaction]:
    """The same for what only an administrator may change.

    Raises:
        NoLongerAdminError: the one who acts is no administrator any more.
    """
    with open_change(record, by, clock_us=clock_us) as change:
        check_still_admin(change.connection, by)
        yield change


def insert_user(
    change: Transaction, name: str, display_name: str, encoded: str | None, roles: frozenset[Role], *,
    vouched_by: str = "", why: str = "",
) -> User:  # fmt: skip
    """Add an account with a checked name and a hashed password.

    Raises:
        AccountError: the name is taken, or there is no role.
    """
    checked_roles(roles)
    check_free(change.connection, name)
    display_name = " ".join(display_name.replace("\0", " ").split())[:_MAX_DISPLAY_NAME_CHARS] or name
    user = User(secrets.token_hex(8), name, display_name, roles, False, as_datetime(change.now_us))
    change.connection.execute(
        users.insert().values(
            id=user.id, name=name, display_name=display_name, roles=join_roles(roles), password_hash=encoded,
            disabled=False, created_us=change.now_us, vouched_by=vouched_by,
        )
    )  # fmt: skip
    change.note("user_created", name, join_roles(roles), why)
    return user


def apply_roles(change: Transaction, user: User, roles: frozenset[Role], *, end_keys: bool, why: str = "") -> None:
    """Give an account exactly these roles; its owner has to sign in again.

    Raises:
        AccountError: the last administrator would cease to be one.
    """
    if Role.ADMIN not in roles:
        check_not_last_admin(change.connection, user)
    _set(change, user, roles=join_roles(roles))
    if Role.ADMIN in user.roles - roles:
        _note_end_of_admin(change, user)
    change.note("roles_changed", user.name, f"{join_roles(user.roles)} -> {join_roles(roles)}", why)
    end_sessions(change, user)
    end_links(change.connection, user.id, "roles_changed")
    if end_keys:
        revoke_keys(change, user, "with the roles")


def apply_disable(change: Transaction, user: User) -> None:
    """Lock an account out.

    Raises:
        AccountError: it is the last administrator's.
    """
    check_not_last_admin(change.connection, user)
    _set(change, user, disabled=True)
    if Role.ADMIN in user.roles and not user.disabled:
        _note_end_of_admin(change, user)
    change.note("user_disabled", user.name)
    end_sessions(change, user)
    end_links(change.connection, user.id, "account_disabled")


def apply_enable(change: Transaction, user: User, *, why: str = "") -> None:
    """Let a disabled account in again."""
    _set(change, user, disabled=False)
    change.note("user_enabled", user.name, why)


def replace_password(
    change: Transaction, user: User, encoded: str, *, end_keys: bool, vouched_by: str | None = None
) -> None:
    """Set a hashed password. ``vouched_by`` is the maker of the one-time link that was used; None: no link."""
    _set(change, user, password_hash=encoded, **({} if vouched_by is None else {"vouched_by": vouched_by}))
    change.note("password_changed", user.name)
    end_sessions(change, user)
    end_links(change.connection, user.id, "password_changed")
    if end_keys:
        revoke_keys(change, user, "with the password")


def give_link(change: Transaction, user: User, *, why: str = "") -> str:
    """A token with which the account's password is set; it ends the account's earlier links.

    Raises:
        AccountError: the account is disabled.
    """
    if user.disabled:
        raise AccountError(f"{user.name} is disabled; enable the account first.")
    made_by = change.by.user_id if change.by.via in ("web", "api") else ""
    token = make_link(change.connection, user.id, frozenset(), made_by=made_by, now_us=change.now_us)
    change.note("link_made", user.name, f"a new password for {user.name}", why)
    return token


def end_sessions(change: Transaction, user: User) -> None:
    """End every session of an account; the change that does it has the event."""
    change.connection.execute(sessions.delete().where(sessions.c.user_id == user.id))


def revoke_keys(change: Transaction, user: User, when: str) -> None:
    """Stop every API key of an account for good; one event says how many."""
    working = sa.and_(api_keys.c.user_id == user.id, api_keys.c.revoked_us.is_(None))
    count = change.connection.execute(api_keys.update().where(working).values(revoked_us=change.now_us)).rowcount
    if count:
        change.note("api_key_revoked", user.name, f"all {count}, {when}" if count > 1 else f"the only one, {when}")


def _set(change: Transaction, user: User, **values: object) -> None:
    change.connection.execute(users.update().where(users.c.id == user.id).values(values))


def _note_end_of_admin(change: Transaction, user: User) -> None:
    # Only an administrator who acts on another's account can be suspected of getting rid of a witness.
    if change.by.via in ("web", "api") and change.by.user_id != user.id:
        _set(change, user, admin_ended_us=change.now_us)
