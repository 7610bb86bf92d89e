"""Temporary files of killed commands are collected: our own old ones, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from installer.cli import main
from installer.scratch import OLD_S, collect_scratch

AGO_S = 2 * OLD_S


def made(path: Path, age_s: float) -> Path:
    (path / "trust" / "root_history").mkdir(parents=True)
    (path / "trust" / "timestamp.json").write_text("{}")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_command_collects_what_killed_ones_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old, young = made(tmp_path / "airgap-trust-old", AGO_S), made(tmp_path / "airgap-trust-new", 60)
    CliRunner().invoke(main, ["status", "--prefix", str(tmp_path / "absent")])
    assert (old.exists(), young.exists()) == (False, True)


def test_a_link_is_not_followed_and_stays(tmp_path: Path) -> None:
    goal = made(tmp_path / "goal", AGO_S)
    (tmp_path / "airgap-trust-link").symlink_to(goal)
    os.utime(tmp_path / "airgap-trust-link", (time.time() - AGO_S,) * 2, follow_symlinks=False)
    inner = made(tmp_path / "airgap-trust-old", AGO_S)
    (inner / "out").symlink_to(goal)
    os.utime(inner, (time.time() - AGO_S,) * 2)
    assert collect_scratch(tmp_path, time.time()) == (inner,)
    assert (goal / "trust" / "timestamp.json").exists()
    assert (tmp_path / "airgap-trust-link").is_symlink()


def test_a_file_and_another_name_stay(tmp_path: Path) -> None:
    (tmp_path / "airgap-trust-file").touch()
    os.utime(tmp_path / "airgap-trust-file", (0, 0))
    made(tmp_path / "mine", AGO_S)
    assert collect_scratch(tmp_path, time.time()) == ()


@pytest.mark.skipif("os.geteuid() != 0", reason="only root can give a directory away")
def test_another_user_s_directory_stays(tmp_path: Path) -> None:
    theirs = made(tmp_path / "airgap-trust-theirs", AGO_S)
    os.chown(theirs, 54321, 54321)
    assert collect_scratch(tmp_path, time.time()) == ()
    assert theirs.exists()
