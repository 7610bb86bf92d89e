"""A person's own account: password, API keys, and where it is signed in."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

from flask import Blueprint, Response, make_response, redirect, render_template, request

from appliance.audit.event import Content
from appliance.people.accounts import AccountError, Role
from appliance.people.api_keys import DEFAULT_DAYS, LONGEST_DAYS, ApiKey
from appliance.people.hashing_slots import HashingBusyError
from appliance.people.passwords import PasswordRuleError
from appliance.people.sign_in import SignInError
from webui import confirm
from webui.allowances import allowance
from webui.auth.session import begin_session, client_address, current_actor, demand_user, own_token, require_role
from webui.auth.views import refusal_status, retry_after_s
from webui.errors import NotFoundError
from webui.services import services

blueprint = Blueprint("account", __name__)

_NOTICES: Final = {
    "password": "The password is changed. You are signed out everywhere else.",
    "revoked": "The key is revoked.",
    "signed_out": "You are signed out everywhere else.",
}
_DAYS: Final = (30, DEFAULT_DAYS, 365)  # of a new key, to choose from
_ENDS_SOON: Final = timedelta(days=14)


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
    user, service = demand_user(), services()
    try:
        present = request.form.get("current_password", "")
        service.sign_in.confirm(user, present, via="web", address=client_address())
        service.accounts.set_password(
            user.id, request.form.get("new_password", ""), by=current_actor(), end_keys=confirm.is_chosen("end_keys")
        )
    except SignInError as exc:
        if not exc.retry_after_s:
            return _page(status=400, error="The present password is wrong.")
        return _refused(exc)
    except (PasswordRuleError, HashingBusyError) as exc:
        return _refused(exc)
    response = make_response(redirect("/account?notice=password", 303))
    begin_session(response, user)
    return response


@blueprint.post("/account/keys")
@require_role(Role.USER)
def create_key() -> Response:
    """Make an API key; its secret is in this response and nowhere else."""
    label = request.form.get("label", "")
    allowance().check_texts(demand_user().id, [])  # making and revoking keys is two events each
    allowance().spend(demand_user().id, Content(label))
    try:
        _, secret = services().api_keys.create(demand_user(), label, by=current_actor(), expires_at=_chosen_end())
    except AccountError as exc:
        return _page(status=400, error=str(exc), label=label)
    return _page(new_key=secret)


@blueprint.post("/account/keys/<key_id>/revoke")
def revoke_key(key_id: str) -> Response:
    """Stop one of the person's own keys, after asking."""
    user, api_keys = demand_user(), services().api_keys
    key = next((key for key in api_keys.list_keys(user.id) if key.id == key_id), None)
    if key is None:
        raise NotFoundError("no_such_key", "You have no such key.")
    if not confirm.is_confirmed():
        return confirm.ask(_question_of_key(key))
    api_keys.revoke(user.id, key_id, by=current_actor())
    return make_response(redirect("/account?notice=revoked", 303))


@blueprint.post("/account/sessions/end-others")
def end_other_sessions() -> Response:
    """Sign this person out everywhere but here."""
    services().sessions.end_others(demand_user(), own_token=own_token(), by=current_actor())
    return make_response(redirect("/account?notice=signed_out", 303))


def _refused(error: SignInError | HashingBusyError | PasswordRuleError) -> Response:
    response = _page(status=refusal_status(error), error=str(error))
    if response.status_code in (429, 503):
        response.headers["Retry-After"] = str(retry_after_s(error))
    return response


def _question_of_key(key: ApiKey) -> confirm.Question:
    used = f"It was last used on {key.used_at:%Y-%m-%d at %H:%M} UTC." if key.used_at else "It was never used."
    return confirm.Question(
        title=f"Revoke the key “{key.label}”?",
        consequences=("Programs that use it are refused at once, and answers under way end.", used,
                      "A revoked key cannot be brought back; a new one can be made."),
        button="Revoke the key",
        back="/account",
    )  # fmt: skip


def _chosen_end() -> datetime | None:
    """The end that the form names: in so many days, at the end of a date, or never.

    Raises:
        AccountError: it names none.
    """
    chosen = request.form.get("ends", str(DEFAULT_DAYS))
    try:
        if chosen == "never":
            return None
        if chosen == "date":
            day = datetime.strptime(request.form.get("end_date", ""), "%Y-%m-%d").replace(tzinfo=UTC)
            return datetime.combine(day, time(23, 59, 59), tzinfo=UTC)
        return services().clock() + timedelta(days=int(chosen))
    except (ValueError, OverflowError) as exc:
        raise AccountError("Choose when the key ends: in a number of days, or on a date.") from exc


def _page(
    *, status: int = 200, new_key: str | None = None, error: str | None = None, notice: str | None = None,
    label: str = "",
) -> Response:  # fmt: skip
    user, service, now = demand_user(), services(), services().clock()
    keys = service.api_keys.list_keys(user.id)
    sessions = service.sessions.list_sessions(user.id, own_token=own_token())
    page = render_template(
        "account.html", api_keys=[_shown(key, now) for key in keys if key.revoked_at is None],
        damaged_keys=keys.damaged, sessions=sessions, damaged_sessions=sessions.damaged,
        new_key=new_key, error=error, notice=notice, label=label, days=_DAYS, default_days=DEFAULT_DAYS,
        may_be_endless=service.api_keys.allow_endless, earliest_end=(now + timedelta(days=1)).date().isoformat(),
        latest_end=(now + timedelta(days=LONGEST_DAYS - 1)).date().isoformat(), api_url=f"{service.site_url}/v1",
    )  # fmt: skip
    return make_response(page, status)


def _shown(key: ApiKey, now: datetime) -> dict[str, Any]:
    """A key as the page shows it; ``state`` is "ended", "soon" or ""."""
    left = None if key.expires_at is None else key.expires_at - now
    state = "" if left is None or left > _ENDS_SOON else "soon" if left > timedelta() else "ended"
    return {
        "id": key.id, "label": key.label, "created_at": key.created_at, "last_used_at": key.used_at,
        "expires_at": key.expires_at, "state": state, "days_left": None if left is None else max(left.days, 0),
    }  # fmt: skip
