"""Requests of one administrator that another confirms (four_eyes.py says which need it, and who may confirm).

A request holds for seven days. It is void when what it is about has changed since, or when the one who asked is no
longer an administrator. Confirming a change of roles, an enabling or a new account carries it out at once. A link is
shown to nobody but the one who asked, who makes it after the confirmation (`make_link`).

Asking, confirming, refusing and expiring are events; what is carried out is recorded as such, by the one who confirmed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.database.damaged_rows import Rows, read_rows
from appliance.database.stored_values import LAST_US
from appliance.database.tables import approvals, users
from appliance.database.transactions import CLOCK_SLACK_US, DatabaseError, as_datetime
from appliance.people import outlook
from appliance.people.account_changes import Transaction, apply_enable, apply_roles, give_link, insert_user
from appliance.people.account_store import AccountStore
from appliance.people.four_eyes import Change, Kind, is_guarded, why_not_second
from appliance.people.users import (
    AccountError,
    User,
    able_admins,
    active_admins,
    check_free,
    checked_name,
    find_user,
    join_roles,
    parse_roles,
)

LIFETIME_S: Final = 7 * 24 * 3600
_MOST_OPEN: Final = 100

State = Literal["pending", "confirmed", "done", "refused", "expired", "void"]


@dataclass(frozen=True)
class Request:
    """What was asked. ``state`` is "confirmed" while a link that was allowed has not been made."""

    id: str
    change: Change
    requester_id: str
    requester: str
    created_at: datetime
    state: State

    @property
    def expires_at(self) -> datetime:
        return self.created_at + timedelta(seconds=LIFETIME_S)

    @property
    def may_make_link(self) -> bool:
        return self.state == "confirmed"


@dataclass(frozen=True)
class Second:
    """An administrator, and why this one may not confirm a request (None: this one may)."""

    admin: User
    why_not: str | None


class Approvals:
    """Requests of one database; thread-safe."""

    def __init__(self, store: AccountStore) -> None:
        self._store = store

    def ask(self, change: Change, *, by: Actor) -> Request:
        """Ask the other administrators for a change; asking for the same again changes nothing.

        Raises:
            AccountError: it needs nobody else, or too much has been asked already.
        """
        with self._transaction(by) as asking:
            if change.kind == "create":
                check_free(asking.connection, checked_name(change.subject))
            if not is_guarded(change, by):
                raise AccountError("This needs no second administrator.")
            found = _open_requests(asking.connection)
            for request in found:
                if request.change == change and request.requester_id == by.user_id and request.state == "pending":
                    return request
            if len(found) >= _MOST_OPEN:
                raise AccountError(f"{_MOST_OPEN} requests wait already; decide some of them first.")
            request = Request(secrets.token_hex(8), change, by.user_id, by.name, as_datetime(asking.now_us), "pending")
            asking.connection.execute(approvals.insert().values(_row_of(request, asking.now_us)))
            asking.note("approval_requested", change.subject, change.words())
            return request

    def open_requests(self) -> Rows[Request]:
        """Requests that wait for a decision or for their link, the oldest first, and the damaged ones."""
        with self._store.database.read() as connection:
            found = _open_requests(connection)
        now = as_datetime(self._store.clock_us())
        slack = timedelta(microseconds=CLOCK_SLACK_US)
        if found and (found[0].expires_at <= now or found[-1].created_at > now + slack):
            with self._transaction(Actor("", "appliance", "system")) as looking:
                return _open_requests(looking.connection)
        return found

    def seconds(self, request: Request) -> list[Second]:
        """Every administrator, with why this one may not confirm."""
        with self._store.database.read() as connection:
            return [
                Second(admin, why_not_second(
                    connection, admin, requester_id=request.requester_id, subject_id=request.change.subject_id
                ))
                for admin in able_admins(connection)
            ]  # fmt: skip

    def outlook(self, change: Change, *, by: Actor) -> str:
        """A sentence on what happens when somebody asks for this; "" if it needs nobody else."""
        with self._store.database.read() as connection:
            return outlook.of_change(connection, change, by, now_us=self._store.clock_us())

    def outlook_of_enabling_again(self, user: User, *, by: Actor) -> str:
        """A sentence on what enabling the account again needs; "" if any administrator can."""
        with self._store.database.read() as connection:
            return outlook.of_enabling_again(connection, user, by, now_us=self._store.clock_us())

    def confirm(self, request_id: str, *, by: Actor) -> Request:
        """Agree, and carry the change out.

        Raises:
            AccountError: the request is not open or void, or the eyes of the one who confirms do not count.
        """
        with self._transaction(by) as change:
            request = _pending(change.connection, request_id)
            self._check_second(change, request)
            void = _why_void(change.connection, request)
            if void is not None:
                _set_state(change, request, "void")
                change.note("approval_refused", request.change.subject, request.change.words(), f"void: {void}")
            else:
                change.note(
                    "approval_confirmed", request.change.subject, request.change.words(),
                    f"asked for by {request.requester}",
                )  # fmt: skip
                _carry_out(change, request)
        if void is not None:
            raise AccountError(f"This request no longer holds: {void}.")
        return request

    def refuse(self, request_id: str, *, by: Actor) -> Request:
        """Refuse a request; the one who asked withdraws it in the same way.

        Raises:
            AccountError: the request is not open.
        """
        with self._transaction(by) as change:
            request = _pending(change.connection, request_id)
            words = "taken back" if by.user_id == request.requester_id else f"asked for by {request.requester}"
            _set_state(change, request, "refused")
            change.note("approval_refused", request.change.subject, request.change.words(), words)
            return request

    def make_link(self, request_id: str, *, by: Actor) -> tuple[str, str]:
        """The name and the token of a confirmed link, given once to the one who asked for it.

        Raises:
            AccountError: it was not confirmed, was somebody else's wish, or the account has changed since.
        """
        with self._transaction(by) as change:
            request = _request(change.connection, request_id)
            if request.state != "confirmed" or request.requester_id != by.user_id:
                raise AccountError("There is no confirmed link of yours to be made here.")
            user = find_user(change.connection, users.c.id == request.change.subject_id)
            if user.roles != request.change.roles:
                raise AccountError(f"The roles of {user.name} have changed since; ask again.")
            _set_state(change, request, "done")
            return user.name, give_link(change, user, why="confirmed by another administrator")

    @contextmanager
    def _transaction(self, by: Actor) -> Iterator[Transaction]:
        with self._store.admin_change(by) as change:
            _expire(change)
            yield change

    def _check_second(self, change: Transaction, request: Request) -> None:
        admin = find_user(change.connection, users.c.id == change.by.user_id)
        why_not = why_not_second(
            change.connection, admin, requester_id=request.requester_id, subject_id=request.change.subject_id
        )
        if why_not is not None:
            raise AccountError(f"Another administrator must confirm this: {why_not}.")


def _carry_out(change: Transaction, request: Request) -> None:
    wanted, why = request.change, f"asked for by {request.requester}"
    state: State = "done"
    match wanted.kind:
        case "create":
            user = insert_user(change, wanted.subject, "", None, wanted.roles, why=why)
            _set_state(change, request, "confirmed", subject_id=user.id)
            return
        case "roles":
            user = find_user(change.connection, users.c.id == wanted.subject_id)
            apply_roles(change, user, wanted.roles, end_keys=wanted.end_keys, why=why)
        case "enable":
            apply_enable(change, find_user(change.connection, users.c.id == wanted.subject_id), why=why)
        case "link":
            state = "confirmed"
    _set_state(change, request, state)


def _why_void(connection: sa.Connection, request: Request) -> str | None:
    """Why a pending request no longer means what it meant when it was made."""
    if request.requester_id not in {admin.id for admin in active_admins(connection)}:
        return f"{request.requester} is no longer an administrator"
    if request.change.kind == "create":
        return None
    user = find_user(connection, users.c.id == request.change.subject_id)
    if user.roles != request.change.roles_before:
        return f"the roles of {user.name} have changed since"
    if user.disabled != (request.change.kind == "enable"):
        return f"{user.name} has been {'disabled' if user.disabled else 'enabled'} since"
    return None


def _expire(change: Transaction) -> None:
    oldest_us, newest_us = change.now_us - LIFETIME_S * 1_000_000, change.now_us + CLOCK_SLACK_US
    is_old = sa.or_(approvals.c.created_us <= oldest_us, approvals.c.created_us > newest_us)
    old = sa.and_(approvals.c.state.in_(("pending", "confirmed")), is_old)
    appliance = Transaction(change.connection, change.record, Actor("", "appliance", "system"), change.now_us)
    for request in _read(change.connection, sa.select(approvals).where(old)):
        _set_state(appliance, request, "expired")
        appliance.note(
            "approval_expired", request.change.subject, request.change.words(), f"asked for by {request.requester}"
        )


def _open_requests(connection: sa.Connection) -> Rows[Request]:
    decided = approvals.c.state.in_(("done", "refused", "expired", "void"))
    # All states but the closed ones: a state that the appliance never writes must be seen, too.
    still_open = sa.or_(approvals.c.state.is_(None), sa.not_(decided))
    return _read(connection, sa.select(approvals).where(still_open).order_by(approvals.c.created_us, approvals.c.id))


def _read(connection: sa.Connection, query: sa.Select[Any]) -> Rows[Request]:
    return read_rows(connection, query, approvals.c.subject, _request_of)


def _request(connection: sa.Connection, request_id: str) -> Request:
    row = connection.execute(sa.select(approvals).where(approvals.c.id == request_id)).one_or_none()
    if row is None:
        raise AccountError("There is no such request.")
    return _request_of(row)


def _pending(connection: sa.Connection, request_id: str) -> Request:
    request = _request(connection, request_id)
    if request.state != "pending":
        raise AccountError("This request has been decided or has expired.")
    return request


def _set_state(change: Transaction, request: Request, state: State, **values: str) -> None:
    changed = approvals.update().where(approvals.c.id == request.id)
    change.connection.execute(changed.values(state=state, decided_by=change.by.user_id, **values))


def _row_of(request: Request, now_us: int) -> dict[str, object]:
    change = request.change
    return {
        "id": request.id, "kind": change.kind, "subject_id": change.subject_id, "subject": change.subject,
        "roles_before": join_roles(change.roles_before), "roles": join_roles(change.roles),
        "end_keys": change.end_keys, "requester_id": request.requester_id, "requester": request.requester,
        "created_us": now_us, "state": request.state,
    }  # fmt: skip


def _request_of(row: sa.Row[Any]) -> Request:
    if row.kind not in get_args(Kind) or row.state not in get_args(State):
        raise DatabaseError("the table approvals holds a word that this release does not know")
    if row.created_us > LAST_US - LIFETIME_S * 1_000_000:
        raise DatabaseError("approvals.created_us holds a time after which the calendar ends")
    before, roles = parse_roles(row.roles_before), parse_roles(row.roles)
    change = Change(row.kind, row.subject_id, row.subject, before, roles, bool(row.end_keys))
    return Request(row.id, change, row.requester_id, row.requester, as_datetime(row.created_us), row.state)
