"""What the commands of every group share."""

from __future__ import annotations

import threading

import pytest

from appliance.command import progress_bar


def test_a_bar_on_a_terminal_draws_without_a_thread(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A verification forks while it is shown, and a process of two threads may come to a standstill in the child."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any output for a terminal's
    before = threading.active_count()
    with progress_bar("Verifying", hidden=False) as progress:
        progress(3, 10)
        assert threading.active_count() == before
    assert "Verifying" in capfd.readouterr().err
