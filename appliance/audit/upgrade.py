"""Upgrades the database of an earlier release, with the record verified before and after.

    open_database(url, upgrade=partial(upgrade, state_dir=config.state_dir))

All of it is one transaction, so whatever ends it before the end, a kill included, leaves the earlier schema:

1. Nobody else writes from here on. If another process has upgraded meanwhile, nothing is left to do.
2. The whole record is verified as `appliance audit verify` does: events, ledger, checkpoints. A record with faults is
   not upgraded. Damage that a reviewer has acknowledged is no fault.
3. The migrations run (appliance/database/migrate.py).
4. The whole record is verified again, as this transaction sees it: the number of events, the root of the tree, what is
   erased, the checkpoints and the known damage are the same.
5. The upgrade is recorded as an event.
"""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa

from appliance.audit.details.site import SchemaUpgraded
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.audit.verify import VerificationReport, verify_within
from appliance.database.schema import MIGRATIONS, Schema, Standing, schema_of
from appliance.database.tables import SCHEMA
from appliance.database.transactions import Database, SchemaError

_log = logging.getLogger(__name__)
_SYSTEM = Actor("", "appliance", "system")


def upgrade(database: Database, *, state_dir: Path, migrations: Path = MIGRATIONS) -> None:
    """Bring the database to the schema of this release.

    Args:
        migrations: another directory than this release's, for tests.
    Raises:
        SchemaError: the record has faults, or the tables or the record are not right afterwards; nothing was changed.
        DatabaseError, RecordError: a statement failed, or the upgrade cannot be recorded; nothing was changed.
    """
    from appliance.database.migrate import migrate  # loads alembic, which a start without an upgrade does not need

    log = AuditLog(database)
    with database.rebuild() as connection:
        schema = schema_of(connection)
        if schema.standing is not Standing.OLDER:
            _refuse_unless_current(schema)
            return
        before = _verify(connection, schema.revision, state_dir)
        migrate(connection, schema.revision, migrations=migrations)
        _verify_again(connection, before, state_dir)
        log.append_in(connection, _event(schema.revision, before))
    _log.warning("the database was upgraded from the schema %s to %s", schema.revision, SCHEMA)


def _refuse_unless_current(schema: Schema) -> None:
    """After another process had the database for itself."""
    if schema.standing is not Standing.CURRENT:
        raise SchemaError(schema.problem())


def _verify(connection: sa.Connection, revision: str, state_dir: Path) -> VerificationReport:
    _log.warning("verifying the record before the database is upgraded from the schema %s to %s", revision, SCHEMA)
    report = verify_within(connection, state_dir)
    if not report.is_intact:
        raise SchemaError(
            f"the record is damaged, so the database stays at the schema {revision} of the earlier release: "
            f"{report.faults[0]}. Make the earlier release current (installer rollback), run `appliance audit verify` "
            "there, and have a reviewer acknowledge what it finds; then start this release again"
        )
    return report


def _verify_again(connection: sa.Connection, before: VerificationReport, state_dir: Path) -> None:
    after = verify_within(connection, state_dir)
    if not after.is_intact or _facts(after) != _facts(before):
        what = str(after.faults[0]) if after.faults else f"{before.size} events before, {after.size} after"
        raise SchemaError(
            f"the upgrade would have changed the record ({what}), so nothing was changed; serve the site with the "
            "earlier release (installer rollback) and report this"
        )


def _facts(report: VerificationReport) -> tuple[object, ...]:
    """What an upgrade must not change."""
    return report.size, report.root, report.erased, report.checkpoints, report.known_damage


def _event(revision: str, verified: VerificationReport) -> NewEvent:
    root = None if verified.root is None else verified.root.hex()
    details = SchemaUpgraded(before=revision, after=SCHEMA, events=verified.size, root=root)
    text = (
        f"The database was upgraded from the schema {revision} to {SCHEMA}. The {verified.size} events before this one "
        "were verified before and after; their number and the root of their tree are the same."
    )
    return NewEvent(_SYSTEM, "schema_upgraded", subject=SCHEMA, content=Content(text, details))
