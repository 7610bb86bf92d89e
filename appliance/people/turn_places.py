"""Holds people to their quotas: a place for each turn of a person who has one, counted for all processes together.

A turn is let in and counted in one serial transaction, so processes together never let in more requests or more turns
at the same time than a quota says. Tokens are known when an answer ends: once a day's tokens are used up, no turn
begins, and the answers under way go on to their ends. So a person can pass that limit by the answers under way, which
`concurrent_turns` bounds.

A place is given back when the turn's answer is recorded, when the turn is closed or dropped, and when its process dies
(`appliance.database.presence`). Who has no quota takes no place and costs no transaction; turns that began before a
quota was given are not among its turns at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from appliance.audit.details.denials import QuotaReached
from appliance.database.tables import turn_places, usage_by_day
from appliance.database.transactions import Database, DatabaseError, as_datetime
from appliance.people.allowance import DAY_US, LimitReachedError
from appliance.people.quotas import OF_WORDS, Holding, Limit, Of, holding_of
from appliance.people.usage import Figures, Usage, add_figures
from appliance.people.users import able_admins

_SOON_S: Final = 5.0  # when to try again for a place: somebody's answer may end at any moment
_NAMED_ADMINS: Final = 3
_CODES: Final[dict[Of, str]] = {
    "tokens_per_day": "quota_spent", "requests_per_day": "quota_spent", "concurrent_turns": "too_many_running",
}  # fmt: skip


class QuotaReachedError(LimitReachedError):
    """A quota of the person is used up; the message names it, when it is there again and whom to ask."""

    def __init__(self, limit: Limit, *, ends_at: datetime | None, retry_after_s: float, ask: str) -> None:
        again = "as soon as one of them ends" if ends_at is None else f"on {ends_at:%Y-%m-%d at %H:%M} UTC"
        super().__init__(
            f"the quota of {limit.whose} is {limit.most:,} {OF_WORDS[limit.of]}, and it is used up; it is there again "
            f"{again}. {ask} can change it",
            retry_after_s=retry_after_s,
        )
        self.what_to_do = "Your question is kept; ask again then."
        self.code = _CODES[limit.of]
        self.details = QuotaReached(limit=limit.most, of=OF_WORDS[limit.of], whose=limit.whose)


@dataclass(frozen=True)
class Use:
    """How much of one limit is used now; ``reset_s``: when it is there again, 0 where any end may free it."""

    limit: Limit
    used: int
    reset_s: float

    @property
    def left(self) -> int:
        return max(self.limit.most - self.used, 0)


class TurnPlaces:
    """The places of one process's turns; thread-safe."""

    def __init__(self, database: Database, usage: Usage, *, clock_us: Callable[[], int]) -> None:
        self._database, self._usage, self._clock_us = database, usage, clock_us
        self._lock = threading.Lock()
        self._left: set[str] = set()  # turns whose places could not be given back yet; guarded by _lock

    def take(self, user_id: str, key_id: str, turn_id: str) -> bool:
        """Let a turn in; returns whether it was counted as a request, which it is for people with a quota.

        Raises:
            QuotaReachedError: a quota is used up; nothing is counted.
            PresenceError, DatabaseError: the turn must not be run.
        """
        with self._database.read() as connection:
            if not holding_of(connection, user_id):
                return False
        process = self._database.presence.own_id()
        with self._database.write(serial=True) as connection:
            holding = holding_of(connection, user_id)
            self._remove_ended(connection, user_id)
            for use in self._uses(connection, user_id, holding):
                if not use.left:
                    raise self._reached(connection, use)
            add_figures(connection, self._clock_us() // DAY_US, user_id, key_id, Figures(requests=1))
            connection.execute(turn_places.insert().values(turn_id=turn_id, user_id=user_id, process=process))
        return True

    def give_back(self, turn_id: str) -> None:
        """Give a turn's place back. If the database cannot be written now, it is done with the next turn."""
        try:
            with self._database.write(serial=True) as connection:
                connection.execute(turn_places.delete().where(turn_places.c.turn_id == turn_id))
        except (DatabaseError, RuntimeError):  # RuntimeError: within a write transaction of this thread
            self.give_back_later(turn_id)

    def give_back_later(self, turn_id: str) -> None:
        """The same at the next turn of the person, without touching the database now."""
        with self._lock:
            self._left.add(turn_id)

    def uses(self, user_id: str) -> list[Use]:
        """How much of each of a person's limits is used now."""
        with self._database.read() as connection:
            holding = holding_of(connection, user_id)
            return list(self._uses(connection, user_id, holding)) if holding else []

    def _uses(self, connection: sa.Connection, user_id: str, holding: Holding) -> list[Use]:
        now = self._clock_us()
        day = now // DAY_US
        rest_s = ((day + 1) * DAY_US - now) / 1e6
        tokens, requests = self._used_today(connection, user_id, day)
        used: dict[Of, tuple[int, float]] = {
            "tokens_per_day": (tokens, rest_s), "requests_per_day": (requests, rest_s),
            "concurrent_turns": (self._running(connection, user_id), 0.0),
        }  # fmt: skip
        return [Use(limit, *used[of]) for of, limit in holding.items()]

    def _used_today(self, connection: sa.Connection, user_id: str, day: int) -> tuple[int, int]:
        """Tokens and requests."""
        columns = usage_by_day.c
        sums = [
            sa.func.coalesce(sa.func.sum(one), 0) for one in (columns.tokens_in + columns.tokens_out, columns.requests)
        ]
        mine = sa.and_(columns.day == day, columns.user_id == user_id)
        tokens, requests = connection.execute(sa.select(*sums).where(mine)).one()
        return int(tokens) + self._usage.pending_tokens(user_id, day), int(requests)

    def _running(self, connection: sa.Connection, user_id: str) -> int:
        mine = sa.select(turn_places.c.turn_id, turn_places.c.process).where(turn_places.c.user_id == user_id)
        with self._lock:
            left = set(self._left)
        alive = self._database.presence.is_alive
        return sum(row.turn_id not in left and alive(row.process) for row in connection.execute(mine))

    def _remove_ended(self, connection: sa.Connection, user_id: str) -> None:
        """Remove the places of dead processes and those that were left."""
        with self._lock:
            left, self._left = self._left, set()
        mine = sa.select(turn_places.c.turn_id, turn_places.c.process).where(turn_places.c.user_id == user_id)
        rows = connection.execute(mine).all()
        dead = {row.turn_id for row in rows if not self._database.presence.is_alive(row.process)}
        if left | dead:
            connection.execute(turn_places.delete().where(turn_places.c.turn_id.in_(left | dead)))

    def _reached(self, connection: sa.Connection, use: Use) -> QuotaReachedError:
        names = [admin.name for admin in able_admins(connection)][:_NAMED_ADMINS]
        ask = f"An administrator ({', '.join(names)})" if names else "An administrator"
        if use.limit.of == "concurrent_turns":
            return QuotaReachedError(use.limit, ends_at=None, retry_after_s=_SOON_S, ask=ask)
        ends_at = as_datetime((self._clock_us() // DAY_US + 1) * DAY_US)
        return QuotaReachedError(use.limit, ends_at=ends_at, retry_after_s=use.reset_s, ask=ask)
