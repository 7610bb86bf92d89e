"""The way at full size, tried with a shape that is not: every step runs, is timed, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.control_group import Held, limited
from bench.fullsize import Step, calculated, main, stages, table
from tests.conftest import require
from tests.unprivileged import let_through

STEPS = ("checkpoint", "build", "verify", "install", "self-test", "first start and answer")


def test_a_small_model_goes_all_the_way(own_wheel: Path, tmp_path: Path) -> None:
    """With random weights, whose experts are chosen by a hair, from a checkpoint to a recorded answer."""
    let_through(tmp_path)
    options = ["--shape", "tiny", "--memory", "0", "--work", str(tmp_path), "--own-wheel", str(own_wheel)]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny in no control group; cp of the archive: ")
    figures = {line[:24].rstrip(): line[24:].split() for line in lines[2 : 2 + len(STEPS)]}
    assert tuple(figures) == STEPS
    assert all(float(seconds) > 0 for seconds, *_ in figures.values())
    assert "install: Verifying and copying: " in done.stdout
    assert "120b by arithmetic: 65.2 GB of weights" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_share_of_cp_is_more_the_faster_a_step_is() -> None:
    steps = [Step("quick", 2.0, 10**9, Held(peak_bytes=3 * 10**9, faults=5)), Step("slow", 8.0, 2 * 10**9, Held())]
    _, quick, slow = table(steps, lambda size_bytes: size_bytes / 1e9)
    assert quick.split() == ["quick", "2.0", "1.00", "0.50", "0.00", "3.00", "0.00", "5"]
    assert slow.split()[3] == "0.25"


def test_long_stages_are_named_and_the_copy_is_compared_with_cp() -> None:
    took_s = {"Verifying and copying": 4.0, "Assembling the release": 0.2, "Testing it with its known answers": 1.5}
    assert list(stages([Step("install", 6.0, 3 * 10**9, Held(), took_s)], lambda size_bytes: size_bytes / 1e9)) == [
        "install: Verifying and copying 4.0 s, Testing it with its known answers 1.5 s",
        "install: Verifying and copying: 0.75 of cp",
    ]


def test_another_shape_is_calculated_from_the_speeds() -> None:
    first, second, largest = calculated("120b", [Step("install", 10.0, 10**10, Held())])
    assert first == "120b by arithmetic: 65.2 GB of weights"
    assert second.split() == ["install", "65", "s", "at", "1.00", "GB/s"]
    assert "1.69 GB packed" in largest


def can_limit() -> bool:
    try:
        with limited(1 << 30, "trial"):
            return True
    except RuntimeError:
        return False


def test_a_control_group_says_what_was_held_in_it() -> None:
    require(can_limit(), "root, and a control group for memory that can be written")
    with limited(1 << 30, "test") as held:
        kept = bytearray(os.urandom(1 << 20) * 64)
        while held.own_bytes < len(kept):  # the group is looked at again and again while it lasts
            os.sched_yield()
    assert held.own_bytes >= 64 << 20
    assert held.peak_bytes == 0 or held.peak_bytes >= 64 << 20
    assert held.read_bytes >= 0


def test_without_groups_the_benchmark_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.control_group._VERSIONS", ())
    with pytest.raises(RuntimeError, match="no control group"), limited(1 << 30, "test"):
        pass
