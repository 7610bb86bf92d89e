"""The signer's other notes in its ledger, beside signed checkpoints. Their first line says what kind they are.

    gpt-oss-appliance/audit/0123456789abcdef finding
    time 2026-11-23T01:37:24.123456Z
    previous 5a0c..
    {"faults":["events 91 to 100: missing at the end"]}

    — gpt-oss-appliance/audit/0123456789abcdef d8pPtB...

- began: the ledger begins; names the ``key``, and what an earlier release had signed (``size``, ``root``).
- key: the key so far hands over to ``key``.
- finding: something is not what was signed; nothing is signed until it is acknowledged.
- acknowledged: a reviewer (``by``, ``reason``, ``event``) has seen the ``finding``. Signing begins anew with ``key``,
  at ``size`` and ``root``; the events in ``accepted`` are known to be damaged, ``strays`` are files of a lost ledger.
- clock: the clock was set back; or, while the signer ran, ahead: it then had to show the time ``expected``.
- repaired: the last line was cut off by a power failure and was removed.

A finding only warns, so it counts with any signature or none. Everything else must be signed by the key in force.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from appliance.audit.note import CheckpointError
from appliance.database.transactions import as_iso, from_iso

Kind = Literal["began", "key", "finding", "acknowledged", "clock", "repaired"]
_KINDS = frozenset(get_args(Kind))
BEGINNING = "0" * 64  # ``previous`` of a ledger's first entry


@dataclass(frozen=True)
class Statement:
    """One of the above; ``facts`` are JSON values."""

    origin: str
    kind: Kind
    time_us: int
    previous: str
    facts: dict[str, Any] = field(default_factory=dict)

    def body(self) -> str:
        """The text that is signed."""
        facts = json.dumps(self.facts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        return f"{self.origin} {self.kind}\ntime {as_iso(self.time_us)}\nprevious {self.previous}\n{facts}\n"


def is_statement(body: str) -> bool:
    """Whether the text of a note calls itself a statement."""
    return body.partition("\n")[0].rpartition(" ")[2] in _KINDS


def parse_statement(body: str) -> Statement:
    """The statement in the text of a note.

    Raises:
        CheckpointError: it is none.
    """
    try:
        first, time_line, previous_line, facts, _ = body.split("\n")
        origin, _, kind = first.rpartition(" ")
        time_us = from_iso(time_line.removeprefix("time "))
        previous = previous_line.removeprefix("previous ")
        statement = Statement(origin, cast("Kind", kind), time_us, previous, dict(json.loads(facts)))
        exact = kind in _KINDS and statement.body() == body
    except (ValueError, TypeError, RecursionError) as exc:
        raise CheckpointError("not a statement of the signer") from exc
    if not exact:
        raise CheckpointError("not a statement of the signer")
    return statement
