"""What the administration page shows: the question before a change that ends something, and the requests that wait for
a second administrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from appliance.people.accounts import Role, User
from appliance.people.approvals import Approvals, Request, Second
from appliance.people.groups import Group
from appliance.people.oversight import OpenLink
from appliance.people.users import join_roles
from webui.confirm import Option, Question

_BACK = "/admin"
_END_KEYS = Option("end_keys", "Also end the API keys of this account")
_WHAT_A_ROLE_ALLOWS = {
    Role.USER: "chat",
    Role.REVIEWER: "read the record, with what everybody asked and was answered",
    Role.ADMIN: "manage accounts and settings",
}


def question_of_disabling(user: User, enabling_again: str) -> Question:
    """Args: enabling_again: what it will take to enable the account again; "" where any administrator can."""
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


def question_of_roles(user: User, wanted: frozenset[Role], outlook: str) -> Question:
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


def question_of_link(user: User, outlook: str, *, replaces: bool) -> Question:
    """
    Args:
        outlook: whether it waits for another administrator; "" where it needs none.
        replaces: an earlier link still works.
    """
    return Question(
        title=f"Make a new link for {user.name}?",
        consequences=(
            *(["A link that was made before still works. It ends with the new one."] if replaces else []),
            "Whoever holds the new link sets the password of the account and is signed in.",
            *([outlook] if outlook else []),
        ),
        button="Make the new link",
        back=_BACK,
    )


def question_of_refusing(request: Request, *, is_own: bool) -> Question:
    """What is asked before a request is closed without its change."""
    wish = f"{request.requester} asked to {request.change.words()}."
    return Question(
        title="Take the request back?" if is_own else "Refuse the request?",
        consequences=(wish, "Nothing is changed, and the request is closed. It can be asked for again."),
        button="Take it back" if is_own else "Refuse it",
        back=_BACK,
    )


def question_of_sessions(user: User, back: str, *, is_one: bool) -> Question:
    """What is asked before somebody else's sessions end."""
    where = "there" if is_one else "everywhere"
    return Question(
        title=f"Sign {user.name} out {where}?",
        consequences=(f"{user.name} is signed out {where} at once, and answers under way end.",
                      "The password stays as it is, so the person can sign in again. API keys stay, too."),
        button=f"Sign {user.name} out",
        back=back,
    )  # fmt: skip


def question_of_key(user: User, label: str, back: str) -> Question:
    """What is asked before somebody else's key is revoked."""
    return Question(
        title=f"Revoke the key “{label}” of {user.name}?",
        consequences=("Programs that use it are refused at once, and answers under way end.",
                      "A revoked key cannot be brought back; its owner can make a new one."),
        button="Revoke the key",
        back=back,
    )  # fmt: skip


def question_of_withdrawing(link: OpenLink, back: str) -> Question:
    """What is asked before a one-time link is withdrawn."""
    whose = f"of {link.name}" if link.name else "for the first administrator"
    return Question(
        title=f"Withdraw the link {whose}?",
        consequences=("The link opens nothing any more, and its page says that it was withdrawn.",
                      "The account stays as it is; a new link can be made for it."),
        button="Withdraw the link",
        back=back,
    )  # fmt: skip


def question_of_removing(group: Group, back: str) -> Question:
    """What is asked before a group is removed."""
    return Question(
        title=f"Remove the group {group.name}?",
        consequences=(
            "Its one member stays." if group.members == 1 else f"Its {group.members} members stay.",
            "What the group allows or limits ends for them at once.",
        ),
        button="Remove the group",
        back=back,
    )


def question_of_confirming(request: Request) -> Question:
    """What the second administrator is asked."""
    return Question(
        title="Confirm the request?",
        consequences=(
            f"{request.requester} wants to {request.change.words()}.",
            "Ask in person if you do not know why. The record will say that you confirmed it.",
        ),
        button="Confirm it",
        back=_BACK,
    )


@dataclass(frozen=True)
class PageRequest:
    """One request, as the reader may act on it."""

    id: str
    words: str
    requester: str
    expires_at: datetime
    is_own: bool
    may_confirm: bool
    may_make_link: bool
    waits_for: str  # a sentence; "" if there is nothing to add
    command: str  # the command that does it on the host, if nobody may confirm


def page_requests(approvals: Approvals, found: Sequence[Request], reader: User) -> list[PageRequest]:
    """The open requests as `reader` sees them. A confirmed one is shown only to the administrator who asked."""
    return [
        _page_request(request, approvals.seconds(request), reader)
        for request in found
        if request.state == "pending" or request.requester_id == reader.id
    ]


def _page_request(request: Request, seconds: Sequence[Second], reader: User) -> PageRequest:
    able = [second.admin for second in seconds if second.why_not is None]
    mine = next((second.why_not for second in seconds if second.admin.id == reader.id), None)
    pending, is_own = request.state == "pending", request.requester_id == reader.id
    return PageRequest(
        id=request.id,
        words=request.change.words(),
        requester=request.requester,
        expires_at=request.expires_at,
        is_own=is_own,
        may_confirm=pending and reader in able,
        may_make_link=request.may_make_link,
        waits_for=_waits_for(able, seconds, None if is_own else mine) if pending and reader not in able else "",
        command=_command(request) if pending and not able else "",
    )


def _waits_for(able: Sequence[User], seconds: Sequence[Second], mine: str | None) -> str:
    if able:
        names = ", ".join(user.name for user in able)
        return f"It waits for {names}." + (f" You cannot confirm it, because {mine}." if mine else "")
    reasons = "; ".join(dict.fromkeys(second.why_not for second in seconds if second.why_not))
    return f"No administrator can confirm it now{f': {reasons}' if reasons else ''}."


def _command(request: Request) -> str:
    change = request.change
    match change.kind:
        case "create":
            roles = " ".join(f"--role {role}" for role in sorted(change.roles))
            return f"appliance users add {change.subject} {roles}"
        case "roles":
            roles = " ".join(f"--role {role}" for role in sorted(change.roles))
            return f"appliance users roles {change.subject} {roles}"
        case "link":
            return f"appliance users link {change.subject}"
        case "enable":
            return f"appliance users enable {change.subject}"
