"""Rebuilds the search index from the contents in small transactions, so that answers go on meanwhile.

Until it is done a search finds only what is indexed already. A rebuild that was killed is finished by another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.audit.word_check import words_of_contents
from appliance.audit.words import forget_words, index_words
from appliance.database.tables import audit_events

_LAST = sa.select(sa.func.max(audit_events.c.sequence))
_EVENTS = 200  # in one transaction: some tens of milliseconds


@dataclass(frozen=True)
class Reindexed:
    """How many contents of the events 1 to ``last`` are in the index now."""

    contents: int
    last: int


def reindex(
    log: AuditLog, *, by: Actor, pause: Callable[[float], None] = time.sleep,
    progress: Callable[[int, int], None] | None = None,
) -> Reindexed:  # fmt: skip
    """Record that it is done, and do it.

    Args:
        pause: called between two transactions, so that other writers get their turn.
        progress: told (events done, events) now and then.
    Raises:
        RecordError: it is not recorded, and not begun.
        DatabaseError: it is not done to its end; call it again.
    """
    event = NewEvent(by, "index_rebuilt", content=Content("the search index is made anew of the contents"))
    with log.database.write(serial=True) as connection:  # a damaged index may refuse every event until it is emptied
        forget_words(log.database, connection)
        last = connection.scalar(_LAST) or 0
        log.append_in(connection, event)  # like all that follow, it goes into the new index
    contents = 0
    for after in range(0, last, _EVENTS):
        began_s = time.perf_counter()
        with log.database.write(serial=True) as connection:
            rows = list(words_of_contents(connection, after, min(after + _EVENTS, last)))
            index_words(log.database, connection, rows)
        contents += len(rows)
        if progress:
            progress(min(after + _EVENTS, last), last)
        pause(time.perf_counter() - began_s)
    return Reindexed(contents, last)
