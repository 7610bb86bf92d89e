"""A real systemd installs, serves, upgrades and returns a real release, under the units that the installer writes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.database.tables import SCHEMA
from tests.conftest import require
from tests.installer.archives import PROJECT, Sender
from tests.scenarios.booted import Host, booted, can_boot
from tests.scenarios.conftest import BIN, Installation
from tests.scenarios.derived import derived_archive, sender_like
from tests.waiting import wait_for

SITE = Path("/srv/gpt-oss")
UNIT = "gpt-oss.service"
NEXT = f"{int(SCHEMA) + 1:04}"
TABLES, MIGRATION = "appliance/database/tables.py", f"appliance/database/migrations/versions/r{NEXT}_test.py"
# A later release: one more table.
NEXT_TABLES = """
sa.Table("later", metadata, sa.Column("id", sa.Integer, primary_key=True))
"""
NEXT_MIGRATION = f"""
import sqlalchemy as sa
from alembic import op
revision = "{NEXT}"
down_revision = "{SCHEMA}"
def upgrade() -> None:
    op.create_table("later", sa.Column("id", sa.Integer, primary_key=True))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def host(place: Path, demo: Installation) -> Iterator[Host]:
    """A host on which systemd has just booted and nothing is installed."""
    trial = place / "trial"
    trial.mkdir()
    require(can_boot(trial), "a machine on which a test may boot systemd in namespaces")
    here = place / "host"
    here.mkdir()
    keep = {place, demo.archive.parent, PROJECT, Path(sys.prefix)}
    with booted(here, keep=sorted(path for path in keep if path.is_relative_to("/tmp"))) as host:
        quick = Path("/etc/systemd/system", f"{UNIT}.d")  # an operator's own change, which also makes the tests faster
        host.run("mkdir", quick)
        host.run("sh", "-c", f"printf '[Service]\\nRestartSec=100ms\\n' > {quick}/quick.conf")
        yield host


@pytest.fixture(scope="module")
def sender(place: Path, demo: Installation) -> Sender:
    return sender_like(demo.root.parent, place / "sender")


def install(host: Host, archive: Path, sender: Sender) -> str:
    return host.run(BIN / "installer", "install", archive, "--root", sender.root_path, "--prefix", SITE).stdout


def appliance(host: Host, *arguments: str, check: bool = True) -> str:
    return host.run(SITE / "current/venv/bin/appliance", *arguments, "--home", SITE, check=check).stdout


def is_ready(host: Host) -> bool:
    asked = ("curl", "--silent", "--fail", "--max-time", "5", "http://127.0.0.1:8080/readyz")
    return host.run(*asked, check=False).returncode == 0


def current(host: Host) -> str:
    return host.run("readlink", SITE / "current").stdout.strip().removeprefix("releases/")


def actions(host: Host) -> list[tuple[str, str]]:
    """Action and subject of every event of the record."""
    program = (
        "import json, sqlite3, sys; database = sqlite3.connect(sys.argv[1]); "
        "print(json.dumps(database.execute('SELECT action, subject FROM audit_events ORDER BY sequence').fetchall()))"
    )
    done = host.run(sys.executable, "-c", program, SITE / "state/database/appliance.sqlite3")
    return [(action, subject) for action, subject in json.loads(done.stdout)]


def test_root_makes_a_service_of_a_site_that_serves(host: Host, demo: Installation) -> None:
    """tests/scenarios/test_operators_guide.py does the same by `installer install`."""
    host.run("cp", "-a", demo.site, SITE)
    host.run("chown", "-R", "root:root", SITE)
    host.run(BIN / "installer", "own", "--prefix", SITE)
    said = host.run(BIN / "installer", "service", "install", "--prefix", SITE).stdout
    assert "The service gpt-oss is enabled and started; it listens on 127.0.0.1:8080." in said
    wait_for(lambda: is_ready(host), said=host.journal)
    assert host.run("systemctl", "is-enabled", UNIT, "gpt-oss.socket").stdout.split() == ["enabled", "enabled"]
    journal = host.journal()
    assert "Silent: " in journal
    assert "Not in force" not in journal, "the unit takes a layer of silence away"


def test_the_processes_have_the_unit_s_rights_alone(host: Host) -> None:
    pid = host.property(UNIT, "MainPID")
    status = dict(re.findall(r"^(\w+):\s+(.*)$", host.run("cat", f"/proc/{pid}/status").stdout, re.M))
    account = host.run("id", "--user", "gpt-oss").stdout.strip()
    assert set(status["Uid"].split()) == {account}
    assert account != "0"
    assert (int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, "1", "2")
    inside = ("nsenter", f"--target={pid}", "--mount")
    refused = host.run(*inside, "touch", SITE / "releases/x", SITE / "current/x", "/srv/x", check=False).stderr
    assert refused.count("Read-only file system") == 3


def test_making_it_again_changes_nothing_of_a_service_that_runs(host: Host) -> None:
    pid = host.property(UNIT, "MainPID")
    again = host.run(BIN / "installer", "service", "install", "--prefix", SITE, "--json").stdout
    assert json.loads(again)["changed"] == []
    assert host.property(UNIT, "MainPID") == pid


def test_a_later_release_upgrades_the_database_in_place(host: Host, demo: Installation, sender: Sender) -> None:
    archive = derived_archive(demo.archive, sender, "later", later())
    said = install(host, archive, sender)
    assert "systemctl restart gpt-oss.service" in said
    host.run("systemctl", "restart", UNIT)  # returns when the release on trial serves
    assert is_ready(host)
    assert current(host) == "later"
    assert ("schema_upgraded", NEXT) in actions(host)
    journal = host.journal()
    assert journal.index("serving gpt-oss-demo later") < journal.index("the database was upgraded"), (
        "the database was upgraded before the model had loaded, so there was no way back"
    )
    assert host.run("ls", SITE / "service").stdout.split() == ["keeper"], "the trial is over"
    assert json.loads(appliance(host, "audit", "verify", "--json"))["intact"] is True


def test_a_release_that_crashes_is_left_for_the_one_before(host: Host, demo: Installation, sender: Sender) -> None:
    broken = {**later(), "appliance/runtime/serve.py": b"raise SystemExit('broken on purpose')\n"}
    archive = derived_archive(demo.archive, sender, "broken", broken)
    install(host, archive, sender)
    assert current(host) == "broken"
    host.run("systemctl", "restart", UNIT, check=False)
    wait_for(lambda: current(host) == "later" and is_ready(host), said=host.journal)
    why = "Release broken did not become ready in 3 starts, so release later is served again"
    assert f"{why}." in host.journal()
    wait_for(lambda: ("release_returned", "broken") in actions(host), said=host.journal)
    host.run("systemctl", "restart", UNIT)
    wait_for(lambda: is_ready(host), said=host.journal)
    assert actions(host).count(("release_returned", "broken")) == 1, "recorded once, not at every start"


def test_the_release_before_refuses_an_upgraded_database_and_names_the_way_back(host: Host) -> None:
    host.run(BIN / "installer", "rollback", "--prefix", SITE, "--to", oldest(host))
    host.run("systemctl", "restart", UNIT, check=False)
    wait_for(
        lambda: f"a newer release has upgraded the database to the schema {NEXT}" in host.journal(), said=host.journal
    )
    host.run(BIN / "installer", "rollback", "--prefix", SITE)
    host.run("systemctl", "restart", UNIT)
    wait_for(lambda: is_ready(host), said=host.journal)


def test_removing_the_service_leaves_the_site(host: Host) -> None:
    said = host.run(BIN / "installer", "service", "remove", "--prefix", SITE).stdout
    assert "The service gpt-oss is stopped and removed." in said
    assert not is_ready(host)
    left = host.run("find", "/etc/systemd/system", "-name", "gpt-oss*").stdout.split()
    assert left == [f"/etc/systemd/system/{UNIT}.d"], "the operator's own change stays"
    assert f"Your own changes in {left[0]} stay, too." in said
    assert json.loads(appliance(host, "audit", "verify", "--json"))["intact"] is True
    again = host.run(BIN / "installer", "service", "remove", "--prefix", SITE).stdout
    assert "No service serves" in again


def later() -> dict[str, bytes]:
    """The sources of a release with another schema."""
    tables = (PROJECT / TABLES).read_bytes()
    here, there = (f'SCHEMA = "{revision}"'.encode() for revision in (SCHEMA, NEXT))
    changed = tables.replace(here, there) + NEXT_TABLES.encode()
    assert changed.count(there) == 1
    return {TABLES: changed, MIGRATION: NEXT_MIGRATION.encode()}


def oldest(host: Host) -> str:
    releases = json.loads(host.run(BIN / "installer", "status", "--prefix", SITE, "--json").stdout)["releases"]
    return str(next(release["version"] for release in releases if release["version"] not in ("later", "broken")))
