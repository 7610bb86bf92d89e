"""What an administrator is asked before a change that ends something, in words that name what will happen."""

from __future__ import annotations

from appliance.people.accounts import Role, User
from appliance.people.approvals import Request
from appliance.people.users import join_roles
from webui.confirm import Option, Question

_BACK = "/admin"
_END_KEYS = Option("end_keys", "Also end the API keys of this account")
_WHAT_A_ROLE_ALLOWS = {
    Role.USER: "chat",
    Role.REVIEWER: "read the record, with what everybody asked and was answered",
    Role.ADMIN: "manage accounts and settings",
}


def of_disabling(user: User, enabling_again: str) -> Question:
    """Args: enabling_again: what that will take; "" where any administrator can."""
    return Question(
        title=f"Disable {user.name}?",
        consequences=(
            f"{user.name} is signed out everywhere at once, and answers under way end.",
            "API keys of the account are refused while it is disabled, and a one-time link ends.",
            "Conversations and the record stay. The account can be enabled again.",
            *([enabling_again] if enabling_again else []),
        ),
        button=f"Disable {user.name}",
        back=_BACK,
    )


def of_roles(user: User, wanted: frozenset[Role], outlook: str) -> Question:
    """Args: outlook: whether it waits for another administrator; "" where it needs none."""
    lost, won = (sorted(roles, key=list(Role).index) for roles in (user.roles - wanted, wanted - user.roles))
    return Question(
        title=f"Change the roles of {user.name}?",
        consequences=(
            *(f"{user.name} may no longer {_WHAT_A_ROLE_ALLOWS[role]}." for role in lost),
            *(f"{user.name} may {_WHAT_A_ROLE_ALLOWS[role]}." for role in won),
            "The account is signed out everywhere at once, answers under way end, and so does a one-time link.",
            *([outlook] if outlook else []),
        ),
        button=f"Change to {join_roles(wanted).replace(',', ', ')}",
        back=_BACK,
        options=(_END_KEYS,),
    )  # fmt: skip


def of_link(user: User, outlook: str) -> Question:
    """Args: outlook: whether it waits for another administrator; "" where it needs none."""
    return Question(
        title=f"Make a new link for {user.name}?",
        consequences=(
            "A link that was made before still works. It ends with the new one.",
            "Whoever holds the new link sets the password of the account and is signed in.",
            *([outlook] if outlook else []),
        ),
        button="Make the new link",
        back=_BACK,
    )


def of_request(request: Request) -> Question:
    return Question(
        title="Confirm the request?",
        consequences=(
            f"{request.requester} wants to {request.change.words()}.",
            "Ask in person if you do not know why. The record will say that you confirmed it.",
        ),
        button="Confirm it",
        back=_BACK,
    )
