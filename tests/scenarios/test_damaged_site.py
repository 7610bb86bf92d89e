"""A real site whose weights were altered on disk: every command that matters says so, and the archive repairs it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.scenarios.conftest import Installation, command, installed_again, serving
from tests.unprivileged import USER_OPTION

SHARD = "model/cpu/weights-00001.bin"
FOUND_WITHIN_S = 120.0


@pytest.fixture
def site(demo: Installation, tmp_path: Path) -> Installation:
    return installed_again(demo, tmp_path / "site")


def alter(site: Installation, *, keep_time: bool) -> None:
    """Write into a shard of the weights, which store and release share."""
    path = (site.site / "current").resolve() / SHARD
    before = path.stat()
    (blob,) = (found for found in (site.site / "store").rglob("*") if found.samefile(path))
    data = bytearray(path.read_bytes())
    data[5000:5016] = b"X" * 16
    for link in (blob, path):
        link.unlink()
    blob.write_bytes(data)
    blob.chmod(0o444)
    os.link(blob, path)
    if keep_time:
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))


def run(site: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([site.appliance, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_altered_weights_are_named_and_the_archive_repairs_them(site: Installation) -> None:
    alter(site, keep_time=False)
    home, release = str(site.site), str(site.site / "current")
    doctor = run(site, "doctor", "--home", home)
    assert doctor.returncode == 1
    assert f"is not as it was installed: {SHARD} differs" in doctor.stdout
    for refused in (run(site, "serve", "--home", home, "--port", "0"), run(site, "selftest", "--release", release)):
        assert refused.returncode == 1
        assert f"{SHARD} differs" in refused.stderr
    status = command("installer", "status", "--prefix", home, check=False)
    assert status.returncode == 1
    assert f"{SHARD} differs" in status.stdout
    repaired = command("installer", "install", site.archive, "--root", site.root, "--prefix", home, *USER_OPTION)
    assert "was damaged and is repaired" in repaired.stdout
    assert run(site, "selftest", "--release", release).returncode == 0
    report = json.loads(run(site, "doctor", "--home", home, "--json").stdout)
    assert [f["is_well"] for f in report["findings"] if f["subject"] == "release"] == [True]
    again = command("installer", "install", site.archive, "--root", site.root, "--prefix", home, *USER_OPTION)
    assert "nothing was changed" in again.stdout
    command("installer", "verify", "--prefix", home, "--root", site.root)


def test_what_the_start_overlooks_is_found_later_and_no_module_of_the_site_runs(site: Installation) -> None:
    alter(site, keep_time=True)
    (site.site / "flask.py").write_text("raise SystemExit('a module beside the releases ran')\n")
    with serving(site):
        text = newest_comparison(site.site / "state" / "database" / "appliance.sqlite3")
    assert f"is not as it was installed: {SHARD} differs" in text


def newest_comparison(database: Path) -> str:
    """The text of the newest event release_compared, as soon as there is one."""
    query = "SELECT text FROM audit_contents JOIN audit_events USING (sequence) WHERE action = 'release_compared'"
    deadline_s = time.monotonic() + FOUND_WITHIN_S
    while time.monotonic() < deadline_s:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            rows = connection.execute(query).fetchall()
        connection.close()
        if rows:
            return str(rows[-1][0])
        time.sleep(0.2)
    pytest.fail("the comparison was not recorded")
