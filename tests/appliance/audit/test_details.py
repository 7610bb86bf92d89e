"""The details of events are stored byte for byte as the releases before this one stored them, and read back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.audit.log import AuditLog
from appliance.database.transactions import open_database
from tests.appliance.audit.details_scenario import events_of_every_kind

VECTORS = Path(__file__).with_name("details_vectors.jsonl")
DRAWN = (  # what no two runs share
    (re.compile(r"[0-9a-f]{64}"), "sha256"),
    (re.compile(r'(?<="process":)"[^"]*"'), '"a process"'),
    (re.compile(r'(?<="note":)"([^"\\]|\\.)*"'), '"a note"'),
    (re.compile(r"(?<=, of )2[-0-9]{9}T[:.0-9]*Z"), "a time"),
    (re.compile(r"\"/[^\"]*/releases/"), '"/releases/'),
)


def shown(details: str) -> str:
    for pattern, word in DRAWN:
        details = pattern.sub(word, details)
    return details


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    database = open_database(f"sqlite:///{tmp_path}/record.sqlite3")
    yield AuditLog(database)
    database.close()


def test_details_are_stored_as_before_they_were_typed(log: AuditLog, tmp_path: Path) -> None:
    events_of_every_kind(log, tmp_path)
    events = [log.get(number) for number in range(1, log.size() + 1)]
    made = [
        [event.header.action, event.header.outcome, None if event.sealed is None else shown(event.sealed.details)]
        for event in events
    ]
    assert made == [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]
