"""The keys to which a trusted key has handed over. Each hand-over is a note that the earlier key signed
(statement.py)."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.audit.note import CheckpointError, Verifier, parse_verifier, verify_note
from appliance.audit.statement import is_statement, parse_statement

MAX_HEIRS = 1000


def keys_after(trusted: Verifier, notes: Sequence[str]) -> list[Verifier]:
    """`trusted` and every key that it, or one of these, signed as its successor; ``notes`` are the hand-overs in order.

    A note that another key signed is passed over: who holds an older key sees where their own chain begins.
    """
    keys = [trusted]
    for note in notes[:MAX_HEIRS]:
        try:
            body = verify_note(note, keys[-1])
            statement = parse_statement(body) if is_statement(body) else None
            if statement is not None and statement.kind == "key":
                keys.append(parse_verifier(str(statement.facts.get("key"))))
        except (CheckpointError, ValueError):
            continue
    return keys


def keys_before(trusted: Verifier, handovers: Sequence[tuple[str, str]]) -> list[Verifier]:
    """The keys that handed over to `trusted`, newest first; ``handovers`` are (key, its note) in order.

    Anybody can make a key that hands over to this one: what these signed counts only below what `trusted` signed.
    """
    keys: list[Verifier] = []
    heir = str(trusted)
    for text, note in list(handovers)[-MAX_HEIRS:][::-1]:
        try:
            key = parse_verifier(text)
            body = verify_note(note, key)
            names_heir = is_statement(body) and parse_statement(body).facts.get("key") == heir
        except (CheckpointError, ValueError):
            continue
        if names_heir:
            keys.append(key)
            heir = text
    return keys
