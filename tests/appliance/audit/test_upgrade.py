"""The upgrade of an earlier release's database: the record is verified before and after, and nothing else happens.

``earlier_site.tar.gz`` holds the ``state/`` of a site made by commit 57270c6, the last that kept the signing key in
``state/keys``: `users add ann --role user`, `audit checkpoint`, `users add bob --role admin`, `audit checkpoint`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from appliance.audit.checkpoint import integrity
from appliance.audit.details.site import SchemaUpgraded
from appliance.audit.event import Actor
from appliance.audit.findings import acknowledge
from appliance.audit.ledger import read_ledger, read_tail
from appliance.audit.log import AuditLog
from appliance.audit.note import load_verifier
from appliance.audit.pages import check_pages
from appliance.audit.signer import LogSigner
from appliance.audit.upgrade import upgrade
from appliance.audit.verify import verify_log
from appliance.config import Config, init_state, load_config
from appliance.database.schema import MIGRATIONS, Standing, schema_of
from appliance.database.tables import SCHEMA, audit_contents, audit_events
from appliance.database.transactions import Database, DatabaseError, SchemaError, open_copy, open_database
from appliance.errors import ApplianceError
from tests.appliance.database.test_schema import with_migration
from tests.appliance.earlier import everything_in, make_earlier, open_as_it_is
from tests.appliance.records import SYSTEM, fill

EARLIER_SITE = Path(__file__).with_name("earlier_site.tar.gz")


@pytest.fixture
def earlier_site(tmp_path: Path) -> Config:
    home = tmp_path / "site"
    home.mkdir()
    subprocess.run(["tar", "-xzf", EARLIER_SITE, "-C", home, "--no-same-owner"], check=True)
    init_state(home)  # as every start and every command does
    return load_config(home)


def upgraded(url: str, state_dir: Path, migrations: Path = MIGRATIONS) -> Database:
    return open_database(url, upgrade=partial(upgrade, state_dir=state_dir, migrations=migrations))


def test_key_at_its_old_place_is_taken_over_and_is_no_finding(tmp_path: Path) -> None:
    home = tmp_path / "site"
    home.mkdir()
    subprocess.run(["tar", "-xzf", EARLIER_SITE, "-C", home, "--no-same-owner"], check=True)
    old = (home / "state" / "keys" / "audit.key").read_bytes()
    assert not (home / "state" / "signer").exists()

    init_state(home)
    config = load_config(home)
    database = upgraded(config.database_url, config.state_dir)
    log = AuditLog(database)
    for _ in range(2):  # the second is a restart
        assert LogSigner(log, config.state_dir).sign() is not None
    assert (home / "state" / "signer" / "audit.key").read_bytes() == old
    assert not (home / "state" / "keys" / "audit.key").exists()
    state = read_ledger(config.audit_dir)
    assert state is not None
    assert (state.findings, state.adopted_size) == ([], 4)
    assert integrity(log, config.state_dir).state == "verified"
    assert verify_log(database, config.state_dir).faults == ()
    assert check_pages(database).faults == ()
    database.close()


def test_the_database_of_an_earlier_site_can_be_verified_as_a_copy(earlier_site: Config) -> None:
    key = load_verifier(earlier_site.keys_dir)
    path = earlier_site.database_file
    assert path is not None
    with open_copy(path) as database:
        assert verify_log(database, None, key=key).faults == ()
        assert check_pages(database).faults == ()


@pytest.mark.parametrize("version", [1, 2])
def test_an_upgrade_is_an_event_that_says_what_was_verified(database_url: str, version: int, tmp_path: Path) -> None:
    make_earlier(database_url, version)
    before = open_as_it_is(database_url)
    root = AuditLog(before).root(5)
    before.close()
    database = upgraded(database_url, tmp_path)
    log = AuditLog(database)
    event = log.get(log.size())
    assert (event.sequence, event.header.action, event.header.subject) == (6, "schema_upgraded", SCHEMA)
    assert event.header.actor == SYSTEM
    assert event.content is not None
    assert event.content.details == SchemaUpgraded(before=f"000{version}", after=SCHEMA, events=5, root=root.hex())
    assert "The 5 events before this one were verified before and after" in event.content.text
    assert log.root(5) == root
    assert verify_log(database, None).faults == ()
    database.close()
    upgraded(database_url, tmp_path).close()  # nothing is left to do
    assert AuditLog(database).size() == 6
    database.close()


def change_an_event(connection: sa.Connection) -> None:
    connection.execute(audit_events.update().where(audit_events.c.sequence == 2).values(subject="turn-x"))


def remove_a_content(connection: sa.Connection) -> None:
    connection.execute(audit_contents.delete().where(audit_contents.c.sequence == 2))


def remove_the_checkpoints(connection: sa.Connection) -> None:
    connection.exec_driver_sql("DELETE FROM audit_checkpoints")


@pytest.mark.parametrize("damage", [change_an_event, remove_a_content, remove_the_checkpoints])
def test_a_damaged_record_is_not_upgraded_and_the_sentence_says_what_to_do(
    earlier_site: Config, damage: Callable[[sa.Connection], None]
) -> None:
    url = earlier_site.database_url
    earlier = open_as_it_is(url)
    LogSigner(AuditLog(earlier), earlier_site.state_dir).sign()
    fill(AuditLog(earlier), 1)
    LogSigner(AuditLog(earlier), earlier_site.state_dir).sign()
    with earlier.write() as connection:
        damage(connection)
    earlier.close()
    before = everything_in(url)
    with pytest.raises(SchemaError) as refused:
        upgraded(url, earlier_site.state_dir)
    said = str(refused.value)
    assert said.startswith("the record is damaged, so the database stays at the schema 0001 of the earlier release: ")
    assert said.endswith(
        "Have a reviewer acknowledge it under the earlier release (installer rollback, then appliance audit verify and "
        "appliance audit acknowledge), or run `appliance upgrade --despite-damage REASON`, which changes nothing of "
        "the damage and stays in the record"
    )
    assert everything_in(url) == before


def test_an_operator_may_upgrade_a_damaged_record_which_hides_nothing(earlier_site: Config) -> None:
    """Release 0.1.0 has no acknowledgement that would come before the upgrade."""
    state_dir, url = earlier_site.state_dir, earlier_site.database_url
    earlier = open_as_it_is(url)
    with earlier.write() as connection:
        remove_a_content(connection)
    faults = verify_log(earlier, state_dir).faults
    assert len(faults) == 1
    earlier.close()
    database = open_database(
        url, upgrade=partial(upgrade, state_dir=state_dir, by=Actor("", "root", "cli"), despite="a disk\udcff died")
    )
    log = AuditLog(database)
    event = log.get(5)
    assert (event.header.actor.name, event.header.outcome) == ("root", "failed")
    assert event.content is not None
    assert f"still is. Faults: 1; the first: {faults[0]}. Reason: a disk" in event.content.text
    assert isinstance(event.content.details, SchemaUpgraded)
    assert (event.content.details.faults, event.content.details.reason) == (1, "a disk\N{REPLACEMENT CHARACTER} died")
    assert verify_log(database, state_dir).faults == faults
    with pytest.raises(ApplianceError, match="event 2"):
        LogSigner(log, state_dir).sign()
    assert read_tail(earlier_site.audit_dir) is not None
    database.close()


def test_a_reason_is_not_recorded_where_nothing_was_damaged(earlier_site: Config) -> None:
    database = open_database(
        earlier_site.database_url, upgrade=partial(upgrade, state_dir=earlier_site.state_dir, despite="just in case")
    )
    event = AuditLog(database).get(5)
    assert event.header.outcome == "ok"
    assert event.content is not None
    assert isinstance(event.content.details, SchemaUpgraded)
    assert event.content.details.reason is None
    assert "just in case" not in event.content.text
    database.close()


def test_a_reason_does_not_excuse_an_upgrade_that_would_change_the_record(sqlite_url: str, tmp_path: Path) -> None:
    make_earlier(sqlite_url, 2)
    database = open_as_it_is(sqlite_url)
    with database.write() as connection:
        remove_a_content(connection)
    database.close()
    before = everything_in(sqlite_url)
    statement = "UPDATE audit_events SET subject = 'turn-x' WHERE sequence = 3"
    migrations = with_migration(tmp_path / "trial", MORE.format(statement=statement))
    run = partial(upgrade, state_dir=tmp_path, despite="for a test", migrations=migrations)
    with pytest.raises(SchemaError, match=r"would have changed the record \(event 3: its header does not fit its hash"):
        open_database(sqlite_url, upgrade=run)
    assert everything_in(sqlite_url) == before


def test_damage_that_a_reviewer_acknowledged_does_not_keep_a_database_from_its_upgrade(earlier_site: Config) -> None:
    state_dir, url = earlier_site.state_dir, earlier_site.database_url
    earlier = open_as_it_is(url)
    log = AuditLog(earlier)
    LogSigner(log, state_dir).sign()
    with earlier.write() as connection:
        remove_a_content(connection)
    signer = LogSigner(log, state_dir)
    with pytest.raises(ApplianceError, match="event 2"):
        signer.sign()
    _, finding = read_tail(earlier_site.audit_dir) or ("", None)
    assert finding is not None
    with pytest.raises(SchemaError, match="the record is damaged"):
        upgraded(url, state_dir)
    acknowledge(log, finding, finding.id, "looked into", by=SYSTEM)
    assert signer.sign() is not None
    earlier.close()
    database = upgraded(url, state_dir)
    report = verify_log(database, state_dir)
    assert (report.faults, [fault.first for fault in report.known_damage]) == ((), [2])
    database.close()


MORE = f"""
from alembic import op
revision, down_revision = "{int(SCHEMA) + 1:04}", "{SCHEMA}"
def upgrade():
    op.execute({{statement!r}})
"""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET subject = 'turn-x' WHERE sequence = 2",
        "UPDATE audit_contents SET text = 'other' WHERE sequence = 1",
        "DELETE FROM audit_events WHERE sequence = 5",
        "DELETE FROM audit_events",
        "INSERT INTO audit_events SELECT 6, time_us, actor_id, actor_name, via, address, action, outcome, subject, "
        "commitment, subtrees FROM audit_events WHERE sequence = 5",
    ],
)
def test_an_upgrade_that_would_change_the_record_is_undone(database_url: str, tmp_path: Path, statement: str) -> None:
    make_earlier(database_url, 2)
    before = everything_in(database_url)
    migrations = with_migration(tmp_path / "trial", MORE.format(statement=statement))
    with pytest.raises(SchemaError, match=r"the upgrade would have changed the record .+ nothing was changed"):
        upgraded(database_url, tmp_path, migrations)
    assert everything_in(database_url) == before


@pytest.mark.parametrize(("version", "claimed"), [(1, "2"), (2, "1")])
def test_a_database_that_lies_about_its_schema_is_refused_and_left_alone(
    database_url: str, tmp_path: Path, version: int, claimed: str
) -> None:
    make_earlier(database_url, version)
    database = open_as_it_is(database_url)
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE settings SET value = '{claimed}' WHERE name = 'schema'")  # noqa: S608
    database.close()
    before = everything_in(database_url)
    lie = r"claims to have the schema 0002, but its tables differ from it \(the table approvals is missing"
    match = lie if version == 1 else "failed: .+vouched_by"
    with pytest.raises(DatabaseError, match=match):
        upgraded(database_url, tmp_path)
    assert everything_in(database_url) == before


@pytest.mark.parametrize("revision", [f"{number:04}" for number in range(1, int(SCHEMA))])
def test_a_forged_revision_does_not_upgrade_the_tables_of_this_release(
    database: Database, database_url: str, tmp_path: Path, revision: str
) -> None:
    fill(AuditLog(database), 3)
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")  # noqa: S608
    with pytest.raises(DatabaseError, match=r"the database failed: .+(duplicate column|already exists)"):
        upgraded(database_url, tmp_path)
    assert AuditLog(database).size() == 3
    with database.read() as connection:
        assert schema_of(connection).standing is Standing.OLDER
    assert verify_log(database, None).faults == ()
