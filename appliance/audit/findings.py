"""Findings of the signer in the database: the event that tells of one, the mark, and a reviewer's acknowledgement.

The ledger decides whether a finding is open; what stands here is for the pages and for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from appliance.audit.details.review import FindingDetails
from appliance.audit.event import Actor, Content, Header, NewEvent
from appliance.audit.ledger import Finding
from appliance.audit.log import AuditLog, Event
from appliance.audit.rows import DamagedEvent, load_events
from appliance.database.damaged_rows import read_rows
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import Database, read_setting, write_setting
from appliance.errors import ApplianceError

_FAULT = "audit_fault"
_SYSTEM = Actor("", "appliance", "system")
MAX_REASON_CHARS = 500
MAX_SHOWN = 50


class AcknowledgementError(ApplianceError):
    """The finding cannot be acknowledged; the message is for the reviewer."""


@dataclass(frozen=True)
class Seen:
    """Event ``sequence`` says that ``by`` has seen the finding."""

    sequence: int
    by: str
    reason: str


@dataclass(frozen=True)
class PastFinding:
    """Event ``sequence`` told of the finding."""

    id: str
    sequence: int
    words: str
    acknowledged: Seen | None


def record_finding(log: AuditLog, finding: Finding) -> None:
    """Tell of the finding in the log, once.

    Raises:
        RecordError: the log cannot be written.
    """
    if _event_of(log, "record_finding", finding.id) is None:
        content = Content("\n".join(finding.faults), FindingDetails(finding=finding.id, faults=finding.faults))
        log.append(NewEvent(_SYSTEM, "record_finding", "failed", finding.id, content))


def acknowledge(log: AuditLog, finding: Finding | None, finding_id: str, reason: str, *, by: Actor) -> Header:
    """Record that `by` has seen the open finding; the signer begins anew at its next turn.

    Raises:
        AcknowledgementError: there is no such open finding, or no reason was given.
        RecordError: it is not recorded.
    """
    reason = reason.strip()
    if finding is None:
        raise AcknowledgementError("No finding is open. There is nothing to acknowledge.")
    if finding.id != finding_id:
        raise AcknowledgementError(f"The open finding is {finding.id}. Read it, then acknowledge it by this name.")
    if not 3 <= len(reason) <= MAX_REASON_CHARS:
        raise AcknowledgementError(f"Give a reason of 3 to {MAX_REASON_CHARS} characters.")
    details = FindingDetails(finding=finding.id, faults=finding.faults)
    return log.append(NewEvent(by, "finding_acknowledged", subject=finding.id, content=Content(reason, details)))


def find_acknowledgement(log: AuditLog, finding: Finding) -> Seen | None:
    """Who has acknowledged the finding."""
    return _event_of(log, "finding_acknowledged", finding.id)


def past_findings(log: AuditLog) -> list[PastFinding]:
    """The newest findings of the log, newest first, with who acknowledged each."""
    columns = audit_events.c
    query = sa.select(columns.sequence, columns.subject).where(columns.action == "record_finding")
    query = query.order_by(columns.sequence.desc()).limit(MAX_SHOWN)
    with log.database.read() as connection:
        rows = read_rows(connection, query, columns.sequence, lambda row: row)
    ids = {row.sequence: str(row.subject) for row in rows} | {row.number: "" for row in rows.damaged}
    found = load_events(log.database, list(ids))
    return [
        PastFinding(ids[number], number, _words_of(event), _event_of(log, "finding_acknowledged", ids[number]))
        for number, event in sorted(found.items(), reverse=True)
    ]


def keep_fault(database: Database, words: str) -> None:
    """Mark the log as broken."""
    with database.write() as connection:
        write_setting(connection, _FAULT, words)


def forget_fault(database: Database) -> None:
    """Take the mark away."""
    with database.write() as connection:
        write_setting(connection, _FAULT, None)


def marked_fault(connection: sa.Connection) -> str | None:
    """What the log is marked with."""
    return read_setting(connection, _FAULT)


def failed_verification(connection: sa.Connection, after: int) -> str | None:
    """What a full verification found after event `after`, in the words of its event. Somebody with the database can
    remove
    the mark, but not the event."""
    events, contents = audit_events.c, audit_contents.c
    query: sa.Select[Any] = sa.select(events.sequence, contents.text)
    query = query.select_from(audit_events.outerjoin(audit_contents, events.sequence == contents.sequence))
    query = query.where(events.sequence > after, events.action == "record_verified", events.outcome == "failed")
    found = read_rows(connection, query.order_by(events.sequence.desc()).limit(1), events.sequence, lambda row: row)
    told = [(row.sequence, row.text) for row in found] + [(row.number, row.problem) for row in found.damaged]
    return None if not told else "event {} tells of a verification that failed: {}".format(*told[0])


def _event_of(log: AuditLog, action: str, finding_id: str) -> Seen | None:
    """The first event of the kind about the finding."""
    columns = audit_events.c
    query = sa.select(columns.sequence).where(columns.subject == finding_id, columns.action == action)
    with log.database.read() as connection:
        number = connection.scalar(query.order_by(columns.sequence).limit(1))
    event = None if number is None else load_events(log.database, [number]).get(number)
    return None if event is None else Seen(event.sequence, _actor_of(event), _words_of(event))


def _actor_of(event: Event | DamagedEvent) -> str:
    return "somebody" if event.header is None else event.header.actor.name


def _words_of(event: Event | DamagedEvent) -> str:
    """What the event tells, or what is wrong with it: somebody may have written there."""
    if isinstance(event, DamagedEvent):
        return f"this event is damaged: {event.problem}"
    return "" if event.content is None else event.content.text
