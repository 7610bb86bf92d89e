"""One person's page: sessions, API keys, one-time links and groups; the page of invitations; the page of roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flask import Response, make_response, redirect, render_template, request, url_for

from appliance.people.directory import find_person
from appliance.people.users import Role, UserNotFoundError
from webui import confirm
from webui.account.present import page_key
from webui.admin import present
from webui.admin.routes import blueprint
from webui.allowances import turn_places
from webui.errors import NotFoundError
from webui.services import services
from webui.session import current_actor, own_token

_NOTICES: Final = {
    "sessions": "The person is signed out there.",
    "revoked": "The key is revoked.",
    "groups": "The groups are saved.",
    "withdrawn": "The link is withdrawn and opens nothing any more.",
}


@dataclass(frozen=True)
class Reading:
    """A line of the page of roles: what can be read, and which roles may."""

    what: str
    roles: frozenset[Role]
    but: str = ""


READINGS: Final = (
    Reading("Their own questions, answers and conversations", frozenset({Role.USER})),
    Reading(
        "What everybody asked and was answered, while it is kept", frozenset({Role.REVIEWER}),
        "each look is an event of the record, and names who looked",
    ),
    Reading("Who did what and when, without the words", frozenset({Role.REVIEWER})),
    Reading("The integrity of the record, checkpoints and evidence", frozenset({Role.REVIEWER})),
    Reading("Names, roles, groups, sessions and the names of API keys of everybody", frozenset({Role.ADMIN})),
    Reading("How much each person uses, in tokens and requests, never in words", frozenset({Role.ADMIN})),
    Reading("Settings, alarms and the state of the engine", frozenset({Role.ADMIN})),
    Reading("Passwords, and secrets of keys and links after they were shown once", frozenset(), "only hashes are kept"),
)  # fmt: skip


@blueprint.get("/people/<user_id>")
def person(user_id: str) -> Response:
    """What may be seen of one account; no content is."""
    service, now = services(), services().clock()
    found = find_person(service.record.database, user_id)
    if found is None:
        raise UserNotFoundError
    keys = service.api_keys.list_keys(user_id)
    sessions = service.sessions.list_sessions(user_id, own_token=own_token())
    page = render_template(
        "admin_person.html", person=found, sessions=sessions, links=service.oversight.open_links(user_id),
        api_keys=[page_key(key, now) for key in keys if key.revoked_at is None],
        revoked_keys=sum(key.revoked_at is not None for key in keys), damaged=[*keys.damaged, *sessions.damaged],
        groups=service.groups.list_groups(), uses=turn_places().uses(user_id),
        notice=_NOTICES.get(request.args.get("notice", "")),
    )  # fmt: skip
    return make_response(page)


@blueprint.post("/people/<user_id>/sessions/end")
def end_sessions(user_id: str) -> Response:
    """End one session of a person, or all where the form names none."""
    session_id = request.form.get("session") or None
    user = services().accounts.get(user_id)
    if not confirm.is_confirmed():
        back = url_for("admin.person", user_id=user_id)
        return confirm.ask(present.question_of_sessions(user, back, is_one=session_id is not None))
    services().oversight.end_sessions(user_id, session_id, by=current_actor())
    return _back(user_id, "sessions")


@blueprint.post("/people/<user_id>/keys/<key_id>/revoke")
def revoke_persons_key(user_id: str, key_id: str) -> Response:
    """Stop a person's key, after asking."""
    user, keys = services().accounts.get(user_id), services().api_keys.list_keys(user_id)
    key = next((key for key in keys if key.id == key_id), None)
    if key is None:
        raise NotFoundError("no_such_key", f"{user.name} has no such key.")
    if not confirm.is_confirmed():
        return confirm.ask(present.question_of_key(user, key.label, url_for("admin.person", user_id=user_id)))
    services().oversight.revoke_key(user_id, key_id, by=current_actor())
    return _back(user_id, "revoked")


@blueprint.post("/people/<user_id>/groups")
def set_groups(user_id: str) -> Response:
    """Put a person into the ticked groups and no others."""
    services().groups.set_groups_of(user_id, request.form.getlist("group"), by=current_actor())
    return _back(user_id, "groups")


@blueprint.get("/invitations")
def invitations() -> Response:
    """Every one-time link that still works."""
    links = services().oversight.open_links()
    notice = _NOTICES.get(request.args.get("notice", ""))
    return make_response(render_template("admin_invitations.html", links=links, notice=notice))


@blueprint.post("/invitations/<link_id>/withdraw")
def withdraw_link(link_id: str) -> Response:
    """End a link that nobody has used, after asking."""
    link = next((link for link in services().oversight.open_links() if link.id == link_id), None)
    if link is None:
        raise NotFoundError("no_such_link", "This link has ended already.")
    if not confirm.is_confirmed():
        return confirm.ask(present.question_of_withdrawing(link, url_for("admin.invitations")))
    services().oversight.withdraw(link_id, by=current_actor())
    return make_response(redirect(url_for("admin.invitations", notice="withdrawn"), 303))


@blueprint.get("/roles")
def roles() -> Response:
    """Who may read what."""
    return make_response(render_template("admin_roles.html", readings=READINGS, all_roles=list(Role)))


def _back(user_id: str, notice: str) -> Response:
    return make_response(redirect(url_for("admin.person", user_id=user_id, notice=notice), 303))
