"""Signing in with name and password: every attempt is counted before the password is looked at, and recorded.

The steps of an attempt, each of which can end it:
1. a password longer than any that is accepted is refused unseen;
2. the allowances of this device, address or account (sign_in_limits.py) must have room: a read, no more;
3. a place for hashing must be free (hashing_places.py);
4. one is taken from each allowance, durably;
5. the password is compared; for a name that does not exist, with a hash that nothing matches.

The answer to a wrong name, a wrong password and a disabled account is the same, in words and in what it takes.

A device cookie (after OWASP) lets a browser that has signed in before keep its own allowance: a nonce and its HMAC
under the account's password hash, so that it holds for one account and ends with the password.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from appliance.addresses import network_of
from appliance.audit.event import Actor, Content, NewEvent, Via
from appliance.database.tables import users
from appliance.errors import ApplianceError
from appliance.people.account_store import AccountStore
from appliance.people.hashing_places import HashingBusyError
from appliance.people.passwords import MAX_CHARS, PasswordRuleError
from appliance.people.refusal_notes import RefusalNotes
from appliance.people.sessions import Sessions
from appliance.people.sign_in_limits import (
    CONFIRMATION,
    SIGN_INS,
    Allowances,
    Standing,
    allowances_of,
    give_back,
    is_known_address,
    remember_address,
    seconds_to_wait,
    take,
)
from appliance.people.users import User, is_name, user_of_row

_NOT_A_NAME: Final = "(not a name)"
_DECOY_KEY: Final = "no account"


class SignInError(ApplianceError):
    """Name and password do not open an account, or too many attempts failed: then ``retry_after_s`` > 0."""

    def __init__(self, retry_after_s: float = 0.0) -> None:
        super().__init__(
            "Too many failed attempts. Wait a little, then try again." if retry_after_s else
            "The name or the password is wrong."
        )  # fmt: skip
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class _Attempt:
    """An attempt and what is known of it before the password is looked at."""

    name: str
    network: str
    actor: Actor
    row: sa.Row[Any] | None
    standing: Standing
    allowances: Allowances

    @property
    def of_right_ones(self) -> Allowances:
        """The allowance from which only right passwords take."""
        return {f"sign-ins {self.name}": SIGN_INS}

    @property
    def is_known(self) -> bool:
        return self.standing != "stranger"


class SignIn:
    """Checks names and passwords of one database; thread-safe."""

    def __init__(self, store: AccountStore) -> None:
        self._store = store
        self._notes = RefusalNotes()

    def authenticate(self, name: str, password: str, *, via: Via, address: str, device: str = "") -> User:
        """The user who signs in; success and failure are recorded.

        Args:
            device: the device cookie of this browser for this name, if it has one.
        Raises:
            SignInError: unknown name, wrong password, disabled account, or too many failures before.
            PasswordRuleError: the password is longer than any.
            HashingBusyError: too many people sign in just now.
        """
        return self._signed_in(name, password, via, address, device, lambda connection, user: None)

    def open_session(
        self, sessions: Sessions, name: str, password: str, *, via: Via, address: str, device: str = ""
    ) -> tuple[User, str]:
        """As `authenticate`, and the token of a new session, begun in the same transaction: a change of the password
        comes before it, and the old one opens nothing, or after it, and ends the session."""
        tokens: list[str] = []

        def begin(connection: sa.Connection, user: User) -> None:
            tokens.append(sessions.create_in(connection, user, address=address))

        return self._signed_in(name, password, via, address, device, begin), tokens[0]

    def confirm(self, user: User, password: str, *, via: Via, address: str) -> None:
        """Check the present password of somebody who is signed in. Guesses made elsewhere do not hinder it.

        Raises:
            SignInError, PasswordRuleError, HashingBusyError: as `authenticate`.
        """
        with self._store.database.read() as connection:
            row = connection.execute(sa.select(users).where(users.c.id == user.id)).one_or_none()
        allowances = {f"confirmation {user.id}": CONFIRMATION}
        network = network_of(address)
        attempt = _Attempt(user.name, network, user.actor(via, address), row, "device", allowances)
        self._checked(attempt, password, lambda connection, user: None)

    def device_cookie(self, user: User) -> str:
        """The device cookie for a browser that has just signed in to this account."""
        with self._store.database.read() as connection:
            encoded = connection.scalar(sa.select(users.c.password_hash).where(users.c.id == user.id))
        nonce = secrets.token_urlsafe(12)
        return f"{nonce}.{_device_mac(encoded, user.id, nonce)}"

    def _signed_in(
        self, name: str, password: str, via: Via, address: str, device: str,
        then: Callable[[sa.Connection, User], None],
    ) -> User:  # fmt: skip
        name = name.strip().lower()
        name = name if is_name(name) else _NOT_A_NAME
        attempt = self._attempt(name, via, address, device)

        def conclude(connection: sa.Connection, user: User) -> None:
            remember_address(connection, user.id, attempt.network, now_us=self._store.clock_us())
            self._store.record.append_in(connection, NewEvent(user.actor(via, address), "sign_in", subject=name))
            then(connection, user)

        return self._checked(attempt, password, conclude)

    def _attempt(self, name: str, via: Via, address: str, device: str) -> _Attempt:
        network, now = network_of(address), self._store.clock_us()
        nonce, _, mac = device[:200].partition(".")
        with self._store.database.read() as connection:
            row = connection.execute(sa.select(users).where(users.c.name == name)).one_or_none()
            user_id, encoded = ("", None) if row is None else (row.id, row.password_hash)
            is_own = hmac.compare_digest(mac.encode(errors="replace"), _device_mac(encoded, user_id, nonce).encode())
            is_known = is_known_address(connection, user_id, network, now_us=now)
        standing: Standing = "device" if is_own and encoded else "address" if is_known else "stranger"
        actor = Actor(user_id, name, via, address)
        return _Attempt(name, network, actor, row, standing, allowances_of(standing, name, network, nonce))

    def _checked(self, attempt: _Attempt, password: str, then: Callable[[sa.Connection, User], None]) -> User:
        """Steps 1 to 5. ``then`` runs in the transaction that finds the account unchanged after a right password."""
        self._record_ended_notes()
        if len(password) > MAX_CHARS:  # 1
            self._refuse(attempt, "a password longer than any")
            raise PasswordRuleError(f"A password has at most {MAX_CHARS} characters.")
        with self._store.database.read() as connection:  # 2
            both = {**attempt.allowances, **attempt.of_right_ones}
            self._check_wait(attempt, seconds_to_wait(connection, both, now_us=self._store.clock_us()))
        try:
            with self._store.passwords.place(known=attempt.is_known):  # 3
                with self._store.database.write(serial=True) as connection:  # 4
                    wait_s = take(connection, attempt.allowances, now_us=self._store.clock_us())
                self._check_wait(attempt, wait_s)
                encoded = None if attempt.row is None else attempt.row.password_hash
                right = self._store.passwords.is_right(password, encoded)  # 5
                if right and encoded is not None and self._store.passwords.is_outdated(encoded):
                    encoded = self._store.passwords.hash_in_place(password)
        except HashingBusyError:
            self._refuse(attempt, "too many attempts by everybody")
            raise
        return self._concluded(attempt, then, right=right, encoded=encoded)

    def _concluded(
        self, attempt: _Attempt, then: Callable[[sa.Connection, User], None], *, right: bool, encoded: str | None
    ) -> User:
        """Record a failure, or give back what the right password took; keep a hash that was renewed."""
        row, reason = attempt.row, "wrong name or password"
        with self._store.database.write(serial=True) as connection:
            if row is not None and right:
                now_row = connection.execute(sa.select(users).where(users.c.id == row.id)).one_or_none()
                # Read the account again: its password may have changed during the comparison.
                if now_row is not None and now_row.password_hash == row.password_hash and not now_row.disabled:
                    give_back(connection, attempt.allowances, now_us=self._store.clock_us())
                    take(connection, attempt.of_right_ones, now_us=self._store.clock_us())
                    connection.execute(users.update().where(users.c.id == row.id).values(password_hash=encoded))
                    user = user_of_row(now_row)
                    then(connection, user)
                    return user
                reason = "disabled account" if now_row is not None and now_row.disabled else "an old password"
            denied = Actor("", attempt.name, attempt.actor.via, attempt.actor.address)
            self._store.record.append_in(connection, _denied(denied, reason))
        raise SignInError

    def _check_wait(self, attempt: _Attempt, wait_s: float) -> None:
        if wait_s > 0:
            self._refuse(attempt, "too many attempts")
            raise SignInError(wait_s)

    def _refuse(self, attempt: _Attempt, reason: str) -> None:
        """Record attempts that are refused without looking at the password: a few events a minute for each source."""
        due = self._notes.count(attempt.network, self._store.clock_us())
        if due is None:
            return
        if due.more:
            self._record_more(due.source, due.more)
        else:
            actor = Actor("", attempt.name, attempt.actor.via, attempt.actor.address)
            self._store.record.append(_denied(actor, reason))

    def _record_ended_notes(self) -> None:
        for source, count in self._notes.ended(self._store.clock_us()):
            self._record_more(source, count)

    def _record_more(self, source: str, count: int) -> None:
        actor = Actor("", "(several)", "web", source)
        self._store.record.append(_denied(actor, f"{count} more attempts within a minute, refused unseen"))


def _denied(actor: Actor, reason: str) -> NewEvent:
    return NewEvent(actor, "sign_in", "denied", subject=actor.name, content=Content(reason))


def _device_mac(encoded: str | None, user_id: str, nonce: str) -> str:
    key = hashlib.sha256((encoded or _DECOY_KEY).encode()).digest()
    return hmac.new(key, f"device 1\0{user_id}\0{nonce}".encode(errors="replace"), hashlib.sha256).hexdigest()
