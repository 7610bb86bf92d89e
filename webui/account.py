"""A person's own account: password and API keys."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, make_response, redirect, render_template, request

from appliance.accounts import AccountError, Role, SignInError
from appliance.passwords import PasswordRuleError
from webui.auth.session import begin_session, client_address, current_actor, demand_user, require_role
from webui.errors import NotFoundError
from webui.services import services

blueprint = Blueprint("account", __name__)

_NOTICES: Final = {
    "password": "The password is changed. You are signed out everywhere else.",
    "revoked": "The key is revoked.",
}


@blueprint.before_request
def _signed_in() -> None:
    demand_user()


@blueprint.get("/account")
def show() -> Response:
    """The page, with the keys that still work."""
    return _page(notice=_NOTICES.get(request.args.get("notice", "")))


@blueprint.post("/account/password")
def change_password() -> Response:
    """Set a new password, after the present one; every session ends, and this browser gets a new one."""
    user = demand_user()
    try:
        services().accounts.authenticate(
            user.name, request.form.get("current_password", ""), via="web", address=client_address()
        )
        services().accounts.set_password(user.id, request.form.get("new_password", ""), by=current_actor())
    except SignInError as exc:
        return _page(status=400, error=str(exc) if exc.retry_after_s else "The present password is wrong.")
    except PasswordRuleError as exc:
        return _page(status=400, error=str(exc))
    response = make_response(redirect("/account?notice=password", 303))
    begin_session(response, user)
    return response


@blueprint.post("/account/keys")
@require_role(Role.USER)
def create_key() -> Response:
    """Make an API key; its secret is in this response and nowhere else."""
    try:
        _, secret = services().api_keys.create(demand_user(), request.form.get("label", ""), by=current_actor())
    except AccountError as exc:
        return _page(status=400, error=str(exc))
    return _page(new_key=secret)


@blueprint.post("/account/keys/<key_id>/revoke")
def revoke_key(key_id: str) -> Response:
    """Stop one of the person's own keys."""
    try:
        services().api_keys.revoke(demand_user().id, key_id, by=current_actor())
    except AccountError as exc:
        raise NotFoundError("no_such_key", "You have no such key.") from exc
    return make_response(redirect("/account?notice=revoked", 303))


def _page(
    *, status: int = 200, new_key: str | None = None, error: str | None = None, notice: str | None = None
) -> Response:
    keys = [
        {"id": key.id, "label": key.label, "created_at": key.created_at, "last_used_at": key.used_at}
        for key in services().api_keys.list_keys(demand_user().id)
        if key.revoked_at is None
    ]
    page = render_template("account.html", api_keys=keys, new_key=new_key, error=error, notice=notice)
    return make_response(page, status)
