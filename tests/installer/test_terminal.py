"""The progress of a long command is drawn on a terminal; elsewhere it is a few plain lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from installer.terminal import StageLines


def drawn(*, terminal: bool, fails: bool = False) -> str:
    """What two stages draw; the size of the second is not known."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, color_system=None, width=120)
    try:
        with StageLines(console) as lines:
            lines.stage("Verifying", 4_000)
            lines.bytes_done(1_000)
            if fails:
                raise RuntimeError
            lines.bytes_done(3_000)
            lines.stage("Assembling")
    except RuntimeError:
        assert fails
    return out.getvalue()


def last_line(text: str, stage: str) -> str:
    return [line for line in text.splitlines() if stage in line][-1]


def test_each_stage_has_a_line_with_its_bytes_if_their_number_is_known() -> None:
    text = drawn(terminal=True)
    assert "4.0/4.0 kB" in last_line(text, "Verifying")
    assert "B" not in last_line(text, "Assembling")


def test_a_stage_that_failed_is_not_drawn_as_done() -> None:
    assert "1.0/4.0 kB" in last_line(drawn(terminal=True, fails=True), "Verifying")


@pytest.mark.parametrize("fails", [False, True])
def test_where_there_is_no_terminal_each_stage_is_one_plain_line(fails: bool) -> None:
    lines = ["Verifying (4.0 kB)", "Assembling"]
    assert drawn(terminal=False, fails=fails).splitlines() == (lines[:1] if fails else lines)


def test_a_long_stage_says_how_far_it_is_at_most_once_in_ten_seconds() -> None:
    out, clock = io.StringIO(), [0.0]
    with StageLines(Console(file=out, force_terminal=False), now=lambda: clock[0]) as lines:
        lines.stage("Verifying", 13_000_000_000)
        for _ in range(26):
            clock[0] += 1
            lines.bytes_done(500_000_000)
        lines.stage("Assembling")
    assert out.getvalue().splitlines() == [
        "Verifying (13.0 GB)", "Verifying: 5.0 GB of 13.0 GB", "Verifying: 10.0 GB of 13.0 GB", "Assembling",
    ]  # fmt: skip
