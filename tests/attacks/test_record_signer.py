"""What somebody who can write a site's database and state/ does to the record. None of it gets signed.

Each attack is tried while the signer runs and again while it does not. Afterwards nothing new is signed, every place
says that the record is broken, and that stays so after a restart, until a reviewer acknowledges it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.audit import merkle
from appliance.audit.checkpoint import integrity
from appliance.audit.event import encode_header
from appliance.audit.fault import LogBrokenError
from appliance.audit.findings import acknowledge
from appliance.audit.keys import settle_key, stage_key
from appliance.audit.ledger import Finding, read_ledger, read_tail
from appliance.audit.log import AuditLog
from appliance.audit.note import CheckpointError, SignedCheckpoint, Signer
from appliance.audit.signer import LogSigner
from appliance.audit.verify import verify_log
from appliance.config import init_state, load_config
from appliance.database.transactions import Database, open_database
from tests.appliance.records import SYSTEM, fill
from tests.waiting import wait_for

HALF, SIZE = 12, 20
STARTED = {"event": "started", "summary": "nothing was tried", "watched": True, "silence": {"attempts": []}}


@dataclass
class Site:
    """A site whose log was signed at 12 and at 20 events; ``earlier`` is a copy of state/ from the signing at 12."""

    state: Path
    earlier: Path
    database: Database

    @property
    def log(self) -> AuditLog:
        return AuditLog(self.database)

    def sql(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.file)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    @property
    def file(self) -> Path:
        return Path(self.database.engine.url.database or "")

    @property
    def ledger(self) -> Path:
        return self.state / "audit" / "ledger.txt"

    def replace_database(self, source: Path) -> None:
        """Replace the database file under the processes that have it open."""
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(self.file)) as new:
            old.backup(new)


def make_site(state: Path, earlier: Path) -> Site:
    database = open_database(f"sqlite:///{state}/database/site.sqlite3")
    log = AuditLog(database)
    signer = LogSigner(log, state)
    fill(log, HALF)
    signer.sign()
    database.close()
    shutil.copytree(state, earlier)
    fill(log, SIZE - HALF)
    signer.sign()
    return Site(state, earlier, database)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites: one is attacked, parts of the other are put into it. Each test gets copies."""
    path = tmp_path_factory.mktemp("sites")
    for name in ("ours", "other"):
        make_site(path / name / "state", path / name / "earlier").database.close()
    return path


@pytest.fixture
def site(finished: Path, tmp_path: Path) -> Iterator[Site]:
    shutil.copytree(finished, tmp_path / "sites")
    ours = tmp_path / "sites" / "ours"
    database = open_database(f"sqlite:///{ours}/state/database/site.sqlite3")
    yield Site(ours / "state", ours / "earlier", database)
    database.close()


# The attacks. Each changes the site as somebody who knows the format would.


def cut_the_end(site: Site) -> None:
    """Remove the newest events and the newest checkpoints."""
    site.sql(
        "DELETE FROM audit_events WHERE sequence > 14", "DELETE FROM audit_contents WHERE sequence > 14",
        "DELETE FROM audit_checkpoints WHERE size > 14",
    )  # fmt: skip


def cut_the_end_and_all_checkpoints(site: Site) -> None:
    cut_the_end(site)
    site.sql("DELETE FROM audit_checkpoints")


def cut_to_what_was_signed(site: Site) -> None:
    """Cut back to the size of an older checkpoint, so that a signed log is left."""
    site.sql(
        "DELETE FROM audit_events WHERE sequence > 12", "DELETE FROM audit_contents WHERE sequence > 12",
        "DELETE FROM audit_checkpoints WHERE size > 12",
    )  # fmt: skip


def cut_and_fill_up(site: Site) -> None:
    """Replace the newest events by others, as many and more."""
    cut_the_end(site)
    fill(site.log, 10)


def rebuild_altered(site: Site) -> None:
    """Change a name in one event, make every hash above it fit, and remove the checkpoints."""
    site.sql("UPDATE audit_events SET actor_name = 'eve' WHERE sequence = 7", "DELETE FROM audit_checkpoints")
    rehash(site)


def rebuild_shorter(site: Site) -> None:
    """Remove an event from the middle, move the rest down, and make everything fit."""
    site.sql("DELETE FROM audit_events WHERE sequence = 7", "DELETE FROM audit_contents WHERE sequence = 7")
    for table in ("audit_events", "audit_contents"):
        site.sql(f"UPDATE {table} SET sequence = sequence - 1 WHERE sequence > 7")  # noqa: S608
    site.sql("DELETE FROM audit_checkpoints")
    rehash(site)


def roll_the_database_back(site: Site) -> None:
    site.replace_database(site.earlier / "database" / "site.sqlite3")


def exchange_the_database(site: Site) -> None:
    """Use the database of another appliance, which is complete and signed."""
    site.replace_database(site.state.parent.parent / "other" / "state" / "database" / "site.sqlite3")


def empty_the_database(site: Site) -> None:
    site.sql("DELETE FROM audit_events", "DELETE FROM audit_contents", "DELETE FROM audit_checkpoints")


def rename_the_log(site: Site) -> None:
    site.sql("UPDATE settings SET value = 'gpt-oss-appliance/audit/0000000000000000' WHERE name = 'audit_origin'")


def delete_the_ledger(site: Site) -> None:
    site.ledger.unlink()


def delete_state_audit(site: Site) -> None:
    """Remove it in one step: otherwise a signer at work would make files anew while the others are being removed."""
    (site.state / "audit").rename(site.state.parent / "taken-away")
    shutil.rmtree(site.state.parent / "taken-away")


def delete_everything_signed(site: Site) -> None:
    """Also remove the checkpoints in the database, as if nothing had ever been signed."""
    delete_state_audit(site)
    site.sql("DELETE FROM audit_checkpoints")


def alter_the_ledger(site: Site) -> None:
    """Change the number of events of the first checkpoint, in the middle of the file."""
    site.ledger.write_text(site.ledger.read_text().replace(f"\\n{HALF}\\n", f"\\n{HALF - 1}\\n", 1))


def shorten_the_ledger(site: Site) -> None:
    """Remove its last checkpoint."""
    lines = site.ledger.read_bytes().splitlines(keepends=True)
    site.ledger.write_bytes(b"".join(lines[:-1]))


def tear_the_ledger(site: Site) -> None:
    """Make its last line look half-written, as after a power cut."""
    site.ledger.write_bytes(site.ledger.read_bytes()[:-40])


def extend_the_ledger(site: Site) -> None:
    """Add a checkpoint signed with another key."""
    append_forged(site, forger(site))


def replace_the_key(site: Site) -> None:
    delete_the_keys(site)
    settle_key(site.state, site.log.origin, str(stage_key(site.state, site.log.origin).verifier))


def replace_the_private_key(site: Site) -> None:
    public = (site.state / "keys" / "audit.pub").read_bytes()
    replace_the_key(site)
    (site.state / "keys" / "audit.pub").write_bytes(public)


def delete_the_key(site: Site) -> None:
    (site.state / "signer" / "audit.key").unlink()


def delete_the_keys(site: Site) -> None:
    for name in ("keys", "signer"):
        shutil.rmtree(site.state / name)


def replace_the_newest_checkpoint(site: Site) -> None:
    forged = forger(site).sign(SignedCheckpoint(site.log.origin, SIZE, bytes(32), 1, "0" * 64))
    with closing(sqlite3.connect(site.file)) as connection:
        connection.execute("UPDATE audit_checkpoints SET note = ? WHERE size = ?", (forged, SIZE))
        connection.commit()


def add_a_checkpoint(site: Site) -> None:
    """Add one for events that do not exist yet."""
    with closing(sqlite3.connect(site.file)) as connection:
        connection.execute("INSERT INTO audit_checkpoints VALUES (?, ?)", (SIZE + 9, "a note"))
        connection.commit()


def replace_the_daily_file(site: Site) -> None:
    (path,) = (site.state / "audit").glob("checkpoint-*")
    path.write_text(forger(site).sign(SignedCheckpoint(site.log.origin, SIZE, bytes(32), 1, "0" * 64)))


def take_the_daily_file_of_another_day(site: Site) -> None:
    """Use a file with a true checkpoint of the other site."""
    (path,) = (site.state / "audit").glob("checkpoint-*")
    (other,) = (site.state.parent.parent / "other" / "state" / "audit").glob("checkpoint-*")
    path.write_bytes(other.read_bytes())


def roll_everything_but_one_file_back(site: Site) -> None:
    """Restore database, ledger and key of an earlier time, but forget the day's checkpoint."""
    roll_the_database_back(site)
    shutil.copy(site.earlier / "audit" / "ledger.txt", site.ledger)


def exchange_database_and_ledger(site: Site) -> None:
    """Use both of another appliance, and keep the key."""
    exchange_the_database(site)
    shutil.rmtree(site.state / "audit")
    shutil.copytree(site.state.parent.parent / "other" / "state" / "audit", site.state / "audit")


def add_a_far_event(site: Site) -> None:
    """Add one with a number so large that counting up to it never ends."""
    columns = "time_us, actor_id, actor_name, via, address, action, outcome, subject, commitment, subtrees"
    site.sql(f"INSERT INTO audit_events SELECT {10**15}, {columns} FROM audit_events WHERE sequence = 2")  # noqa: S608


ATTACKS = [
    cut_the_end, cut_the_end_and_all_checkpoints, cut_to_what_was_signed, cut_and_fill_up, rebuild_altered,
    rebuild_shorter, roll_the_database_back, exchange_the_database, empty_the_database, rename_the_log,
    delete_the_ledger, delete_state_audit, delete_everything_signed, alter_the_ledger, shorten_the_ledger,
    tear_the_ledger, extend_the_ledger, replace_the_key, replace_the_private_key, delete_the_key, delete_the_keys,
    replace_the_newest_checkpoint, add_a_checkpoint, replace_the_daily_file, take_the_daily_file_of_another_day,
    roll_everything_but_one_file_back, exchange_database_and_ledger, add_a_far_event,
]  # fmt: skip


def rehash(site: Site) -> None:
    """Make every stored hash fit the stored headers."""
    edge, log = merkle.RightEdge(), site.log
    headers = [log.get(number).header for number in range(1, log.size() + 1)]
    with closing(sqlite3.connect(site.file)) as connection:
        for header in headers:
            subtrees = b"".join(edge.append(merkle.leaf_hash(encode_header(header))))
            connection.execute("UPDATE audit_events SET subtrees = ? WHERE sequence = ?", (subtrees, header.sequence))
        connection.commit()


def forger(site: Site) -> Signer:
    """A key that the site does not know, under the name of the site's own."""
    return stage_key(site.state.parent / "forger", site.log.origin)


def append_forged(site: Site, signer: Signer) -> None:
    state = read_ledger(site.state / "audit")
    assert state is not None
    note = signer.sign(SignedCheckpoint(state.origin, SIZE + 1, bytes(32), state.newest_us + 1, state.last_hash))
    with site.ledger.open("a") as file:
        file.write(json.dumps(note) + "\n")


def assert_broken(site: Site) -> None:
    """Pages, doctor and verification all say it, read by a process that knows nothing."""
    found = integrity(AuditLog(site.database), site.state)
    assert found.state == "broken", found
    assert found.fault
    try:
        report = verify_log(site.database, site.state)
    except CheckpointError:
        return
    assert not report.is_intact


def assert_refuses(signer: LogSigner) -> None:
    with pytest.raises(LogBrokenError):
        signer.sign()


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_nothing_is_signed_after(site: Site, attack: Callable[[Site], None], running: bool) -> None:
    log = site.log
    signer = LogSigner(log, site.state)
    if running:
        signer.sign()
    attack(site)
    if not running:
        site.database.close()
        log = AuditLog(site.database)
        signer = LogSigner(log, site.state)
    assert_refuses(signer)
    assert_broken(site)
    fill_quietly(log)
    assert_refuses(signer)
    assert_refuses(LogSigner(AuditLog(site.database), site.state))  # a restart
    assert_broken(site)
    state = read_ledger(site.state / "audit")
    assert state is not None
    assert state.open_finding is not None


def fill_quietly(log: AuditLog) -> None:
    """Append events, unless the log's edge is gone."""
    if AuditLog(log.database).damage is None and log.size() < 10**9:
        fill(log, 1)


@pytest.mark.parametrize("attack", [cut_the_end, delete_everything_signed, roll_the_database_back])
def test_the_running_recorder_refuses_says_so_and_goes_on_after_the_acknowledgement(
    tmp_path: Path, attack: Callable[[Site], None]
) -> None:
    """The recorder's own process is attacked while it runs."""
    home = tmp_path / "home"
    init_state(home)
    (home / "state" / "config" / "appliance.toml").write_text("[record]\ncheckpoint_interval_s = 1\n")
    database = open_database(load_config(home).database_url)
    site = Site(home / "state", tmp_path / "earlier", database)
    with recorder(home) as (process, tell):

        def wait_until(ready: Callable[[], bool]) -> None:
            wait(ready, while_lives=process)

        fill(site.log, HALF)
        tell(STARTED)
        wait_until(lambda: signed_size(site) > HALF)
        (site.earlier / "database").mkdir(parents=True)
        with (
            closing(sqlite3.connect(site.file)) as now,
            closing(sqlite3.connect(site.earlier / "database" / "site.sqlite3")) as copy,
        ):
            now.backup(copy)
        fill(site.log, SIZE)
        size = site.log.size()
        wait_until(lambda: signed_size(site) >= size)  # events that are not signed yet can be removed unseen
        attack(site)
        wait_until(lambda: open_finding(site) is not None)
        assert_broken(site)
        finding = open_finding(site)
        assert finding is not None
        acknowledge(site.log, finding, finding.id, "it was the test", by=SYSTEM)
        wait_until(lambda: open_finding(site) is None and integrity(site.log, site.state).state == "verified")
    report = verify_log(database, site.state)
    assert report.is_intact
    assert [found.id for found in report.findings] == [finding.id]
    database.close()


Tell = Callable[[dict[str, object]], None]


@contextmanager
def recorder(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], Tell]]:
    """The recorder process of the site, and a function that tells it what the supervisor would."""
    environ = {"APPLIANCE_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2]), "APPLIANCE_READY_FD": "1"}
    argv = [sys.executable, "-m", "appliance.runtime.recorder"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ) as process:
        stdin = process.stdin
        assert stdin is not None

        def tell(note: dict[str, object]) -> None:
            stdin.write(json.dumps(note).encode() + b"\n")
            stdin.flush()

        try:
            yield process, tell
            stdin.close()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def open_finding(site: Site) -> Finding | None:
    tail = read_tail(site.state / "audit")
    return tail[1] if tail else None


def signed_size(site: Site) -> int:
    return integrity(site.log, site.state).verified_size


def wait(ready: Callable[[], bool], *, while_lives: subprocess.Popen[bytes]) -> None:
    wait_for(ready, within_s=120, alive=lambda: while_lives.poll() is None, said=lambda: "the recorder")
