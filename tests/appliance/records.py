"""What the record's tests write into a log."""

from __future__ import annotations

from appliance.audit.details.codec import Details
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog

SYSTEM = Actor("", "appliance", "system")


def fill(log: AuditLog, count: int) -> None:
    """Append events with content, by two people; every fourth has no content."""
    events = []
    for number in range(1, count + 1):
        actor = Actor("a1", "ada", "web", "10.0.0.1") if number % 2 else Actor("b2", "bob", "api", "10.0.0.2")
        content = None if number % 4 == 0 else Content(f"word{number} said", Details(unknown={"number": number}))
        events.append(NewEvent(actor, "prompt", subject=f"turn-{number}", content=content))
    with log.database.write(serial=True) as connection:
        log.append_many_in(connection, events)


def asked(**changes: object) -> Details:
    """The details of a prompt, as any release, or anybody else, may have stored them."""
    request = {"id": "t", "user": "a1", "messages": [{"role": "user", "content": "?"}], "seed": 5}
    return Details(unknown={"conversation": None, "request": request, **changes})


class Clock:
    """Time that passes only when a test says so. It starts now, because sessions are compared with it."""

    def __init__(self) -> None:
        self.now_us = 1_795_398_974_000_000

    def __call__(self) -> int:
        return self.now_us

    def wait(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)
