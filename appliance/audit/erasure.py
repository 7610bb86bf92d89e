"""Erases the content of events for good, as retention rules demand, while the tree still verifies.

1. The event ``content_erased`` names the range, cut to the events that exist, and the reason. From then on a
   verification misses no content in that range. The event excuses no event after itself.
2. The contents go in small transactions, so that no writer waits for long; after a kill, the same command goes on.
3. The search index is merged, in small transactions, too, because until then it only marks words as deleted.
4. SQLite's write-ahead log, which holds what was there before, is cut to nothing.
5. The event ``erasure_finished`` says how many contents went. Without it, an erasure was killed or met a fault.

What this covers: contents of prompts, answers and searches, with their salts, and their words in the index.
What it does not: headers; contents of other events, which are the record's own testimony; turns that are being
answered; the copies in people's conversations; backups, and what the file system keeps of older blocks. PostgreSQL
overwrites at its next VACUUM.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from appliance.audit.details.indexed import indexed_text
from appliance.audit.event import Action, Actor, Content, NewEvent, SealedContent
from appliance.audit.log import AuditLog, Event
from appliance.audit.rows import load_events
from appliance.audit.words import merge_words, remove_words
from appliance.database.tables import audit_contents, audit_events
from appliance.errors import ApplianceError
from appliance.turns.interrupted import running_prompts

ERASED_ACTIONS: Final[tuple[Action, ...]] = ("prompt", "answer", "review_search")
MAX_REASON_CHARS: Final = 500
TRANSACTION_S: Final = 0.03  # aimed at; one very long content alone may take longer
_MAX_BATCH: Final = 500


class ErasureError(ApplianceError):
    """There is nothing to erase as was asked."""


@dataclass(frozen=True)
class Erased:
    """What was done. ``last`` is the end of the range, cut to the events that existed."""

    first: int
    last: int
    contents: int
    running: int  # prompts left out, because they are being answered
    words_left: int  # contents whose words stay in the index: the content was changed, so its words are not known
    log_is_cut: bool  # SQLite's write-ahead log is empty; False while somebody reads


def erase(
    log: AuditLog, first: int, last: int, *, by: Actor, reason: str,
    pause: Callable[[float], None] = time.sleep, clock_s: Callable[[], float] = time.perf_counter,
) -> Erased:  # fmt: skip
    """Erase the contents of the events `first` to `last`.

    Args:
        pause: called between two transactions, so that other writers get their turn.
    Raises:
        ErasureError: no such event exists, or no reason is given.
        RecordError, DatabaseError: it is not done, or not to its end; call it again.
    """
    reason = reason.strip()
    if not 1 <= len(reason) <= MAX_REASON_CHARS:
        raise ErasureError(f"an erasure needs a reason of 1 to {MAX_REASON_CHARS} characters")
    last = min(last, log.size())
    if not 1 <= first <= last:
        raise ErasureError("no event exists in this range")
    log.append(NewEvent(by, "content_erased", subject=f"{first}-{last}", content=Content(reason)))
    running = set(running_prompts(log.database, first, last))
    contents = words_left = 0
    position, batch = first - 1, 8
    while numbers := _next_contents(log, position, last, batch):
        began_s = clock_s()
        done, unknown = _erase_contents(log, [number for number in numbers if number not in running])
        took_s = clock_s() - began_s
        contents, words_left, position = contents + done, words_left + unknown, numbers[-1]
        batch = max(1, min(_MAX_BATCH, int(batch * TRANSACTION_S / max(took_s, 0.001))))
        pause(took_s)
    if contents:
        merge_words(log.database, pause=pause, clock_s=clock_s)
    erased = Erased(first, last, contents, len(running), words_left, _cut_write_ahead_log(log))
    log.append(NewEvent(by, "erasure_finished", subject=f"{first}-{last}", content=Content(_told(erased))))
    return erased


def _told(erased: Erased) -> str:
    left = f", {erased.running} prompts that are being answered left out" if erased.running else ""
    return f"{erased.contents} contents of the events {erased.first} to {erased.last} erased{left}"


def last_before(log: AuditLog, time_us: int) -> int:
    """The last event before the first one that is not older than `time_us`; 0 if there is none."""
    columns = audit_events.c
    with log.database.read() as connection:
        newer = connection.scalar(sa.select(sa.func.min(columns.sequence)).where(columns.time_us >= time_us))
    return log.size() if newer is None else newer - 1


def _next_contents(log: AuditLog, after: int, last: int, limit: int) -> list[int]:
    numbers, events = audit_contents.c.sequence, audit_events.c
    query = (
        sa.select(numbers)
        .join(audit_events, events.sequence == numbers)
        .where(numbers > after, numbers <= last, events.action.in_(ERASED_ACTIONS))
    )
    with log.database.read() as connection:
        return list(connection.scalars(query.order_by(numbers).limit(limit)))


def _erase_contents(log: AuditLog, numbers: list[int]) -> tuple[int, int]:
    """One transaction: the contents, and their words where they are known; (contents, those with unknown words)."""
    if not numbers:
        return 0, 0
    known, unknown = [], 0
    for number, event in load_events(log.database, numbers).items():
        text = _words_of(event) if isinstance(event, Event) else None
        if text is None:
            unknown += 1
        elif text:
            known.append((number, text))
    with log.database.write(serial=True) as connection:
        remove_words(log.database, connection, known)
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence.in_(numbers)))
    return len(numbers), unknown


def _words_of(event: Event) -> str | None:
    """What was indexed; None where the content is not the recorded one any more: wrong words would harm the index."""
    sealed: SealedContent | None = event.sealed
    if sealed is None:
        return ""
    if sealed.commitment() != event.header.commitment:
        return None
    return indexed_text(sealed.text, sealed.details)


def _cut_write_ahead_log(log: AuditLog) -> bool:
    if not log.database.is_sqlite:
        return True
    connection: Any = log.database.engine.raw_connection()
    try:
        busy, _, _ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.close()
    return bool(busy == 0)
