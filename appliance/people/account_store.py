"""The accounts of one database, with what every change of them needs: the record, the hashing of passwords, a clock.

    store = AccountStore(record, passwords=passwords)
    Accounts(store), SignIn(store), Approvals(store)

All that work on the same accounts share one store, and so the places for hashing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.transactions import Database, now_us
from appliance.people.account_changes import Transaction
from appliance.people.passwords import Passwords


@dataclass(frozen=True)
class AccountStore:
    """Thread-safe."""

    record: AuditLog
    passwords: Passwords = field(default_factory=Passwords, kw_only=True)
    clock_us: Callable[[], int] = field(default=now_us, kw_only=True)

    @property
    def database(self) -> Database:
        return self.record.database

    @contextmanager
    def change(self, by: Actor) -> Iterator[Transaction]:
        """A transaction of one change and its events."""
        with self.database.write(serial=True) as connection:
            yield Transaction(connection, self.record, by, self.clock_us())
