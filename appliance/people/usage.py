"""How much is used: requests, tokens, times and refusals of each day (UTC), person and API key. Never words.

A row is added to as a turn ends, from the facts of its answer event: one small transaction for each turn. So a page
reads a few rows instead of the record. Refusals are counted in memory and kept with the next turn, or at the latest
after `_KEPT_AFTER` refusals; so a flood of them costs no transaction each. A killed process forgets those. Answers that
were lost with their process have no facts and are not counted.

``key_id`` is "" for the chat. A day's rows are kept for `KEPT_DAYS` days.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

import sqlalchemy as sa

from appliance.audit.details.turns import AnswerDetails, FinishedAnswer
from appliance.audit.event import Content
from appliance.database.tables import usage_by_day
from appliance.database.transactions import Database, now_us
from appliance.people.allowance import DAY_US
from appliance.people.key_use import tokens_in_out

KEPT_DAYS: Final = 400
_KEPT_AFTER: Final = 100


@dataclass(frozen=True)
class Figures:
    """What was used. ``timed`` answers have times: until the first token, and until the end."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    timed: int = 0
    first_us: int = 0
    whole_us: int = 0
    first_most_us: int = 0
    whole_most_us: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(**{
            one.name: (max if one.name in MOST else int.__add__)(getattr(self, one.name), getattr(other, one.name))
            for one in fields(Figures)
        })  # fmt: skip

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    @property
    def first_s(self) -> float | None:
        """How long the first token took on average."""
        return self.first_us / self.timed / 1e6 if self.timed else None

    @property
    def whole_s(self) -> float | None:
        """How long an answer took on average."""
        return self.whole_us / self.timed / 1e6 if self.timed else None


MOST: Final = frozenset({"first_most_us", "whole_most_us"})  # the largest, not the sum

_Of = tuple[int, str, str]  # day, person, key


class Usage:
    """Counts what the turns and refusals of this process use; thread-safe."""

    def __init__(self, database: Database, *, clock_us: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock_us = clock_us
        self._lock = threading.Lock()
        self._pending: dict[_Of, Figures] = {}  # guarded by _lock
        self._keeping = threading.Lock()  # taken before _lock: two threads must not keep the same figures

    def turn_ended(self, user_id: str, key_id: str, content: Content | None, *, is_counted: bool = False) -> None:
        """Count a turn by its answer event; any other content counts nothing.

        Args:
            is_counted: the turn is among the requests already.
        Raises:
            DatabaseError: it could not be kept; it is tried again with the next.
        """
        figures = figures_of(content, requests=0 if is_counted else 1)
        if figures is not None:
            self._add(user_id, key_id, figures)
            self.keep()

    def refused(self, user_id: str, key_id: str = "") -> None:
        """Count a refusal.

        Raises:
            DatabaseError: the counts could not be kept yet.
        """
        self._add(user_id, key_id, Figures(refused=1))
        with self._lock:
            is_due = sum(figures.refused for figures in self._pending.values()) >= _KEPT_AFTER
        if is_due:
            self.keep()

    def pending_tokens(self, user_id: str, day: int) -> int:
        """The tokens of a person that this process could not keep yet."""
        with self._lock:
            mine = [figures for of, figures in self._pending.items() if of[:2] == (day, user_id)]
        return sum(figures.tokens for figures in mine)

    def keep(self) -> None:
        """Put what is counted in memory into the table.

        Raises:
            DatabaseError: it could not be; it is still counted in memory.
        """
        with self._keeping:
            with self._lock:
                pending, self._pending = self._pending, {}
            if not pending:
                return
            try:
                self._write(pending)
            except BaseException:
                with self._lock:
                    for of, figures in pending.items():
                        self._pending[of] = self._pending.get(of, Figures()) + figures
                raise

    def _add(self, user_id: str, key_id: str, figures: Figures) -> None:
        of = self._clock_us() // DAY_US, user_id, key_id
        with self._lock:
            self._pending[of] = self._pending.get(of, Figures()) + figures

    def _write(self, pending: dict[_Of, Figures]) -> None:
        with self._database.write(serial=True) as connection:
            for of, figures in pending.items():
                add_figures(connection, *of, figures)
            old = usage_by_day.c.day < self._clock_us() // DAY_US - KEPT_DAYS
            connection.execute(usage_by_day.delete().where(old))


def figures_of(content: Content | None, *, requests: int) -> Figures | None:
    """What a turn has used, by its answer event; None for any other content."""
    details = None if content is None else content.details
    if content is None or not isinstance(details, AnswerDetails):
        return None
    tokens_in, tokens_out = tokens_in_out(content)
    counted = Figures(requests=requests, tokens_in=tokens_in, tokens_out=tokens_out)
    if not isinstance(details, FinishedAnswer):
        return counted + Figures(failed=1)
    done = details.done
    first_us = round((done.queued_s + done.prefill_s) * 1e6)
    whole_us = first_us + round(done.decode_s * 1e6)
    return counted + Figures(
        timed=1, first_us=first_us, whole_us=whole_us, first_most_us=first_us, whole_most_us=whole_us
    )


def add_figures(connection: sa.Connection, day: int, user_id: str, key_id: str, figures: Figures) -> None:
    """Within a transaction that excludes every other writer."""
    columns = usage_by_day.c
    mine = sa.and_(columns.day == day, columns.user_id == user_id, columns.key_id == key_id)
    given = {one.name: getattr(figures, one.name) for one in fields(Figures)}
    more = {
        name: sa.case((columns[name] < value, value), else_=columns[name]) if name in MOST else columns[name] + value
        for name, value in given.items()
    }
    if connection.execute(usage_by_day.update().where(mine).values(more)).rowcount == 0:
        connection.execute(usage_by_day.insert().values(day=day, user_id=user_id, key_id=key_id, **given))
