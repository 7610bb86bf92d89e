"""What an API key may do and how much of it: its scopes and its limits.

A key never may more than its owner. A key that has every scope is stored without a list, so that it also has the scopes
of later releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appliance.database.transactions import DatabaseError
from appliance.people.users import AccountError

MOST_REQUESTS_PER_MINUTE: Final = 100_000
MOST_TOKENS_PER_DAY: Final = 1_000_000_000_000


class Scope(StrEnum):
    """One thing that a key may do; scopes do not include one another."""

    MODELS = "models"  # list the models
    GENERATE = "generate"  # run a turn, in whatever form it is asked for
    TOKENIZE = "tokenize"  # turn text into tokens and back
    RESPONSES = "responses"  # read, go on with, cancel and delete stored responses


ALL_SCOPES: Final = frozenset(Scope)


@dataclass(frozen=True)
class KeyRights:
    """What a key may do; a limit that is None does not exist."""

    scopes: frozenset[Scope] = ALL_SCOPES
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None

    def words(self) -> str:
        """The rights in one line, for the record and for lists."""
        return "; ".join([self.scope_words(), *self.limit_words()])

    def scope_words(self) -> str:
        return "all scopes" if self.scopes == ALL_SCOPES else f"scopes {', '.join(sorted(self.scopes))}"

    def limit_words(self) -> list[str]:
        """One part for each limit."""
        return [f"{limit:,} {of}" for limit, _, of in _limits(self)]


FULL_RIGHTS: Final = KeyRights()


def check_rights(rights: KeyRights) -> None:
    """Raises: AccountError: no key can have these rights."""
    if not rights.scopes:
        raise AccountError("An API key needs at least one scope: choose what it may do.")
    for limit, most, name in _limits(rights):
        if not 1 <= limit <= most:
            raise AccountError(f"A limit of {name} is a whole number from 1 to {most:,}.")


def columns_of(rights: KeyRights) -> dict[str, object]:
    """The rights as they are stored."""
    scopes = None if rights.scopes == ALL_SCOPES else ",".join(sorted(rights.scopes))
    limits = {"requests_per_minute": rights.requests_per_minute, "tokens_per_day": rights.tokens_per_day}
    return {"scopes": scopes, **limits}


def parse_rights(scopes: str | None, requests_per_minute: int | None, tokens_per_day: int | None) -> KeyRights:
    """The rights as they are stored.

    Raises:
        DatabaseError: there is a scope or a limit that this release does not know.
    """
    try:
        given = ALL_SCOPES if scopes is None else frozenset(map(Scope, scopes.split(",")))
        rights = KeyRights(given, requests_per_minute, tokens_per_day)
        check_rights(rights)
    except (ValueError, AccountError) as exc:
        raise DatabaseError("the database holds rights of an API key that this release does not know") from exc
    return rights


def _limits(rights: KeyRights) -> Iterator[tuple[int, int, str]]:
    """Each limit that exists, the most that it can be, and what it is of."""
    if rights.requests_per_minute is not None:
        yield rights.requests_per_minute, MOST_REQUESTS_PER_MINUTE, "requests a minute"
    if rights.tokens_per_day is not None:
        yield rights.tokens_per_day, MOST_TOKENS_PER_DAY, "tokens a day"
