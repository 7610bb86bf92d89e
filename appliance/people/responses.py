"""Responses that are kept for their owner, so that a program can read them again or go on where one ended.

A response holds the items of its own request and its answer, and names the response before it. The chain is walked when
it is needed and never copied: a deleted response is gone, and what followed it can no longer be continued. Every call
names the owner; for everybody else a response does not exist.

A response in the background is kept while its turn runs: first as it was answered at once, then with its end. If its
process dies, `fail_in` ends it.

What one person may keep is limited: beyond it, the oldest responses go first. Responses older than the site allows are
not read any more, and are removed when the next one is kept or a web worker starts. The record keeps its events.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from appliance.audit.event import Actor, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.tables import kept_responses, storable
from appliance.database.transactions import Database, now_us
from appliance.errors import ApplianceError

MIB: Final = 1024 * 1024
DAY_US: Final = 86_400 * 1_000_000
MAX_BYTES_PER_PERSON: Final = 256 * MIB
MAX_PER_PERSON: Final = 10_000
MAX_CHAIN: Final = 1_000
MAX_LOADED_BYTES: Final = 32 * MIB  # of what one request continues or names
_BATCH: Final = 500  # parameters of one query


class ResponseNotFoundError(ApplianceError):
    """This person has no such response, or no longer."""

    def __init__(self) -> None:
        super().__init__("There is no such response.")


class ChainBrokenError(ApplianceError):
    """A response before the one that is to be continued is gone, or there are too many."""

    def __init__(self) -> None:
        super().__init__(
            f"A response before it is no longer kept, or there are more than {MAX_CHAIN:,} before it; send the items"
        )


class TooMuchKeptError(ApplianceError):
    """What is to be read at once is more than any context holds."""

    def __init__(self) -> None:
        super().__init__("The conversation is longer than this model can read")


class StillRunningError(ApplianceError):
    """The response that is to be continued has not ended."""

    def __init__(self) -> None:
        super().__init__("That response is still being written; wait until it has ended, or cancel it")


@dataclass(frozen=True)
class KeptResponse:
    """A response: the items of its request, and the whole answer as the API gave it.

    ``is_running``: its turn is not over as far as the database knows, and ``response`` is what was answered at once.
    """

    id: str
    previous_id: str | None
    input: list[Any]
    response: dict[str, Any]
    is_running: bool = False


class Responses:
    """The kept responses of one database; thread-safe."""

    def __init__(
        self, database: Database, record: AuditLog, *, days: int, clock_us: Callable[[], int] = now_us,
        most: int = MAX_PER_PERSON, most_bytes: int = MAX_BYTES_PER_PERSON,
    ) -> None:  # fmt: skip
        """
        Args:
            days: how long a response is kept; 0: none is.
        """
        self._database = database
        self._record = record
        self._days = days
        self._clock_us = clock_us
        self._most, self._most_bytes = most, most_bytes

    @property
    def are_kept(self) -> bool:
        return self._days > 0

    def keep(self, user_id: str, new: KeptResponse) -> None:
        """Keep a response, durably.

        Raises:
            DatabaseError: it could not be kept.
        """
        given, answer = json.dumps(_storable(new.input)), json.dumps(_storable(new.response))
        values = {
            "id": new.id, "user_id": user_id, "previous_id": new.previous_id, "created_us": self._clock_us(),
            "size_bytes": len(given) + len(answer), "input": given, "response": answer, "running": new.is_running,
        }  # fmt: skip
        with self._database.write(serial=True) as connection:
            connection.execute(kept_responses.insert().values(values))
            self._remove_old(connection)
            self._make_room(connection, user_id)

    def finish(self, user_id: str, response_id: str, response: dict[str, Any]) -> bool:
        """Keep the end of a response that was kept while it ran; return False where it is gone or has ended.

        Raises:
            DatabaseError: it could not be kept.
        """
        with self._database.write(serial=True) as connection:
            is_kept = _end_in(connection, response_id, response)
            self._make_room(connection, user_id)
        return is_kept

    def remove_old(self) -> None:
        """Remove the responses that are older than the site allows.

        Raises:
            DatabaseError: nothing was removed.
        """
        with self._database.write(serial=True) as connection:
            self._remove_old(connection)

    def get(self, user_id: str, response_id: str) -> KeptResponse:
        """One response.

        Raises:
            ResponseNotFoundError: it does not exist, is no longer kept, or is someone else's.
        """
        found = self.find(user_id, [response_id])
        if not found:
            raise ResponseNotFoundError
        return found[response_id]

    def find(self, user_id: str, response_ids: Sequence[str]) -> dict[str, KeptResponse]:
        """Those of the responses that are kept for this person.

        Raises:
            TooMuchKeptError: together they are too long.
        """
        columns = kept_responses.c
        rows: list[sa.Row[Any]] = []
        with self._database.read() as connection:
            total = 0
            ids = list(dict.fromkeys(response_ids))
            for start in range(0, len(ids), _BATCH):
                mine = sa.and_(self._own(user_id), columns.id.in_(ids[start : start + _BATCH]))
                total += connection.scalar(sa.select(sa.func.sum(columns.size_bytes)).where(mine)) or 0
                if total > MAX_LOADED_BYTES:
                    raise TooMuchKeptError
                rows += connection.execute(sa.select(kept_responses).where(mine))
        return {row.id: _kept(row) for row in rows}

    def chain(self, user_id: str, response_id: str) -> list[KeptResponse]:
        """A response and all before it, the first one first.

        Raises:
            ResponseNotFoundError: as `get`.
            ChainBrokenError: one before it is gone, or there are too many.
            StillRunningError: its turn is not over.
            TooMuchKeptError: together they are too long.
        """
        with self._database.read() as connection:
            rows = connection.execute(self._walk(user_id, response_id)).all()
        if not rows:
            raise ResponseNotFoundError
        if rows[-1].previous_id is not None:
            raise ChainBrokenError
        ids = [row.id for row in reversed(rows)]
        found = self.find(user_id, ids)
        if len(found) < len(ids):  # one was deleted just now
            raise ChainBrokenError
        if any(one.is_running for one in found.values()):
            raise StillRunningError
        return [found[one] for one in ids]

    def delete(self, user_id: str, response_id: str, *, by: Actor) -> None:
        """Delete a response; that it was deleted is recorded.

        Raises:
            ResponseNotFoundError: as `get`.
        """
        mine = sa.and_(self._own(user_id), kept_responses.c.id == response_id)
        with self._database.write(serial=True) as connection:
            if connection.execute(kept_responses.delete().where(mine)).rowcount == 0:
                raise ResponseNotFoundError
            self._record.append_in(connection, NewEvent(by, "response_deleted", subject=response_id))

    def _own(self, user_id: str) -> sa.ColumnElement[bool]:
        return sa.and_(kept_responses.c.user_id == user_id, kept_responses.c.created_us > self._oldest_us())

    def _oldest_us(self) -> int:
        return self._clock_us() - self._days * DAY_US

    def _walk(self, user_id: str, response_id: str) -> sa.Select[Any]:
        """From a response back to the first, ids alone; at most `MAX_CHAIN` steps."""
        columns = kept_responses.c
        mine = self._own(user_id)
        step = sa.literal(1).label("step")
        first = sa.select(columns.id, columns.previous_id, step).where(mine, columns.id == response_id)
        walk = first.cte("walk", recursive=True)
        before = sa.select(columns.id, columns.previous_id, walk.c.step + 1)
        before = before.join(walk, columns.id == walk.c.previous_id).where(mine, walk.c.step < MAX_CHAIN)
        walk = walk.union_all(before)
        return sa.select(walk.c.id, walk.c.previous_id).order_by(walk.c.step)

    def _remove_old(self, connection: sa.Connection) -> None:
        connection.execute(kept_responses.delete().where(kept_responses.c.created_us <= self._oldest_us()))

    def _make_room(self, connection: sa.Connection, user_id: str) -> None:
        """Remove a person's oldest responses beyond what one person may keep."""
        columns = kept_responses.c
        newest_first = (columns.created_us.desc(), columns.id)
        ranked = sa.select(
            columns.id,
            sa.func.row_number().over(order_by=newest_first).label("number"),
            sa.func.sum(columns.size_bytes).over(order_by=newest_first, rows=(None, 0)).label("bytes"),
        ).where(columns.user_id == user_id).subquery()  # fmt: skip
        beyond = sa.or_(ranked.c.number > self._most, ranked.c.bytes > self._most_bytes)
        connection.execute(kept_responses.delete().where(columns.id.in_(sa.select(ranked.c.id).where(beyond))))


def fail_in(connection: sa.Connection, response_id: str, why: str) -> None:
    """End a response whose turn is lost, in the caller's transaction. Nothing is done where none runs."""
    columns = kept_responses.c
    row = connection.execute(
        sa.select(kept_responses).where(columns.id == response_id, columns.running)
    ).one_or_none()  # fmt: skip
    if row is None:
        return
    try:
        begun = _kept(row).response
    except ApplianceError:  # damaged; whoever reads it is told so
        connection.execute(kept_responses.update().where(columns.id == response_id).values(running=False))
        return
    _end_in(connection, response_id, {**begun, "status": "failed", "error": {"code": "server_error", "message": why}})


def _end_in(connection: sa.Connection, response_id: str, response: dict[str, Any]) -> bool:
    columns, answer = kept_responses.c, json.dumps(_storable(response))
    size = sa.func.length(columns.input) + len(answer)
    ended = kept_responses.update().where(columns.id == response_id, columns.running)
    return connection.execute(ended.values(response=answer, size_bytes=size, running=False)).rowcount > 0


def _storable(tree: Any) -> Any:
    """The JSON value with text that every database takes, and that a later request may hold."""
    if isinstance(tree, str):
        return storable(tree)
    if isinstance(tree, dict):
        return {key: _storable(value) for key, value in tree.items()}
    return [_storable(value) for value in tree] if isinstance(tree, list) else tree


def _kept(row: sa.Row[Any]) -> KeptResponse:
    try:
        given, answer = json.loads(row.input), json.loads(row.response)
    except (ValueError, TypeError, RecursionError) as exc:
        raise _damaged() from exc
    if not (isinstance(given, list) and isinstance(answer, dict)):
        raise _damaged()
    return KeptResponse(row.id, row.previous_id, given, answer, bool(row.running))


def _damaged() -> ApplianceError:
    return ApplianceError("A kept response cannot be read: somebody has changed the database.")
