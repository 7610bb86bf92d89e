"""What waits for a second administrator, as the page shows it to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from appliance.people.accounts import User
from appliance.people.approvals import Approvals, Request, Second


@dataclass(frozen=True)
class RequestView:
    """One request, as the reader may act on it."""

    id: str
    words: str
    requester: str
    expires_at: datetime
    is_own: bool
    may_confirm: bool
    may_make_link: bool
    waits_for: str  # in a sentence; "" when nothing more need be said
    command: str  # what does it on the host, when nobody may confirm


def request_views(approvals: Approvals, found: Sequence[Request], reader: User) -> list[RequestView]:
    """The open requests for this administrator; a confirmed one only for the one who may make its link."""
    return [
        _view(request, approvals.seconds(request), reader)
        for request in found
        if request.state == "pending" or request.requester_id == reader.id
    ]


def _view(request: Request, seconds: Sequence[Second], reader: User) -> RequestView:
    able = [second.admin for second in seconds if second.why_not is None]
    mine = next((second.why_not for second in seconds if second.admin.id == reader.id), None)
    pending, is_own = request.state == "pending", request.requester_id == reader.id
    return RequestView(
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
