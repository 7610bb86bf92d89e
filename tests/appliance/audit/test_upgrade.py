"""A site that a release without a ledger made and signed, opened by today's.

``earlier_site.tar.gz`` holds the ``state/`` of a site made by commit 57270c6, the last that kept the signing key in
``state/keys``: `users add ann --role user`, `audit checkpoint`, `users add bob --role admin`, `audit checkpoint`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from appliance.audit.checkpoint import integrity
from appliance.audit.ledger import read_ledger
from appliance.audit.log import AuditLog
from appliance.audit.signer import LogSigner
from appliance.audit.verify import verify_log
from appliance.config import init_state, load_config
from appliance.database.transactions import open_database

EARLIER_SITE = Path(__file__).with_name("earlier_site.tar.gz")


def test_key_at_its_old_place_is_taken_over_and_is_no_finding(tmp_path: Path) -> None:
    home = tmp_path / "site"
    home.mkdir()
    subprocess.run(["tar", "-xzf", EARLIER_SITE, "-C", home, "--no-same-owner"], check=True)
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
