"""What bounds one person's turns, and counts them: the bytes of a day (allowance.py), quotas (turn_places.py), and what
is used (usage.py)."""

from __future__ import annotations

import threading

from appliance.audit.event import Content
from appliance.people.allowance import Allowance, Leave
from appliance.people.turn_places import TurnPlaces, Use
from appliance.people.usage import Usage
from appliance.turns.request import TurnRequest


class PersonBounds:
    """Bounds of one person's turns, as `run_turn` takes them; ``key_id`` is "" for the chat. Thread-safe."""

    def __init__(self, allowance: Allowance, usage: Usage, places: TurnPlaces, key_id: str = "") -> None:
        self._allowance, self._usage, self._places, self._key_id = allowance, usage, places, key_id
        self._counted = 0  # turns that are among the requests already; guarded by _lock
        self._lock = threading.Lock()

    def check(self, user_id: str, request: TurnRequest) -> Leave:
        """Let a turn in.

        Raises:
            RefusedError, PresenceError, DatabaseError: the turn must not be run.
        """
        self._allowance.check(user_id, request)
        if not self._places.take(user_id, self._key_id, request.id):
            return _Nothing()
        with self._lock:
            self._counted += 1
        return _Place(self._places, request.id)

    def spend(self, user_id: str, content: Content | None) -> None:
        """Raises: DatabaseError: a count could not be kept yet."""
        try:
            self._allowance.spend(user_id, content)
        finally:
            self._usage.turn_ended(user_id, self._key_id, content, is_counted=self._counted > 0)

    def uses(self, user_id: str) -> list[Use]:
        """How much of each of a person's limits is used now."""
        return self._places.uses(user_id)


class _Nothing:
    def __call__(self, *, later: bool = False) -> None:
        """A turn without a place has nothing to give back."""


class _Place:
    def __init__(self, places: TurnPlaces, turn_id: str) -> None:
        self._places, self._turn_id = places, turn_id
        self._is_left = False

    def __call__(self, *, later: bool = False) -> None:
        if self._is_left:
            return
        self._is_left = True
        if later:
            self._places.give_back_later(self._turn_id)
        else:
            self._places.give_back(self._turn_id)
