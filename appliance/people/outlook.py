"""What will happen to a change that needs a second administrator, in sentences for the person who is about to ask.

Pages must not promise a second administrator who is not there, nor announce one who is not needed. four_eyes.py
decides; this module asks it beforehand and changes nothing.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.people.four_eyes import (
    GUARDED,
    Change,
    ended_lately,
    has_other_admin,
    is_guarded,
    why_not_second,
)
from appliance.people.users import Role, User, able_admins, has_damaged_user

_ALONE: Final = "there is no other administrator, and the record will say so"
_ON_THE_HOST: Final = "Whoever administers the host can do it"


def of_change(connection: sa.Connection, change: Change, by: Actor, *, now_us: int) -> str:
    """What happens when `by` asks for the change now; "" where it needs nobody else."""
    if not is_guarded(change, by):
        return ""
    if not has_other_admin(connection, by.user_id, now_us=now_us):
        return f"You do this alone, because {_ALONE}."
    if _seconds(connection, change.subject_id, by.user_id):
        return "Nothing changes until another administrator confirms it."
    return f"Nothing changes until another administrator confirms it, and none can now. {_ON_THE_HOST}."


def of_enabling_again(connection: sa.Connection, user: User, by: Actor, *, now_us: int) -> str:
    """What it takes to enable the account again once `by` has disabled it; "" where any administrator can."""
    if not user.roles & GUARDED:
        return ""
    others = [admin for admin in able_admins(connection) if admin.id not in (user.id, by.user_id)]
    if by.user_id == user.id:
        if len(others) == 1 and not has_other_admin(connection, others[0].id, now_us=now_us, but=user.id):
            return f"Then {others[0].name} can enable it again alone, because {_ALONE}."
        return "Enabling it again needs two other administrators: one asks, and another confirms."
    if others:
        if _seconds(connection, user.id, by.user_id):
            return "Enabling it again needs a second administrator."
        return f"Enabling it again needs a second administrator, and no other can confirm it for you. {_ON_THE_HOST}."
    if has_damaged_user(connection):
        return f"You cannot enable it again here while the database holds a damaged account. {_ON_THE_HOST}."
    if (Role.ADMIN in user.roles and not user.disabled) or ended_lately(connection, by.user_id, now_us=now_us):
        return (
            "You cannot enable it again here before an administrator has been gone for seven days: until then nobody "
            f"counts as the only one. {_ON_THE_HOST}."
        )
    return f"You can enable it again alone, because {_ALONE}."


def _seconds(connection: sa.Connection, subject_id: str | None, requester_id: str) -> list[User]:
    """The administrators who could confirm it."""
    return [
        admin
        for admin in able_admins(connection)
        if why_not_second(connection, admin, requester_id=requester_id, subject_id=subject_id) is None
    ]
