"""The pages of quotas: what everybody, each group and each person may use, and the form that changes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast, get_args

from flask import Response, make_response, redirect, render_template, request, url_for

from appliance.people.quotas import OF_WORDS, Kind, Of, Quota
from appliance.people.users import AccountError
from webui.admin.routes import blueprint
from webui.allowances import turn_places
from webui.errors import NotFoundError
from webui.handover import answer, hand_over, take
from webui.services import services
from webui.session import current_actor

EVERYBODY: Final = "all"  # the place of a holder's id in an address
_NOTICES: Final = {"saved": "The quota is saved. It holds from the next question on."}
_MAX_DIGITS: Final = 15


@dataclass(frozen=True)
class Holder:
    """One line of the page: who has a quota, and the address of its form."""

    name: str
    kind: Kind
    quota: Quota
    href: str


@blueprint.get("/quotas")
def quotas() -> Response:
    """Everybody's quota, those of the groups, and those of people who have one of their own."""
    service = services()
    people = {user.id: user.name for user in service.accounts.list_users()}
    held = service.quotas.of_people()
    holders = [
        _holder("everybody", "", "Everybody"),
        *(_holder("group", group.id, group.name) for group in service.groups.list_groups()),
        *(
            _holder("person", user_id, people[user_id])
            for user_id in sorted(held & people.keys(), key=people.__getitem__)
        ),
    ]
    notice = _NOTICES.get(request.args.get("notice", ""))
    return make_response(render_template("admin_quotas.html", holders=holders, notice=notice))


@blueprint.get("/quotas/<kind>/<holder_id>")
def quota(kind: str, holder_id: str) -> Response:
    """The form of one quota; for a person, with what is used now."""
    left = take()
    known, found_id, name = _named(kind, holder_id)
    page = render_template(
        "admin_quota.html", kind=known, holder_id=holder_id, name=name, quota=services().quotas.get(known, found_id),
        of_words=OF_WORDS, uses=turn_places().uses(found_id) if known == "person" else [],
        error=left.get("error"), typed=left.get("typed", {}),
    )  # fmt: skip
    return answer(page, left)


@blueprint.post("/quotas/<kind>/<holder_id>")
def set_quota(kind: str, holder_id: str) -> Response:
    known, found_id, _ = _named(kind, holder_id)
    try:
        wanted = Quota(**{of: _number(of) for of in OF_WORDS})
        services().quotas.give(known, found_id, wanted, by=current_actor())
    except AccountError as exc:
        typed = {of: request.form.get(of, "") for of in OF_WORDS}
        return hand_over(request.path, {"status": 400, "error": str(exc), "typed": typed})
    return make_response(redirect(url_for("admin.quotas", notice="saved"), 303))


def _holder(kind: Kind, holder_id: str, name: str) -> Holder:
    href = url_for("admin.quota", kind=kind, holder_id=holder_id or EVERYBODY)
    return Holder(name, kind, services().quotas.get(kind, holder_id), href)


def _named(kind: str, holder_id: str) -> tuple[Kind, str, str]:
    """The kind, the id and the name of an address's holder.

    Raises:
        NotFoundError, UserNotFoundError: there is no such holder.
    """
    if kind not in get_args(Kind) or (kind == "everybody") != (holder_id == EVERYBODY):
        raise NotFoundError
    if kind == "person":
        return "person", holder_id, services().accounts.get(holder_id).name
    if kind == "group":
        names = {group.id: group.name for group in services().groups.list_groups()}
        if holder_id not in names:
            raise NotFoundError
        return "group", holder_id, names[holder_id]
    return cast(Kind, kind), "", "everybody"


def _number(of: Of) -> int | None:
    """What the form says of one limit; nothing means that there is none.

    Raises:
        AccountError: it is no whole number.
    """
    text = request.form.get(of, "").replace(",", "").replace(" ", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_DIGITS:
        raise AccountError(f"A limit of {OF_WORDS[of]} is a whole number, or empty for no limit.")
    return int(text)
