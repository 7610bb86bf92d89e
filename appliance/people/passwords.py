"""The rules for passwords, and their hashes (argon2id). sign_in_limits.py slows guessing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import argon2

from appliance.errors import ApplianceError
from appliance.people.hashing_places import HashingPlaces

MIN_CHARS = 12
MAX_CHARS = 1024

# Common beginnings of twelve-character passwords, in lower case.
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
    """Hashes and checks passwords, as many at once as there are places."""

    def __init__(self, hasher: argon2.PasswordHasher | None = None, places: HashingPlaces | None = None) -> None:
        """Args:
        hasher: argon2id with 64 MiB, three passes and one lane when None: a hash then takes one core, and there are as
            many places as there are cores for it. OWASP's least is 19 MiB and two passes.
        places: those of this process alone when None.
        """
        self._hasher = hasher or argon2.PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1)
        self._places = places or HashingPlaces(None)
        self._decoy = self._hasher.hash("no password has this hash")

    @contextmanager
    def place(self, *, known: bool) -> Iterator[None]:
        """Room for one hash at a time; inside it `is_right` and `hash_in_place` may be called.

        Args:
            known: whether this is one of those for whom places are kept.
        Raises:
            HashingBusyError: there is no room, and none in time.
        """
        with self._places.take(known=known):
            yield

    def hash(self, password: str) -> str:
        """The encoded argon2id hash of a new password.

        Raises:
            HashingBusyError: there is no room, and none in time.
        """
        with self._places.take(known=True):
            return self.hash_in_place(password)

    def hash_in_place(self, password: str) -> str:
        """The encoded argon2id hash; within `place`."""
        return self._hasher.hash(password.encode(errors="surrogatepass"))

    def is_right(self, password: str, encoded: str | None) -> bool:
        """Whether `password` made `encoded`; takes as long when there is no hash to compare with. Within `place`."""
        try:
            self._hasher.verify(encoded or self._decoy, password.encode(errors="surrogatepass"))
        except argon2.exceptions.VerifyMismatchError:
            return False
        return encoded is not None

    def is_outdated(self, encoded: str) -> bool:
        """Whether the hash was made with other parameters than ours."""
        return self._hasher.check_needs_rehash(encoded)
