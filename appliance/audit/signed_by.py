"""What a log itself says about who signs it: each start of the appliance names the key (recorder.py)."""

from __future__ import annotations

import sqlalchemy as sa

from appliance.audit.details.kinds import parse_details
from appliance.audit.details.review import KeyReplaced
from appliance.audit.details.site import ApplianceStarted
from appliance.database.tables import audit_contents, audit_events


def signing_key_in_log(connection: sa.Connection) -> str | None:
    """The key in the newest start that names one."""
    events, contents = audit_events.c, audit_contents.c
    query = sa.select(contents.details).join(audit_events, events.sequence == contents.sequence)
    query = query.where(events.action == "appliance_started").order_by(events.sequence.desc())
    for stored in connection.scalars(query):
        details = parse_details("appliance_started", stored)
        if isinstance(details, ApplianceStarted) and details.signing_key:
            return details.signing_key
    return None


def key_notes_in_log(connection: sa.Connection) -> list[str]:
    """The notes with which one key handed over to the next, from the events that hold them."""
    return [note for _, note in handovers_in_log(connection)]


def handovers_in_log(connection: sa.Connection) -> list[tuple[str, str]]:
    """The key that handed over and its note, from each event of a replacement."""
    events, contents = audit_events.c, audit_contents.c
    query = sa.select(contents.text, contents.details).join(audit_events, events.sequence == contents.sequence)
    query = query.where(events.action == "signing_key_replaced").order_by(events.sequence)
    handovers = []
    for text, stored in connection.execute(query):
        details = parse_details("signing_key_replaced", stored)
        if isinstance(details, KeyReplaced):
            handovers.append((str(text).partition(" -> ")[0], details.note))
    return handovers


def words_of_foreign_database(signing_key: str | None) -> str:
    """Why a database that is not new has no ledger beside it; ``signing_key`` is what its log names."""
    if signing_key is None:
        return (
            "this database was not signed by this key: there is a signing key, and neither the database nor "
            "state/audit has anything that it signed"
        )
    return f"the signer's own file, state/audit/ledger.txt, is missing; the log says that {signing_key} signed it"
