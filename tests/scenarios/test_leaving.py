"""A real site is repaired file by file, is not removed while it is served, and leaves with its record exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scenarios.conftest import Installation, command, installed_again, serving
from tests.scenarios.test_damaged_site import SHARD, alter


@pytest.fixture
def site(demo: Installation, tmp_path: Path) -> Installation:
    return installed_again(demo, tmp_path / "site")


def test_a_served_site_stays_and_then_leaves_with_its_record(site: Installation, tmp_path: Path) -> None:
    out, home = tmp_path / "record.jsonl", site.site
    purge: list[str | Path] = ["installer", "uninstall", "--purge", "--export", out, "--yes", "--prefix", home]
    with serving(site):
        for refused in (command(*purge, check=False), command("installer", "uninstall", "--prefix", home, check=False)):
            assert refused.returncode == 1
            assert f"the appliance serves {home} now: stop it, then run this again" in refused.stderr
        assert not out.exists()
    done = command(*purge, "--json")
    assert json.loads(done.stdout)["left"] == []
    assert not home.exists()
    checked = command("appliance", "audit", "check", out, "--key", f"{out}.pub")
    assert "appliance_started" in out.read_text()
    assert checked.returncode == 0


def test_weights_and_code_are_put_back_and_served(site: Installation) -> None:
    release = (site.site / "current").resolve()
    code = next(release.rglob("appliance/cli.py"))
    alter(site, keep_time=False)
    code.unlink()  # it shares its file with the demo's own site
    code.write_text("raise SystemExit('altered')\n")
    repair: list[str | Path] = [
        "installer",
        "repair",
        site.archive,
        "--root",
        site.root,
        "--prefix",
        site.site,
        "--json",
    ]
    told = json.loads(command(*repair).stdout)
    assert {(d["path"], d["fault"]) for d in told["repaired"]} == {
        (SHARD, "differs"), (str(code.relative_to(release)), "differs"),
    }  # fmt: skip
    assert told["copied_bytes"] == (release / SHARD).stat().st_size
    command("installer", "verify", "--prefix", site.site, "--root", site.root)
    with serving(site):
        pass
