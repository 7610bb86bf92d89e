"""Evidence proves what it says on another machine, and nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.audit.checkpoint import integrity
from appliance.audit.details.review import EventsExported
from appliance.audit.erasure import erase
from appliance.audit.evidence import EvidenceError, export_evidence, verify_evidence
from appliance.audit.keys import stage_key
from appliance.audit.log import AuditLog, EventNotFoundError, RecordError
from appliance.database.transactions import Database
from tests.appliance.records import SYSTEM, fill


@pytest.fixture
def exported(sqlite: Database, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """A file with the events 2, 3 and 4 (the last without content) of nine, and the log's public key."""
    log = AuditLog(sqlite)
    fill(log, 9)
    data = export_evidence(log, tmp_path, [2, 3, 4], by=SYSTEM)
    return json.loads(data), (tmp_path / "keys" / "audit.pub").read_text()


def test_file_proves_its_events(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 9)
    data = export_evidence(log, tmp_path, [2, 4, 9], by=SYSTEM)
    proven = verify_evidence(data, (tmp_path / "keys" / "audit.pub").read_text())
    assert [event.header for event in proven.events] == [log.get(n).header for n in (2, 4, 9)]
    assert [event.content for event in proven.events] == [log.get(n).content for n in (2, 4, 9)]
    assert proven.events[0].content is not None
    assert proven.events[0].content.text == "word2 said"
    assert (proven.checkpoint.size, proven.checkpoint.root) == (10, log.root(10))


def test_export_is_an_event_and_shows_in_the_integrity_state(log: AuditLog, tmp_path: Path) -> None:
    log = AuditLog(log.database, clock_us=lambda: 77)
    fill(log, 2)
    export_evidence(log, tmp_path, [1, 2], by=SYSTEM, clock_us=lambda: 77)
    event = log.get(3)
    assert event.header.action == "evidence_exported"
    assert event.content is not None
    assert event.content.details == EventsExported(sequences=(1, 2), with_content=True)
    assert integrity(log, tmp_path).exported_us == 77


def test_content_can_be_left_out(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    data = export_evidence(log, tmp_path, [1], by=SYSTEM, with_content=False)
    assert b"word1" not in data
    (event,) = verify_evidence(data, (tmp_path / "keys" / "audit.pub").read_text()).events
    assert (event.header, event.content) == (log.get(1).header, None)


def test_erased_event_is_still_proven(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    erase(log, 1, 1, by=SYSTEM, reason="for this test")
    data = export_evidence(log, tmp_path, [1], by=SYSTEM)
    (event,) = verify_evidence(data, (tmp_path / "keys" / "audit.pub").read_text()).events
    assert (event.header.sequence, event.content) == (1, None)


def test_unknown_event_makes_no_file_and_no_event(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 2)
    with pytest.raises(EventNotFoundError):
        export_evidence(log, tmp_path, [1, 3], by=SYSTEM)
    assert log.size() == 2


def test_no_file_when_the_export_cannot_be_recorded(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 2)
    monkeypatch.setattr(log, "damage", "for this test")
    with pytest.raises(RecordError):
        export_evidence(log, tmp_path, [1], by=SYSTEM)


def forged_header(body: dict[str, Any]) -> None:
    body["events"][1]["header"] = body["events"][1]["header"].replace('"ada"', '"eve"')


def forged_content(body: dict[str, Any]) -> None:
    body["events"][1]["content"] = body["events"][1]["content"].replace("word3", "other")


def forged_salt(body: dict[str, Any]) -> None:
    body["events"][1]["salt"] = base64.b64encode(b"s" * 32).decode()


def exchanged_proofs(body: dict[str, Any]) -> None:
    body["events"][1]["proof"], body["events"][2]["proof"] = body["events"][2]["proof"], body["events"][1]["proof"]


def content_for_event_without(body: dict[str, Any]) -> None:
    body["events"][2].update(salt=body["events"][1]["salt"], content=body["events"][1]["content"])


@pytest.mark.parametrize(
    ("forge", "sequence"),
    [(forged_header, 3), (forged_content, 3), (forged_salt, 3), (exchanged_proofs, 3), (content_for_event_without, 4)],
)
def test_rejects_forged_event_and_names_it(
    exported: tuple[dict[str, Any], str], forge: Callable[[dict[str, Any]], None], sequence: int
) -> None:
    body, key = exported
    forge(body)
    with pytest.raises(EvidenceError) as caught:
        verify_evidence(json.dumps(body).encode(), key)
    assert caught.value.sequence == sequence


@pytest.mark.parametrize(
    "forge",
    [
        lambda body: body.update(checkpoint=body["checkpoint"].replace("\n10\n", "\n11\n")),
        lambda body: body.update(format="something else"),
        lambda body: body.pop("checkpoint"),
        lambda body: body["events"][0].pop("proof"),
        lambda body: body["events"][0].update(header='{"v":1}'),
        lambda body: body["events"][0].update(proof=["!"]),
        lambda body: body.update(events=3),
        lambda body: body["events"][1].pop("salt"),
    ],
)
def test_rejects_file_that_is_no_evidence(
    exported: tuple[dict[str, Any], str], forge: Callable[[dict[str, Any]], None]
) -> None:
    body, key = exported
    forge(body)
    with pytest.raises(EvidenceError):
        verify_evidence(json.dumps(body).encode(), key)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_rejects_bytes_that_are_no_evidence(exported: tuple[dict[str, Any], str], data: bytes) -> None:
    with pytest.raises(EvidenceError):
        verify_evidence(data, exported[1])


def test_key_in_the_file_is_not_trusted(exported: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    body, _ = exported
    other_state = tmp_path / "other"
    other = str(stage_key(other_state, body["public_key"].split("+")[0]).verifier)
    with pytest.raises(EvidenceError, match="not signed by"):
        verify_evidence(json.dumps(body).encode(), other)


def test_what_is_missing_between_chosen_events_is_named(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 9)
    data = export_evidence(log, tmp_path, [2, 3, 6, 9], by=SYSTEM, with_content=False)
    proven = verify_evidence(data, (tmp_path / "keys" / "audit.pub").read_text()).proven
    assert (proven.first, proven.last, proven.events, proven.is_complete) == (2, 9, 4, False)
    assert proven.missing == [(4, 5), (7, 8)]
    assert (proven.with_content, proven.absent, proven.left_out) == (0, 4, True)


def test_an_event_twice_is_no_evidence(exported: tuple[dict[str, Any], str]) -> None:
    body, key = exported
    body["events"].append(body["events"][0])
    with pytest.raises(EvidenceError, match="twice"):
        verify_evidence(json.dumps(body).encode(), key)


def test_a_broken_log_is_exported_as_far_as_it_was_signed(sqlite: Database, tmp_path: Path) -> None:
    """People need evidence most when somebody has damaged the log."""
    log = AuditLog(sqlite)
    fill(log, 5)
    export_evidence(log, tmp_path, [1], by=SYSTEM)  # signs six events
    with sqlite.write() as connection:
        connection.exec_driver_sql("UPDATE audit_events SET time_us = 'x', outcome = 7 WHERE sequence = 3")
        connection.exec_driver_sql("UPDATE audit_events SET via = CAST(x'ff' AS TEXT) WHERE sequence = 4")
    data = export_evidence(log, tmp_path, [2, 3, 4, 5], by=SYSTEM)
    verified = verify_evidence(data, (tmp_path / "keys" / "audit.pub").read_text())
    assert [event.header.sequence for event in verified.events] == [2, 5]
    assert (verified.proven.damaged, verified.proven.is_complete, verified.checkpoint.size) == ([3, 4], False, 6)
    assert "event 3" in (verified.proven.log_fault or "")


def test_thousands_of_events_are_chosen_at_once(sqlite: Database, tmp_path: Path) -> None:
    log = AuditLog(sqlite)
    fill(log, 2500)
    data = export_evidence(log, tmp_path, range(1, 2501), by=SYSTEM, with_content=False)
    assert verify_evidence(data, (tmp_path / "keys" / "audit.pub").read_text()).proven.is_complete
