"""The limits of the key that makes a request: counted before anything else, and named in every answer.

The headers are OpenAI's: ``x-ratelimit-limit-requests``, ``-remaining-requests``, ``-reset-requests`` for the requests
of a minute, and the same three with ``-tokens`` for the tokens of a day. Where less is left of a quota of the key's
owner (requests or tokens of a day), the headers name that. Without any limit there are no headers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from flask import Response, g

from appliance.audit.event import Content
from appliance.database.transactions import DatabaseError
from appliance.people.allowance import Leave
from appliance.people.api_keys import ApiKey
from appliance.people.key_use import KeyLimitError, KeyUse, Standing, tokens_of
from appliance.people.person_bounds import PersonBounds
from appliance.people.quotas import Of
from appliance.turns.request import TurnRequest
from webui.allowances import person_bounds
from webui.services import services

_HEADER_OF: Final[dict[Of, str]] = {"requests_per_day": "requests", "tokens_per_day": "tokens"}


class KeyBounds:
    """Bounds the turns of one request: by the day of the person and by the limits of the key.

    A turn may end after its request, so this holds all that it needs. ``requests`` and ``tokens`` are None without such
    a limit.
    """

    def __init__(self, person: PersonBounds, use: KeyUse, key: ApiKey) -> None:
        self._person, self._use, self._key = person, use, key
        self._lock = threading.Lock()  # choices of one request end in threads of their own
        self.requests: Standing | None = None
        self.tokens: Standing | None = None
        if key.rights.tokens_per_day is not None:
            self.tokens = use.tokens(key.id, key.rights.tokens_per_day)

    def take_request(self) -> None:
        """Count this request.

        Raises:
            KeyLimitError: the key has made as many as it may.
        """
        per_minute = self._key.rights.requests_per_minute
        if per_minute is None:
            return
        try:
            self.requests = self._use.take_request(self._key.id, self._key.label, per_minute)
        except KeyLimitError as exc:
            self.requests = exc.standing
            raise

    def check(self, user_id: str, request: TurnRequest) -> Leave:
        """Raises: RefusedError, PresenceError, DatabaseError: the turn must not be run."""
        if self._key.rights.tokens_per_day is not None:
            self._use.check_tokens(self._key.id, self._key.label, self._key.rights.tokens_per_day)
        return self._person.check(user_id, request)

    def standings(self) -> dict[str, Standing]:
        """What is left of requests and tokens: of the key's own limit, or of its owner's quota where less is left."""
        found = {"requests": self.requests, "tokens": self.tokens}
        try:
            uses = self._person.uses(self._key.user_id)
        except DatabaseError:  # the answer is there; only its headers lack the quota
            uses = []
        for use in uses:
            name = _HEADER_OF.get(use.limit.of)
            if name is not None:
                mine = Standing(use.limit.most, use.left, use.reset_s, 0.0)
                other = found[name]
                found[name] = mine if other is None or mine.remaining < other.remaining else other
        return {name: standing for name, standing in found.items() if standing is not None}

    def spend(self, user_id: str, content: Content | None) -> None:
        """Raises: DatabaseError: a count could not be kept yet."""
        try:
            self._person.spend(user_id, content)
        finally:
            self._spend_tokens(tokens_of(content))

    def _spend_tokens(self, tokens: int) -> None:
        if self.tokens is None or not tokens:
            return
        with self._lock:
            self.tokens = replace(self.tokens, remaining=max(self.tokens.remaining - tokens, 0))
        self._use.spend(self._key.id, tokens)


def count_request(key: ApiKey) -> None:
    """Count this request of the key, and remember its limits for the answer.

    Raises:
        KeyLimitError: the key has made as many as it may.
    """
    g.api_bounds = bounds = KeyBounds(person_bounds(key.id), services().api_keys.use, key)
    bounds.take_request()


def bounds() -> KeyBounds:
    """What bounds the turns of this request; after `count_request`."""
    found: KeyBounds = g.api_bounds
    return found


def say_limits(response: Response) -> Response:
    """Name the key's limits, and what is left of them, in the answer's headers."""
    found: KeyBounds | None = g.get("api_bounds")
    if found is not None:
        for name, standing in found.standings().items():
            response.headers.extend(_headers(name, standing))
    return response


def duration(seconds: float) -> str:
    """A time as OpenAI's headers have it, rounded up: 0s, 250ms, 1m0s, 11h59m3s."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _headers(name: str, standing: Standing) -> Iterator[tuple[str, str]]:
    yield f"x-ratelimit-limit-{name}", str(standing.limit)
    yield f"x-ratelimit-remaining-{name}", str(standing.remaining)
    yield f"x-ratelimit-reset-{name}", duration(standing.reset_s)
