"""How much each API key has used of its limits, counted for all processes together and across restarts.

**Requests a minute** are an allowance that fills up again (generic cell rate algorithm, ITU-T I.371: one number, the
time at which it is full again). A limit of 60 lets 60 requests through at once, and then one in each second. Each
request is counted in a serial transaction before anything else happens, so many processes together never let more
through.

**Tokens a day** (UTC) are those of the prompts and answers that have ended. Once they are used up, a turn is refused;
turns that run or wait at that moment go on to their end. So a key can pass its limit by the answers that one person
can have under way at once ([engine] streams and queue_limit_per_user), each as long as the context. The tokens of an
answer that was left before its end are not known: `BYTES_PER_TOKEN` bytes of its text count as one.

A key without limits costs no transaction. After a clock was set back, an allowance may claim to be full again later
than it can be; it counts as full then, as in `appliance.people.sign_in_limits`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from appliance.audit.details.denials import KeyLimitReached
from appliance.audit.details.turns import AnswerDetails, FinishedAnswer, UnfinishedAnswer
from appliance.audit.event import Content
from appliance.database.tables import api_key_use
from appliance.database.transactions import Database, DatabaseError
from appliance.people.allowance import DAY_US, LimitReachedError

BYTES_PER_TOKEN: Final = 4  # of ordinary text
_MINUTE_US: Final = 60_000_000
_SECOND_US: Final = 1_000_000


class KeyLimitError(LimitReachedError):
    """A limit of the key is used up."""

    def __init__(self, code: str, message: str, details: KeyLimitReached, standing: Standing) -> None:
        super().__init__(message, retry_after_s=standing.retry_after_s)
        self.code = code
        self.details = details
        self.standing = standing


@dataclass(frozen=True)
class Standing:
    """How much of one limit is left. ``reset_s``: when all of it is there again; ``retry_after_s``: when one is."""

    limit: int
    remaining: int
    reset_s: float
    retry_after_s: float


class KeyUse:
    """The counts of one database; thread-safe."""

    def __init__(self, database: Database, *, clock_us: Callable[[], int]) -> None:
        self._database = database
        self._clock_us = clock_us
        self._lock = threading.Lock()
        self._uncounted: dict[tuple[str, int], int] = {}  # tokens of a key and day that could not be stored; by _lock

    def take_request(self, key_id: str, label: str, per_minute: int) -> Standing:
        """Count one request.

        Raises:
            KeyLimitError: the limit is used up; the request is not counted.
            DatabaseError: the request could not be counted, and must not go on.
        """
        with self._database.read() as connection:
            self._check_requests(connection, key_id, label, per_minute)  # a flood of refused requests locks nobody out
        with self._database.write(serial=True) as connection:
            full_us, now = self._check_requests(connection, key_id, label, per_minute)
            full_us += _MINUTE_US // per_minute
            _write(connection, key_id, full_us=full_us)
        return _requests_left(per_minute, full_us, now)

    def _check_requests(self, connection: sa.Connection, key_id: str, label: str, per_minute: int) -> tuple[int, int]:
        """When all requests are there again, and the time now, where there is one.

        Raises:
            KeyLimitError: there is none.
        """
        now = self._clock_us()  # after the wait for other writers
        stored = connection.scalar(sa.select(api_key_use.c.full_us).where(api_key_use.c.key_id == key_id)) or 0
        full_us = stored if now < stored <= now + _MINUTE_US else now
        standing = _requests_left(per_minute, full_us, now)
        if not standing.remaining:
            said = f"this API key may make {per_minute:,} requests a minute, and they are used up"
            reached = KeyLimitReached(key=label, limit=per_minute, of="requests a minute")
            raise KeyLimitError("rate_limit_exceeded", said, reached, standing)
        return full_us, now

    def requests(self, key_id: str, label: str, per_minute: int) -> Standing:
        """What is left of this minute's requests; none is counted.

        Raises:
            DatabaseError: it cannot be read.
        """
        with self._database.read() as connection:
            try:
                full_us, now = self._check_requests(connection, key_id, label, per_minute)
            except KeyLimitError as reached:
                return reached.standing
        return _requests_left(per_minute, full_us, now)

    def tokens(self, key_id: str, per_day: int) -> Standing:
        """What is left of today's tokens.

        Raises:
            DatabaseError: it cannot be read.
        """
        now = self._clock_us()
        day = now // DAY_US
        rest_s = ((day + 1) * DAY_US - now) / _SECOND_US
        mine = sa.and_(api_key_use.c.key_id == key_id, api_key_use.c.day == day)
        with self._database.read() as connection:
            used = connection.scalar(sa.select(api_key_use.c.tokens).where(mine)) or 0
        with self._lock:
            used = max(used, 0) + self._uncounted.get((key_id, day), 0)
        return Standing(per_day, max(per_day - used, 0), rest_s, rest_s if used >= per_day else 0.0)

    def check_tokens(self, key_id: str, label: str, per_day: int) -> None:
        """Raises: KeyLimitError: today's tokens are used up. DatabaseError: nobody knows."""
        standing = self.tokens(key_id, per_day)
        if not standing.remaining:
            said = f"this API key may use {per_day:,} tokens a day, and they are used up"
            reached = KeyLimitReached(key=label, limit=per_day, of="tokens a day")
            raise KeyLimitError("quota_spent", said, reached, standing)

    def spend(self, key_id: str, tokens: int) -> None:
        """Count tokens of today.

        Raises:
            DatabaseError: they could not be stored; this process counts them, and stores them with the next.
        """
        day = self._clock_us() // DAY_US
        with self._lock:
            tokens += self._uncounted.pop((key_id, day), 0)
        if not tokens:
            return
        try:
            with self._database.write(serial=True) as connection:
                today = connection.execute(sa.select(api_key_use).where(api_key_use.c.key_id == key_id)).one_or_none()
                used = today.tokens if today is not None and today.day == day else 0
                _write(connection, key_id, day=day, tokens=used + tokens)
        except DatabaseError:
            with self._lock:
                kept = {of: count for of, count in self._uncounted.items() if of[1] == day}
                self._uncounted = {**kept, (key_id, day): kept.get((key_id, day), 0) + tokens}
            raise


def tokens_of(content: Content | None) -> int:
    """The tokens of a turn that an answer's event ends; 0 for any other event."""
    return sum(tokens_in_out(content))


def tokens_in_out(content: Content | None) -> tuple[int, int]:
    """The same for the prompt and for what was generated."""
    details = None if content is None else content.details
    if content is None or not isinstance(details, AnswerDetails):
        return 0, 0
    if isinstance(details, FinishedAnswer):
        return details.done.prompt_tokens, details.done.completion_tokens
    prompt_tokens = details.prompt_tokens if isinstance(details, UnfinishedAnswer) else None
    words = (content.text, details.reasoning, *(call.arguments for call in details.tool_calls))
    size_bytes = sum(len(text.encode(errors="replace")) for text in words)
    return prompt_tokens or 0, -(-size_bytes // BYTES_PER_TOKEN)


def _requests_left(per_minute: int, full_us: int, now: int) -> Standing:
    every_us = _MINUTE_US // per_minute
    empty_us = every_us * per_minute
    left_us = max(empty_us - (full_us - now), 0)  # below 0 after the limit was lowered
    wait_us = max(full_us + every_us - empty_us - now, 0)
    return Standing(per_minute, left_us // every_us, (full_us - now) / _SECOND_US, wait_us / _SECOND_US)


def _write(connection: sa.Connection, key_id: str, **values: int) -> None:
    """Within a transaction that excludes every other writer."""
    changed = api_key_use.update().where(api_key_use.c.key_id == key_id).values(values)
    if connection.execute(changed).rowcount == 0:
        row = {"key_id": key_id, "full_us": 0, "day": 0, "tokens": 0, **values}
        connection.execute(api_key_use.insert().values(row))
