"""What bounds one person's turns, and counts them: the bytes of a day (allowance.py) and what is used (usage.py)."""

from __future__ import annotations

from appliance.audit.event import Content
from appliance.people.allowance import Allowance
from appliance.people.usage import Usage
from appliance.turns.request import TurnRequest


class PersonBounds:
    """Bounds of one person's turns, as `run_turn` takes them; ``key_id`` is "" for the chat."""

    def __init__(self, allowance: Allowance, usage: Usage, key_id: str = "") -> None:
        self._allowance, self._usage, self._key_id = allowance, usage, key_id

    def check(self, user_id: str, request: TurnRequest) -> None:
        """Raises: RefusedError, DatabaseError: the turn must not be run."""
        self._allowance.check(user_id, request)

    def spend(self, user_id: str, content: Content | None) -> None:
        """Raises: DatabaseError: a count could not be kept yet."""
        try:
            self._allowance.spend(user_id, content)
        finally:
            self._usage.turn_ended(user_id, self._key_id, content)
