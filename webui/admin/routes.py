"""The administrator's pages: who has an account, with which roles; and what is running. No content is shown here."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for

from appliance.accounts import AccountError, Role, UserNotFoundError
from appliance.engine.client import EngineUnavailableError
from appliance.engine.protocol import Status
from webui.admin.alarms import current_alarms
from webui.auth.session import current_actor, demand_role
from webui.errors import NotFoundError, respond
from webui.services import services

STATUS_TIMEOUT_S = 0.5

blueprint = Blueprint("admin", __name__, url_prefix="/admin")


@blueprint.before_request
def only_admins() -> None:
    demand_role(Role.ADMIN)


@blueprint.errorhandler(UserNotFoundError)
def user_not_found(_: UserNotFoundError) -> Response:
    return respond(NotFoundError())


@blueprint.errorhandler(AccountError)
def refused(error: AccountError) -> Response:
    """Nothing was changed; the page says why."""
    return _page(error=str(error), name=request.form.get("name", ""))


@blueprint.get("")
def index() -> Response:
    return _page()


@blueprint.post("/users")
def add_user() -> Response:
    """Make an account without a password, and the link with which its owner sets one."""
    accounts = services().accounts
    user = accounts.create_user(request.form.get("name", ""), None, _roles(), by=current_actor())
    return _page(link_for=user.name, link=accounts.make_reset_link(user.id, by=current_actor()))


@blueprint.post("/users/<user_id>/link")
def new_link(user_id: str) -> Response:
    """A link for an account that exists: its owner has forgotten the password."""
    accounts = services().accounts
    return _page(link_for=accounts.get(user_id).name, link=accounts.make_reset_link(user_id, by=current_actor()))


@blueprint.post("/users/<user_id>/roles")
def set_roles(user_id: str) -> Response:
    services().accounts.set_roles(user_id, _roles(), by=current_actor())
    return _done()


@blueprint.post("/users/<user_id>/disable")
def disable(user_id: str) -> Response:
    services().accounts.disable(user_id, by=current_actor())
    return _done()


@blueprint.post("/users/<user_id>/enable")
def enable(user_id: str) -> Response:
    services().accounts.enable(user_id, by=current_actor())
    return _done()


def _done() -> Response:
    return make_response(redirect(url_for("admin.index"), 303))


def _roles() -> frozenset[Role]:
    """The roles ticked in the form."""
    return frozenset(role for role in Role if request.form.get(role.value) == "yes")


def _page(*, error: str | None = None, name: str = "", link_for: str = "", link: str = "") -> Response:
    service = services()
    address = url_for("auth.welcome", token=link, _external=True) if link else ""
    page = render_template(
        "admin.html", users=service.accounts.list_users(), roles=list(Role), error=error, name=name,
        link_for=link_for, link=address, engine=_engine_status(), alarms=current_alarms(service),
    )  # fmt: skip
    return make_response(page, 400 if error else 200)


def _engine_status() -> Status | None:
    try:
        return services().engine.status(timeout_s=STATUS_TIMEOUT_S)
    except EngineUnavailableError:
        return None
