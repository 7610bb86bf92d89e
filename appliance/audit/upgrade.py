"""Upgrades the database of an earlier release, with the record verified before and after.

    open_database(url, upgrade=partial(upgrade, state_dir=config.state_dir))

All of it is one transaction, so whatever ends it before the end, a kill included, leaves the earlier schema:

1. Nobody else writes from here on. If another process has upgraded meanwhile, nothing is left to do.
2. The whole record is verified as `appliance audit verify` does: events, ledger, checkpoints. A record with faults is
   not upgraded, unless an operator gives a reason. Damage that a reviewer has acknowledged is no fault.
3. The migrations run (appliance/database/migrate.py).
4. The whole record is verified again, as this transaction sees it: the number of events, the root of the tree, what is
   erased, the checkpoints, the known damage and the faults are the same.
5. The upgrade is recorded as an event.
"""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa

from appliance.audit.details.site import SchemaUpgraded
from appliance.audit.event import Actor, Content, NewEvent, Outcome
from appliance.audit.log import AuditLog
from appliance.audit.verify import VerificationReport, verify_within
from appliance.database.schema import MIGRATIONS, Schema, Standing, schema_of
from appliance.database.tables import SCHEMA, storable
from appliance.database.transactions import Database, SchemaError

_log = logging.getLogger(__name__)
_SYSTEM = Actor("", "appliance", "system")


def upgrade(
    database: Database, *, state_dir: Path, by: Actor = _SYSTEM, despite: str | None = None,
    migrations: Path = MIGRATIONS,
) -> None:  # fmt: skip
    """Bring the database to the schema of this release.

    Args:
        despite: why a record with faults is upgraded all the same; None: it is refused.
        migrations: another directory than this release's, for tests.
    Raises:
        SchemaError: the record has faults, or the tables or the record are wrong afterwards; nothing was changed.
        DatabaseError, RecordError: a statement failed, or the upgrade cannot be recorded; nothing was changed.
    """
    from appliance.database.migrate import migrate  # loads alembic, which a start without an upgrade does not need

    log = AuditLog(database)
    with database.rebuild() as connection:
        schema = schema_of(connection)
        if schema.standing is not Standing.OLDER:
            _refuse_unless_current(schema)
            return
        before = _verify(connection, schema.revision, state_dir, despite)
        migrate(connection, schema.revision, migrations=migrations)
        _verify_again(connection, before, state_dir)
        log.append_in(connection, _event(schema.revision, before, by, despite))
    _log.warning("the database was upgraded from the schema %s to %s", schema.revision, SCHEMA)


def _refuse_unless_current(schema: Schema) -> None:
    """After another process had the database for itself."""
    if schema.standing is not Standing.CURRENT:
        raise SchemaError(schema.problem())


def _verify(connection: sa.Connection, revision: str, state_dir: Path, despite: str | None) -> VerificationReport:
    _log.warning("verifying the record before the database is upgraded from the schema %s to %s", revision, SCHEMA)
    report = verify_within(connection, state_dir)
    if not report.is_intact and despite is None:
        raise SchemaError(
            f"the record is damaged, so the database stays at the schema {revision} of the earlier release: "
            f"{report.faults[0]}. Have a reviewer acknowledge it under the earlier release (installer rollback, then "
            "appliance audit verify and appliance audit acknowledge), or run `appliance upgrade --despite-damage "
            "REASON`, which changes nothing of the damage and stays in the record"
        )
    return report


def _verify_again(connection: sa.Connection, before: VerificationReport, state_dir: Path) -> None:
    after = verify_within(connection, state_dir)
    if _facts(after) != _facts(before):
        new = [fault for fault in after.faults if fault not in before.faults]
        what = str(new[0]) if new else f"{before.size} events before, {after.size} after"
        raise SchemaError(
            f"the upgrade would have changed the record ({what}), so nothing was changed; serve the site with the "
            "earlier release (installer rollback) and report this"
        )


def _facts(report: VerificationReport) -> tuple[object, ...]:
    """What an upgrade must not change."""
    return report.size, report.root, report.erased, report.checkpoints, report.known_damage, report.faults


def _event(revision: str, verified: VerificationReport, by: Actor, despite: str | None) -> NewEvent:
    root = None if verified.root is None else verified.root.hex()
    faults = len(verified.faults)
    reason = storable(despite) if faults and despite is not None else None
    details = SchemaUpgraded(
        before=revision, after=SCHEMA, events=verified.size, root=root, faults=faults, reason=reason
    )
    text = (
        f"The database was upgraded from the schema {revision} to {SCHEMA}. The {verified.size} events before this one "
        "were verified before and after; their number and the root of their tree are the same."
    )
    if faults:
        text += f" The record was damaged before and still is. Faults: {faults}; the first: {verified.faults[0]}."
        text += f" Reason: {reason}"
    outcome: Outcome = "failed" if faults else "ok"
    return NewEvent(by, "schema_upgraded", outcome, SCHEMA, Content(storable(text), details))
