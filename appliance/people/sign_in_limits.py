"""Slows the guessing of passwords without a lock that a stranger could use to keep somebody else out.

Each wrong password takes from allowances that fill up again with time (generic cell rate algorithm, ITU-T I.371: one
number each, the time at which it is full again). What is known of the person who tries decides which:

- a **device** that has signed in to this account before (its cookie says so) has an allowance of its own;
- an **address** from which this account was signed in to before has one for account and address together;
- a **stranger** takes from three: account and address; the address, for all accounts; and the account, for all
  strangers together. So many addresses together guess no faster than one a minute at one account, while its owner
  signs in from where she always does.

Names that do not exist have allowances like those that do. An IPv6 address counts as its /64, which is what one
subscriber has. Full allowances are forgotten, and the fullest of the others beyond a fixed number of rows.

After a clock was set back, an allowance may claim to be full again in a year, which none can be. It counts as full:
guessing begins anew, once for each time that the clock is set back, and nobody is locked out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from appliance.database.tables import known_addresses, sign_in_limits

_SECOND_US: Final = 1_000_000
_MOST_ROWS: Final = 30_000
_MOST_ADDRESSES: Final = 20  # known addresses of one account
_ADDRESS_KEPT_US: Final = 90 * 24 * 3600 * _SECOND_US

Standing = Literal["device", "address", "stranger"]


@dataclass(frozen=True)
class Allowance:
    """``burst`` wrong passwords at once, and another one every ``every_s`` seconds."""

    burst: int
    every_s: int

    @property
    def empty_us(self) -> int:
        """How long it takes to fill up again when nothing is left."""
        return self.burst * self.every_s * _SECOND_US


DEVICE: Final = Allowance(10, 30)
PAIR: Final = Allowance(5, 60)
ADDRESS: Final = Allowance(30, 10)
ACCOUNT: Final = Allowance(20, 60)
CONFIRMATION: Final = Allowance(5, 60)  # somebody signed in gives the present password; right ones count as well
SIGN_INS: Final = Allowance(20, 15)  # right passwords of one account, so that its owner cannot keep others waiting
_LONGEST_US: Final = max(each.empty_us for each in (DEVICE, PAIR, ADDRESS, ACCOUNT, CONFIRMATION, SIGN_INS))

Allowances = Mapping[str, Allowance]  # by their keys in the table


def allowances_of(standing: Standing, name: str, network: str, device: str) -> Allowances:
    """The allowances from which a wrong password takes."""
    pair = {f"pair {name} {network}": PAIR}
    match standing:
        case "device":
            return {f"device {name} {device}": DEVICE}
        case "address":
            return pair
        case "stranger":
            return {**pair, f"address {network}": ADDRESS, f"account {name}": ACCOUNT}


def seconds_to_wait(connection: sa.Connection, allowances: Allowances, *, now_us: int) -> float:
    """How long until each of the allowances has room for one more wrong password; 0 when all have."""
    return max(
        (full - now_us - (of.burst - 1) * of.every_s * _SECOND_US) / _SECOND_US
        for of, full in _levels(connection, allowances, now_us).values()
    )


def take(connection: sa.Connection, allowances: Allowances, *, now_us: int) -> float:
    """Take one from each, before the password is looked at, so that many tries at once do not all pass.

    Returns:
        Seconds to wait when one of them has no room; nothing was taken then. 0 otherwise.
    """
    wait_s = seconds_to_wait(connection, allowances, now_us=now_us)
    if wait_s > 0:
        return wait_s
    is_of_no_use = sa.or_(sign_in_limits.c.full_us <= now_us, sign_in_limits.c.full_us > now_us + _LONGEST_US)
    connection.execute(sign_in_limits.delete().where(is_of_no_use))
    for key, (of, full) in _levels(connection, allowances, now_us).items():
        _write(connection, key, full + of.every_s * _SECOND_US)
    _forget_the_fullest(connection)
    return 0.0


def give_back(connection: sa.Connection, allowances: Allowances, *, now_us: int) -> None:
    """Refill after a right password: the person's own allowances are full again; strangers' failures still count."""
    for key, (of, full) in _levels(connection, allowances, now_us).items():
        if of is not CONFIRMATION:
            _write(connection, key, now_us if of in (DEVICE, PAIR) else full - of.every_s * _SECOND_US)


def is_known_address(connection: sa.Connection, user_id: str, network: str, *, now_us: int) -> bool:
    """Whether the account was signed in to from there within the last 90 days."""
    mine = sa.and_(known_addresses.c.user_id == user_id, known_addresses.c.network == network)
    query = sa.select(known_addresses.c.seen_us).where(mine, known_addresses.c.seen_us > now_us - _ADDRESS_KEPT_US)
    return connection.execute(query).first() is not None


def remember_address(connection: sa.Connection, user_id: str, network: str, *, now_us: int) -> None:
    """Somebody who gave the right password came from there; the oldest of many such places is forgotten."""
    of_user = known_addresses.c.user_id == user_id
    connection.execute(known_addresses.delete().where(of_user, known_addresses.c.network == network))
    connection.execute(known_addresses.insert().values(user_id=user_id, network=network, seen_us=now_us))
    newest = sa.select(known_addresses.c.network).where(of_user).order_by(known_addresses.c.seen_us.desc())
    kept = list(connection.scalars(newest.limit(_MOST_ADDRESSES)))
    connection.execute(known_addresses.delete().where(of_user, known_addresses.c.network.not_in(kept)))


def _levels(connection: sa.Connection, allowances: Allowances, now_us: int) -> dict[str, tuple[Allowance, int]]:
    query = sa.select(sign_in_limits).where(sign_in_limits.c.key.in_(list(allowances)))
    stored = {row.key: row.full_us for row in connection.execute(query)}
    return {
        key: (of, full if now_us < (full := stored.get(key, 0)) <= now_us + of.empty_us else now_us)
        for key, of in allowances.items()
    }


def _write(connection: sa.Connection, key: str, full_us: int) -> None:
    found = connection.execute(sign_in_limits.update().where(sign_in_limits.c.key == key).values(full_us=full_us))
    if not found.rowcount:
        connection.execute(sign_in_limits.insert().values(key=key, full_us=full_us))


def _forget_the_fullest(connection: sa.Connection) -> None:
    too_many = (connection.scalar(sa.select(sa.func.count()).select_from(sign_in_limits)) or 0) - _MOST_ROWS
    if too_many > 0:
        fullest = sa.select(sign_in_limits.c.key).order_by(sign_in_limits.c.full_us).limit(too_many + _MOST_ROWS // 10)
        connection.execute(sign_in_limits.delete().where(sign_in_limits.c.key.in_(fullest)))
