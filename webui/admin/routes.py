"""The administrator's addresses: accounts and their roles, what waits for a second administrator, and what is running.
No page here shows content."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for

from appliance.people.accounts import AccountError, Role, UserNotFoundError
from appliance.people.four_eyes import Change, SecondNeededError
from appliance.people.users import NoLongerAdminError
from webui import confirm, denials
from webui.admin import present
from webui.admin.alarms import current_alarms
from webui.admin.listing import listed_people
from webui.admin.steps import steps, steps_left
from webui.errors import ForbiddenError, NotFoundError, respond
from webui.handover import answer, hand_over, take
from webui.services import services
from webui.session import begin_session, current_actor, demand_role, demand_user

STATUS_TIMEOUT_S = 0.5
_NOTICES = {
    "asked": "Another administrator must confirm this. It waits below, and nothing has changed yet.",
    "confirmed": "Confirmed. If the request was for a link, the administrator who asked makes it.",
    "refused": "The request is closed. Nothing was changed.",
    "link_shown": "A link is shown once. If it was not handed over, make a new one.",
}

blueprint = Blueprint("admin", __name__, url_prefix="/admin")


@blueprint.before_request
def only_admins() -> None:
    demand_role(Role.ADMIN)


@blueprint.errorhandler(UserNotFoundError)
def user_not_found(_: UserNotFoundError) -> Response:
    return respond(NotFoundError())


@blueprint.errorhandler(NoLongerAdminError)
def lost_the_role(_: NoLongerAdminError) -> Response:
    """The administrator lost the role after the request had passed its check."""
    return denials.respond(ForbiddenError("missing_role"))


@blueprint.errorhandler(SecondNeededError)
def ask_another(needed: SecondNeededError) -> Response:
    """Ask the other administrators. Nothing was changed."""
    try:
        services().approvals.ask(needed.change, by=current_actor())
    except AccountError as exc:
        return refused(exc)
    return _done("asked")


@blueprint.errorhandler(AccountError)
def refused(error: AccountError) -> Response:
    """Say on the page why nothing was changed."""
    left = {"status": 400, "error": str(error), "name": request.form.get("name", "")}
    return hand_over(url_for("admin.index"), left)


@blueprint.get("")
def index() -> Response:
    """The page, with what the form that led here left: once a link, or why nothing was changed."""
    left = take()
    return answer(_page(left, notice=_NOTICES.get(request.args.get("notice", ""))), left)


@blueprint.post("/users")
def add_user() -> Response:
    """Make an account without a password, and the link with which its owner sets one."""
    accounts = services().accounts
    user = accounts.create_user(request.form.get("name", ""), None, _roles(), by=current_actor())
    return _show_link(user.name, accounts.make_reset_link(user.id, by=current_actor()))


@blueprint.post("/users/<user_id>/link")
def new_link(user_id: str) -> Response:
    """Make a link for an existing account whose owner has forgotten the password."""
    accounts = services().accounts
    user = accounts.get(user_id)
    if not confirm.is_confirmed():
        wanted = Change("link", user.id, user.name, user.roles, user.roles)
        return confirm.ask(present.question_of_link(user, _outlook(wanted), replaces=accounts.has_link(user_id)))
    return _show_link(user.name, accounts.make_reset_link(user_id, by=current_actor()))


@blueprint.post("/users/<user_id>/roles")
def set_roles(user_id: str) -> Response:
    """Change roles. That ends sessions, so the page asks first; who changes their own roles stays signed in here."""
    accounts, wanted = services().accounts, _roles()
    user = accounts.get(user_id)
    if wanted and wanted != user.roles and not confirm.is_confirmed():
        change = Change("roles", user.id, user.name, user.roles, wanted)
        return confirm.ask(present.question_of_roles(user, wanted, _outlook(change)))
    changed = accounts.set_roles(user_id, wanted, by=current_actor(), end_keys=confirm.is_chosen("end_keys"))
    response = _done()
    if changed.id == demand_user().id and changed.roles != user.roles:
        begin_session(response, changed)  # this browser's session ended with the others
        if Role.ADMIN not in changed.roles:
            response.headers["Location"] = "/"
    return response


@blueprint.post("/users/<user_id>/disable")
def disable(user_id: str) -> Response:
    user = services().accounts.get(user_id)
    if not confirm.is_confirmed():
        again = services().approvals.outlook_of_enabling_again(user, by=current_actor())
        return confirm.ask(present.question_of_disabling(user, again))
    services().accounts.disable(user_id, by=current_actor())
    return _done()


@blueprint.post("/users/<user_id>/enable")
def enable(user_id: str) -> Response:
    services().accounts.enable(user_id, by=current_actor())
    return _done()


@blueprint.post("/requests/<request_id>/confirm")
def confirm_request(request_id: str) -> Response:
    """Agree to what another administrator asked for."""
    approvals = services().approvals
    wanted = next((one for one in approvals.open_requests() if one.id == request_id), None)
    if wanted is not None and not confirm.is_confirmed():
        return confirm.ask(present.question_of_confirming(wanted))
    approvals.confirm(request_id, by=current_actor())
    return _done("confirmed")


@blueprint.post("/requests/<request_id>/refuse")
def refuse_request(request_id: str) -> Response:
    """Close a request, one's own or another's, without doing what it asks for."""
    approvals = services().approvals
    wanted = next((one for one in approvals.open_requests() if one.id == request_id), None)
    if wanted is not None and not confirm.is_confirmed():
        return confirm.ask(present.question_of_refusing(wanted, is_own=wanted.requester_id == demand_user().id))
    approvals.refuse(request_id, by=current_actor())
    return _done("refused")


@blueprint.post("/requests/<request_id>/link")
def make_confirmed_link(request_id: str) -> Response:
    """Show the confirmed link once, to the administrator who asked for it."""
    name, link = services().approvals.make_link(request_id, by=current_actor())
    return _show_link(name, link)


def _outlook(change: Change) -> str:
    return services().approvals.outlook(change, by=current_actor())


def _done(notice: str = "") -> Response:
    """Back to the page."""
    return make_response(redirect(url_for("admin.index", notice=notice or None), 303))


def _roles() -> frozenset[Role]:
    """The roles ticked in the form."""
    return frozenset(role for role in Role if request.form.get(role.value) == "yes")


def _show_link(name: str, token: str) -> Response:
    """Back to the page, which shows the link once."""
    link = services().site_url + url_for("auth.welcome", token=token)
    return hand_over(url_for("admin.index", notice="link_shown"), {"link_for": name, "link": link})


def _page(left: dict[str, Any], *, notice: str | None) -> str:
    service = services()
    alarms = current_alarms(service)
    damaged, asked = service.accounts.list_users().damaged, service.approvals.open_requests()
    return render_template(
        "admin.html", damaged=[*damaged, *asked.damaged], roles=list(Role), error=left.get("error"),
        name=left.get("name", ""), link_for=left.get("link_for", ""), link=left.get("link", ""),
        notice=None if left else notice, **listed_people(),
        alarms=alarms, steps_left=steps_left(list(steps(service, alarms))),
        requests=present.page_requests(service.approvals, asked, demand_user()),
    )  # fmt: skip
