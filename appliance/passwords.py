"""Passwords: what is accepted, how they are kept (argon2id), how guessing is slowed."""

from __future__ import annotations

import threading

import argon2
import sqlalchemy as sa

from appliance.database import sign_in_failures
from appliance.errors import ApplianceError

MIN_CHARS = 12
MAX_CHARS = 1024
_HASHES_AT_ONCE = 2  # 64 MiB and some 50 ms of every core each
_FREE_FAILURES = {"name": 20, "name and address": 5}  # by what is counted
_FIRST_LOCK_S = 30
_LONGEST_LOCK_S = 15 * 60
_FORGET_US = 3_600_000_000  # failures older than an hour no longer count

# Beginnings of what people type when twelve characters are asked for (after lower-casing).
_COMMON = (
    "password", "passwort", "passw0rd", "p@ssw0rd", "p@ssword", "qwerty", "qwertz", "azerty", "letmein", "welcome",
    "iloveyou", "administrator", "changeme", "1q2w3e4r", "abcdefgh", "12345678", "98765432", "gpt-oss", "gptoss",
)  # fmt: skip


class PasswordRuleError(ApplianceError):
    """The password is not accepted; the message says which rule it breaks."""


def check_password(password: str, *, name: str) -> None:
    """Apply the rules for new passwords.

    Raises:
        PasswordRuleError: too short, too long, too uniform, too common, or the user's name.
    """
    lowered = password.casefold()
    if len(password) < MIN_CHARS:
        raise PasswordRuleError(f"A password needs at least {MIN_CHARS} characters.")
    if len(password) > MAX_CHARS:
        raise PasswordRuleError(f"A password has at most {MAX_CHARS} characters.")
    if name and name.casefold() in lowered and len(lowered) - len(name) < MIN_CHARS // 2:
        raise PasswordRuleError("The password must not be built from the user name.")
    if len(set(lowered)) < 5:
        raise PasswordRuleError("The password repeats too few characters.")
    if any(lowered.startswith(common) and len(lowered) - len(common) < MIN_CHARS // 2 + 2 for common in _COMMON):
        raise PasswordRuleError("The password is too easy to guess.")


class Passwords:
    """Hashes and checks passwords; limits how many at once, because each takes 64 MiB."""

    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        """Args: hasher: RFC 9106's low-memory profile when None."""
        self._hasher = hasher or argon2.PasswordHasher()
        self._slots = threading.BoundedSemaphore(_HASHES_AT_ONCE)
        self._decoy = self.hash("no password has this hash")

    def hash(self, password: str) -> str:
        """The encoded argon2id hash."""
        with self._slots:
            return self._hasher.hash(password.encode(errors="surrogatepass"))

    def is_right(self, password: str, encoded: str | None) -> bool:
        """Whether `password` made `encoded`; takes as long when there is no hash to compare with."""
        with self._slots:
            try:
                self._hasher.verify(encoded or self._decoy, password.encode(errors="surrogatepass"))
            except argon2.exceptions.VerifyMismatchError:
                return False
        return encoded is not None

    def is_outdated(self, encoded: str) -> bool:
        """Whether the hash was made with other parameters than ours."""
        return self._hasher.check_needs_rehash(encoded)


def begin_attempt(connection: sa.Connection, name: str, address: str, now: int) -> float:
    """Count a sign-in attempt, before it is checked, against its name and its name and address.

    Returns:
        Seconds to wait because of earlier failures; 0 lets the attempt proceed. A refused attempt is not counted.
    """
    connection.execute(sign_in_failures.delete().where(sign_in_failures.c.last_us < now - _FORGET_US))
    keys = _keys(name, address)
    query = sa.select(sign_in_failures).where(sign_in_failures.c.key.in_(list(keys)))
    counts = {row.key: row for row in connection.execute(query)}
    waits = [_wait_s(row.failures - _FREE_FAILURES[keys[key]], now - row.last_us) for key, row in counts.items()]
    if max(waits, default=0) > 0:
        return max(waits)
    for key in keys:
        if key in counts:
            update = sign_in_failures.update().where(sign_in_failures.c.key == key)
            connection.execute(update.values(failures=sign_in_failures.c.failures + 1, last_us=now))
        else:
            connection.execute(sign_in_failures.insert().values(key=key, failures=1, last_us=now))
    return 0.0


def forget_attempts(connection: sa.Connection, name: str, address: str) -> None:
    """The attempt succeeded: its failures are forgotten."""
    connection.execute(sign_in_failures.delete().where(sign_in_failures.c.key.in_(list(_keys(name, address)))))


def _keys(name: str, address: str) -> dict[str, str]:
    return {name: "name", f"{name} {address}": "name and address"}


def _wait_s(excess: int, since_us: int) -> float:
    if excess < 0:
        return 0.0
    lock_s = min(_FIRST_LOCK_S << min(excess, 10), _LONGEST_LOCK_S)
    return max(0.0, lock_s - since_us / 1e6)
