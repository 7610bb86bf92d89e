"""What one administrator may not do alone, and who counts as the second.

Administrators cannot read what people ask. An administrator who alone could make a reviewer, become one, or take over
a reviewer's account could. So these changes need a second administrator where there is one:

1. giving the role ``reviewer`` or ``admin`` to an account, new or existing (a second administrator of one's own making
   could confirm whatever one likes);
2. a one-time link for somebody else's account that has one of these roles;
3. enabling a disabled account that has one of them.

Who counts as the second. Neither the one who asks nor the one whom the change is about, nor anybody who may be the same
person: the maker of a one-time link could have used it, so an administrator whose password was set with another's link
counts as that other one, and so on. Two accounts that lead to the same one, or in a circle to each other, are one
person. The first administrator, and everybody whose link was made on the command line, leads to nobody else. An
administrator without a password cannot sign in yet and does not count.

When there is a second one. An administrator who gets rid of all others is not alone at once: those who lost their
account or their role to another administrator within the last seven days still count.

Not covered: two administrators who agree; whoever has the command line (the owner of state/, or root), who may do all
of this alone and is recorded with via=cli; an administrator who has always been the only one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.database.tables import users
from appliance.people.users import AccountError, Role, User, able_admins, has_damaged_user

GUARDED: Final = frozenset({Role.REVIEWER, Role.ADMIN})
_STILL_THERE_US: Final = 7 * 24 * 3600 * 1_000_000

ALONE = "alone, because there is no other administrator"

Kind = Literal["create", "roles", "link", "enable"]


@dataclass(frozen=True)
class Change:
    """A change of an account that somebody wants; ``subject_id`` is None for an account still to be made."""

    kind: Kind
    subject_id: str | None
    subject: str
    roles_before: frozenset[Role]
    roles: frozenset[Role]
    end_keys: bool = True

    def words(self) -> str:
        """What would happen, for the page and the record."""
        match self.kind:
            case "create":
                return f"add {self.subject} with the roles {_listed(self.roles)}"
            case "roles":
                before, after = _listed(self.roles_before), _listed(self.roles)
                return f"change the roles of {self.subject} from {before} to {after}"
            case "link":
                return f"make a one-time link for {self.subject} ({_listed(self.roles)})"
            case "enable":
                return f"enable {self.subject} ({_listed(self.roles)})"


def _listed(roles: frozenset[Role]) -> str:
    return ", ".join(sorted(roles))


class SecondNeededError(AccountError):
    """Another administrator must confirm this first; nothing was changed."""

    def __init__(self, change: Change) -> None:
        super().__init__(f"Another administrator must confirm this: {change.words()}.")
        self.change = change


def check_alone(connection: sa.Connection, change: Change, by: Actor, *, now_us: int) -> str:
    """What the record says of a change that one administrator makes alone; "" for an ordinary change.

    Raises:
        SecondNeededError: the change needs a second administrator, and there is one.
    """
    if not is_guarded(change, by):
        return ""
    if by.via in ("cli", "system"):
        return ""
    if has_other_admin(connection, by.user_id, now_us=now_us):
        raise SecondNeededError(change)
    return ALONE


def is_guarded(change: Change, by: Actor) -> bool:
    """Whether the change is one of those above."""
    match change.kind:
        case "create" | "roles":  # 1
            return bool((change.roles - change.roles_before) & GUARDED)
        case "link":  # 2
            return bool(change.roles_before & GUARDED) and change.subject_id != by.user_id
        case "enable":  # 3
            return bool(change.roles_before & GUARDED)


def has_other_admin(connection: sa.Connection, user_id: str, *, now_us: int, but: str = "") -> bool:
    """Whether there is, or was within the last days, an administrator beside this one. A damaged account may be one,
    so damaging it makes nobody the only one.

    Args:
        but: the id of another who is not to count as being there now.
    """
    there = [admin for admin in able_admins(connection) if admin.id not in (user_id, but)]
    return bool(there) or has_damaged_user(connection) or ended_lately(connection, user_id, now_us=now_us)


def ended_lately(connection: sa.Connection, user_id: str, *, now_us: int) -> bool:
    """Whether somebody beside this one was made to be no administrator within the last days."""
    lately = sa.and_(users.c.admin_ended_us > now_us - _STILL_THERE_US, users.c.id != user_id)
    return connection.execute(sa.select(users.c.id).where(lately)).first() is not None


def why_not_second(connection: sa.Connection, admin: User, *, requester_id: str, subject_id: str | None) -> str | None:
    """Why this administrator may not confirm a request; None when this one may."""
    if admin.id == requester_id:
        return f"{admin.name} asked for it"
    if admin.id == subject_id:
        return f"it is about {admin.name}"
    if _line(connection, admin.id) & _line(connection, requester_id):
        return f"{admin.name} has a password set by a link that the one who asks, or the same third person, made"
    return None


def _line(connection: sa.Connection, user_id: str) -> set[str]:
    """The account, whoever vouched for it, and so on; people who vouched for each other are a circle and end it."""
    line: set[str] = set()
    while user_id and user_id not in line:
        line.add(user_id)
        user_id = connection.scalar(sa.select(users.c.vouched_by).where(users.c.id == user_id)) or ""
    return line
