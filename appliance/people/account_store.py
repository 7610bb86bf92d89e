"""The accounts of one database, with what every change of them needs: the record, the hashing of passwords, a clock.

    store = AccountStore(record, passwords=passwords)
    Accounts(store), SignIn(store), Approvals(store)

All that work on the same accounts share one store, and so the places for hashing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.transactions import Database, now_us
from appliance.people.account_changes import Transaction, open_admin_change, open_change
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

    def change(self, by: Actor) -> AbstractContextManager[Transaction]:
        """A transaction of one change and its events."""
        return open_change(self.record, by, clock_us=self.clock_us)

    def admin_change(self, by: Actor) -> AbstractContextManager[Transaction]:
        """As `open_admin_change`."""
        return open_admin_change(self.record, by, clock_us=self.clock_us)
