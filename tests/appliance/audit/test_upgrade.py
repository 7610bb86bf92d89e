"""A site that a release without a ledger made and signed, opened by today's: the code of that release makes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.audit.checkpoint import integrity
from appliance.audit.ledger import read_ledger
from appliance.audit.log import AuditLog
from appliance.audit.signer import LogSigner
from appliance.audit.verify import verify_log
from appliance.config import init_state, load_config
from appliance.database import open_database
from tests.conftest import require

PROJECT = Path(__file__).parents[3]
BEFORE = "57270c664022c56fb9b5f9b27c06934c934f639d"  # the last commit that kept the signing key in state/keys
# An editable installation would lead an import of `appliance` to this tree.
COMMAND = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
sys.path.insert(0, sys.argv.pop(1))
from appliance.cli import main
main()
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the earlier release."""
    path = tmp_path_factory.mktemp("earlier")
    command = ["git", "-c", "safe.directory=*", "archive", BEFORE, "appliance"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False)
    require(done.returncode == 0, f"the history of this repository back to {BEFORE[:7]}")
    subprocess.run(["tar", "-x", "-C", str(path)], input=done.stdout, check=True)
    return path


def test_key_at_its_old_place_is_taken_over_and_is_no_finding(earlier: Path, tmp_path: Path) -> None:
    home = tmp_path / "site"
    home.mkdir()
    for words in ("users add ann --role user", "audit checkpoint", "users add bob --role admin", "audit checkpoint"):
        command = [sys.executable, "-c", COMMAND, str(earlier), *words.split(), "--home", str(home)]
        subprocess.run(command, capture_output=True, check=True)
    old = (home / "state" / "keys" / "audit.key").read_bytes()
    assert not (home / "state" / "signer").exists()

    init_state(home)  # as every start and every command does
    config = load_config(home)
    database = open_database(config.database_url)
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
    database.close()
