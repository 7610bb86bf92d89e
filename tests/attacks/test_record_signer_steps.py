"""Attacks that strike while the signer works, between any two of its steps.

A step is a place where the signer reads or writes. The attack happens just before or just after it; what the signer
then does is left to it. By its next turn it must have refused, and it must be able to go on after an acknowledgement.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

import pytest

from appliance.audit import ledger_file, signer, signing_checks
from appliance.audit.fault import LogBrokenError
from appliance.audit.findings import acknowledge
from appliance.audit.ledger import read_ledger, read_tail
from appliance.audit.note import CheckpointError
from appliance.audit.signer import LogSigner
from appliance.audit.verify import verify_log
from tests.appliance.records import SYSTEM, fill
from tests.attacks.test_record_signer import (
    Site,
    alter_the_ledger,
    cut_the_end,
    delete_everything_signed,
    delete_the_ledger,
    finished,
    roll_the_database_back,
    shorten_the_ledger,
    site,
)

__all__ = ["finished", "site"]  # fixtures

STEPS: list[tuple[ModuleType, str]] = [
    (signing_checks, "check_stretch"), (signer, "check_published"), (signer, "check_daily"),
    (ledger_file, "append_note"), (signer, "store_note"), (signer, "write_daily"),
]  # fmt: skip
ATTACKS = [
    cut_the_end, delete_everything_signed, delete_the_ledger, roll_the_database_back, alter_the_ledger,
    shorten_the_ledger,
]  # fmt: skip


def strike_at(
    step: tuple[ModuleType, str], when: str, strike: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Call `strike` once, before or after the signer's next step of this kind."""
    module, name = step
    real = getattr(module, name)
    waiting = [strike]

    def struck(*args: object, **options: object) -> object:
        if when == "before" and waiting:
            waiting.pop()()
        result = real(*args, **options)
        if when == "after" and waiting:
            waiting.pop()()
        return result

    monkeypatch.setattr(module, name, struck)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
def test_an_attack_within_a_turn_of_the_signer_is_found_and_can_be_acknowledged(
    site: Site, attack: Callable[[Site], None], step: tuple[ModuleType, str], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = LogSigner(site.log, site.state)
    running.sign()
    fill(site.log, 1)
    strike_at(step, when, lambda: attack(site), monkeypatch)
    with suppress(LogBrokenError, CheckpointError):
        running.sign()
    with pytest.raises(LogBrokenError):
        running.sign()
    tail = read_tail(site.state / "audit")
    assert tail is not None
    assert tail[1] is not None
    acknowledge(site.log, tail[1], tail[1].id, "it was the test", by=SYSTEM)
    assert running.sign() is not None
    fill(site.log, 1)
    assert running.sign() is not None
    assert LogSigner(site.log, site.state).sign() is not None  # a restart
    assert_signed_again(site, tail[1].id)


def assert_signed_again(site: Site, finding: str) -> None:
    """One acknowledged finding later, everything is as it should be."""
    state = read_ledger(site.state / "audit")
    assert state is not None
    assert [found.id for found in state.findings] == [finding]
    assert verify_log(site.database, site.state).faults == ()


def test_a_change_that_leaves_no_trace_in_the_files_times_is_found_within_a_day(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes can fall into one tick of the kernel's clock."""
    running = LogSigner(site.log, site.state)
    running.sign()
    stamp = ledger_file.stamp_of(site.state / "audit")
    alter_the_ledger(site)
    monkeypatch.setattr(ledger_file, "stamp_of", lambda _: stamp)
    monkeypatch.setattr(signer, "REREAD_TURNS", 1)
    with pytest.raises(LogBrokenError):
        running.sign()
