"""What one person may put into the record: the size of a prompt, and the bytes of a day.

Checked before anything is recorded, because the record keeps what it is given for ever. A prompt of more than
`MAX_BYTES_PER_TOKEN` bytes for each token of the context is refused by its size alone: ordinary text has about four
bytes a token, and what has more than sixteen (long runs of one sign) is no conversation.

The bytes of a day are counted in a table for all processes together, and in memory up to `_PENDING_BYTES` a person and
process, so that an ordinary turn costs no transaction. A killed process forgets so many, and so late a refusal may be.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import sqlalchemy as sa

from appliance.audit.details.codec import Details
from appliance.audit.details.denials import PromptTooLarge, QuotaSpent
from appliance.audit.event import Content
from appliance.database.tables import recorded_bytes
from appliance.database.transactions import Database, now_us
from appliance.errors import ApplianceError
from appliance.turns.request import TurnRequest

MAX_BYTES_PER_TOKEN: Final = 16
MIB: Final = 1024 * 1024
DAY_US: Final = 86_400 * 1_000_000
EVENT_BYTES: Final = 1024  # an event without its content: header, hashes, indexes
_PENDING_BYTES: Final = 1 * MIB
_KEPT_DAYS: Final = 7


class RefusedError(ApplianceError):
    """The turn must not be run or recorded. ``details`` are facts for the event that says so."""

    code = "refused"
    details: Details

    @property
    def sentence(self) -> str:
        """What is wrong, for the person who asked."""
        words = str(self)
        return f"{words[:1].upper()}{words[1:]}."


class LimitReachedError(RefusedError):
    """Something that is limited is used up; it is there again in ``retry_after_s``.

    ``what_to_do`` is for a person at a page; None where the page's own words say it.
    """

    what_to_do: str | None = None

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PromptTooLargeError(RefusedError):
    """The prompt cannot fit into the model's context."""

    code = "prompt_too_large"

    def __init__(self, size_bytes: int, limit_bytes: int, sha256: str) -> None:
        super().__init__(f"the prompt has {size_bytes:,} bytes, and more than {limit_bytes:,} cannot fit")
        self.details = PromptTooLarge(size_bytes=size_bytes, limit_bytes=limit_bytes, sha256=sha256)


class QuotaSpentError(LimitReachedError):
    """The person has recorded as much as one day allows. ``is_first`` is true for one refusal a person and day."""

    code = "quota_spent"

    def __init__(self, limit_bytes: int, *, is_first: bool, retry_after_s: float) -> None:
        message = f"{limit_bytes // MIB:,} MiB were recorded for this account today, and that is its limit"
        super().__init__(message, retry_after_s=retry_after_s)
        self.details = QuotaSpent(limit_bytes=limit_bytes)
        self.is_first = is_first


@dataclass(frozen=True)
class Limits:
    """Bytes of one prompt, and of all that is recorded for one person in a day (UTC)."""

    prompt_bytes: int
    daily_bytes: int


def limits_of(*, context_tokens: int, daily_mib: int) -> Limits:
    return Limits(context_tokens * MAX_BYTES_PER_TOKEN, daily_mib * MIB)


class Leave(Protocol):
    """Gives the place of a turn back. A second call does nothing."""

    def __call__(self, *, later: bool = False) -> None:
        """Args: later: do nothing that waits, because nobody knows in which thread this is called."""


class Bounds(Protocol):
    """What bounds a turn: it is asked before the turn, and told of each event that the turn has recorded."""

    def check(self, user_id: str, request: TurnRequest) -> Leave:
        """Let the turn in; the value is to be called once the turn is over, however it ended.

        Raises:
            RefusedError, PresenceError, DatabaseError: the turn must not be run.
        """

    def spend(self, user_id: str, content: Content | None) -> None:
        """Raises: DatabaseError: the count could not be kept yet."""


class Allowance:
    """Counts what each person has used; thread-safe, one for each process."""

    def __init__(self, database: Database, limits: Limits, *, clock_us: Callable[[], int] = now_us) -> None:
        self.limits = limits
        self._database = database
        self._clock_us = clock_us
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, int], int] = {}  # guarded by _lock
        self._keeping = threading.Lock()  # taken before _lock: two threads must not keep the same bytes

    def check(self, user_id: str, request: TurnRequest) -> None:
        """Raises: PromptTooLargeError, QuotaSpentError, DatabaseError: the turn must not be run."""
        texts = [text.encode(errors="surrogatepass") for text in _texts(request)]
        self.check_texts(user_id, texts)

    def check_texts(self, user_id: str, texts: list[bytes]) -> None:
        """The same for texts that are to become a prompt."""
        size_bytes = sum(map(len, texts))
        if size_bytes > self.limits.prompt_bytes:
            digest = hashlib.sha256(b"".join(texts)).hexdigest()
            raise PromptTooLargeError(size_bytes, self.limits.prompt_bytes, digest)
        now = self._clock_us()
        day = now // DAY_US
        if self.recorded_bytes(user_id) >= self.limits.daily_bytes:
            rest_s = ((day + 1) * DAY_US - now) / 1_000_000
            raise QuotaSpentError(
                self.limits.daily_bytes, is_first=self._is_first_refusal(user_id, day), retry_after_s=rest_s
            )

    def recorded_bytes(self, user_id: str) -> int:
        """How many bytes were recorded for a person today, as far as this process knows."""
        day = self._clock_us() // DAY_US
        with self._lock:
            pending = self._pending.get((user_id, day), 0)
        return self._stored(user_id, day) + pending

    def spend(self, user_id: str, content: Content | None) -> None:
        """Count what was recorded.

        Raises:
            DatabaseError: the count could not be kept; it is tried again with the next.
        """
        if content is None:
            return
        details = json.dumps(content.details.values(), ensure_ascii=False)
        self.spend_bytes(user_id, len(content.text.encode()) + len(details.encode()))

    def spend_bytes(self, user_id: str, content_bytes: int) -> None:
        """Count content of this size.

        Raises:
            DatabaseError: as `spend`.
        """
        size_bytes = EVENT_BYTES + content_bytes
        key = (user_id, self._clock_us() // DAY_US)
        with self._lock:
            self._pending[key] = self._pending.get(key, 0) + size_bytes
            is_due = self._pending[key] >= _PENDING_BYTES or len(self._pending) > 1000
        if is_due:
            self.keep()

    def keep(self) -> None:
        """Put what is counted in memory into the table.

        Raises:
            DatabaseError: it could not be; it is still counted in memory.
        """
        with self._keeping:
            self._keep()

    def _keep(self) -> None:
        with self._lock:
            pending = dict(self._pending)
        if not pending:
            return
        with self._database.write(serial=True) as connection:
            for (user_id, day), size_bytes in pending.items():
                _add(connection, user_id, day, size_bytes)
            old = recorded_bytes.c.day < self._clock_us() // DAY_US - _KEPT_DAYS
            connection.execute(recorded_bytes.delete().where(old))
        with self._lock:
            for key, size_bytes in pending.items():
                self._pending[key] -= size_bytes
                if not self._pending[key]:
                    del self._pending[key]

    def _stored(self, user_id: str, day: int) -> int:
        query = sa.select(recorded_bytes.c.bytes).where(_of(user_id, day))
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def _is_first_refusal(self, user_id: str, day: int) -> bool:
        """Whether this is the first refusal of the day in any process."""
        columns = recorded_bytes.c
        with self._database.read() as connection:
            if connection.scalar(sa.select(columns.refused).where(_of(user_id, day))):
                return False
        with self._database.write(serial=True) as connection:
            _add(connection, user_id, day, 0)
            refused = recorded_bytes.update().where(_of(user_id, day), columns.refused.is_(False))
            return connection.execute(refused.values(refused=True)).rowcount == 1


def _texts(request: TurnRequest) -> Iterator[str]:
    """Everything in the request that is recorded and can be long."""
    for message in request.messages:
        yield from (message.content, message.reasoning or "", message.name or "", message.tool_call_id or "")
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)
    for tool in request.tools:
        yield from (tool.name, tool.description)
        if tool.parameters:
            yield json.dumps(tool.parameters, ensure_ascii=False)
    yield from request.stop


def _of(user_id: str, day: int) -> sa.ColumnElement[bool]:
    return sa.and_(recorded_bytes.c.user_id == user_id, recorded_bytes.c.day == day)


def _add(connection: sa.Connection, user_id: str, day: int, size_bytes: int) -> None:
    """Within a transaction that excludes every other writer."""
    more = recorded_bytes.update().where(_of(user_id, day)).values(bytes=recorded_bytes.c.bytes + size_bytes)
    if connection.execute(more).rowcount == 0:
        values = {"user_id": user_id, "day": day, "bytes": size_bytes, "refused": False}
        connection.execute(recorded_bytes.insert().values(values))
