"""Signing in and out, the one-time link with which a person begins, and the person's own account.

Two blueprints, because the record names endpoints: ``auth`` is for strangers, ``account`` for who is signed in.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any, Final

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for

from appliance.audit.event import Content, check_storable
from appliance.people.accounts import AccountError, LinkError, Role, User
from appliance.people.api_keys import DEFAULT_DAYS, end_of_day
from appliance.people.hashing_places import HashingBusyError
from appliance.people.instructions import MAX_CHARS
from appliance.people.key_rights import ALL_SCOPES, KeyRights, Scope
from appliance.people.passwords import PasswordRuleError
from appliance.people.sign_in import SignInError
from appliance.people.users import NAME_PATTERN, NAME_RULE
from webui import confirm
from webui.account import present
from webui.account.return_to import safe_return_path
from webui.allowances import allowance
from webui.errors import LinkRefusedError, NotFoundError
from webui.handover import answer, hand_over, take
from webui.services import services
from webui.session import (
    begin_session,
    client_address,
    current_actor,
    current_user,
    demand_user,
    device_of,
    end_session,
    own_token,
    require_role,
)

strangers = Blueprint("auth", __name__)
blueprint = Blueprint("account", __name__)

_REFUSALS: Final = (SignInError, HashingBusyError, PasswordRuleError)
_NOTICES: Final = {
    "password": "The password is changed. You are signed out everywhere else.",
    "revoked": "The key is revoked.",
    "key_shown": "A new key is shown once. If you did not keep it, revoke it and make another.",
    "instructions": "Your instructions are kept. The model reads them from your next question on.",
    "no_instructions": "You have no instructions any more.",
    "signed_out": "You are signed out everywhere else.",
}


@strangers.get("/sign-in")
def sign_in() -> Response:
    """The form. A browser that is signed in is sent on at once."""
    return_path, left = safe_return_path(request.args.get("next")), take()
    if current_user() is not None and not left:
        return make_response(redirect(return_path))
    page = render_template("sign_in.html", error=left.get("error"), name=left.get("name", ""), next=return_path)
    response = answer(page, left)
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        # A link from another site: the browser withholds the session it may have (SameSite=Strict), and will send it
        # when this page itself asks again.
        response.headers["Refresh"] = "0; url=" + url_for("auth.sign_in", next=return_path)
    return response


@strangers.post("/sign-in")
def sign_in_submit() -> Response:
    """Check name and password; every attempt is recorded by the accounts."""
    name, password = request.form.get("name", ""), request.form.get("password", "")
    return_path = safe_return_path(request.form.get("next"))
    try:
        user, session = services().sign_in.open_session(
            services().sessions, name, password, via="web", address=client_address(), device=device_of(name)
        )
    except _REFUSALS as exc:
        return hand_over(url_for("auth.sign_in", next=return_path), {"name": name, **_refusal(exc)})
    return _go_on(user, return_path, session)


@strangers.post("/sign-out")
def sign_out() -> Response:
    """End this browser's session."""
    response = make_response(redirect("/sign-in", 303))
    end_session(response)
    return response


@strangers.get("/welcome/<token>")
def welcome(token: str) -> Response:
    """The form behind a one-time link. Looking at it does not use the link up. The name of a new account stays open."""
    link_user, left = _link_user(token), take()
    has_keys = link_user is not None and services().api_keys.has_working(link_user.id)
    page = render_template(
        "welcome.html", token=token, account=link_user.name if link_user else None, name=left.get("name", ""),
        error=left.get("error"), has_keys=has_keys, name_rule=NAME_RULE, name_pattern=NAME_PATTERN,
    )  # fmt: skip
    return answer(page, left)


@strangers.post("/welcome/<token>")
def welcome_submit(token: str) -> Response:
    """Use the link: make the account or set its password, and sign in."""
    _link_user(token)
    name, password = request.form.get("name", ""), request.form.get("password", "")
    if password != request.form.get("password_again", ""):
        return _back_to_link(token, name, "The two passwords differ.")
    try:
        user = services().accounts.redeem(
            token, name, password, via="web", address=client_address(), end_keys=confirm.is_chosen("end_keys")
        )
    except LinkError as exc:  # ended between the two steps
        raise LinkRefusedError(message=str(exc)) from None
    except (AccountError, PasswordRuleError, HashingBusyError) as exc:
        return _back_to_link(token, name, str(exc))
    is_first = Role.ADMIN in user.roles and len(services().accounts.list_users()) == 1
    return _go_on(user, url_for("admin.first_steps") if is_first else "/")


@blueprint.before_request
def _signed_in() -> None:
    demand_user()


@blueprint.get("/account")
def show() -> Response:
    """The page, with the keys that still work, and once the secret of a new one."""
    left = take()
    return answer(_page(left, notice=_NOTICES.get(request.args.get("notice", ""))), left)


@blueprint.post("/account/password")
def change_password() -> Response:
    """Set a new password, after the present one; every session ends, and this browser gets a new one."""
    user, service = demand_user(), services()
    try:
        password_now = request.form.get("current_password", "")
        service.sign_in.confirm(user, password_now, via="web", address=client_address())
        service.accounts.set_password(
            user.id, request.form.get("new_password", ""), by=current_actor(), end_keys=confirm.is_chosen("end_keys")
        )
    except _REFUSALS as exc:
        if isinstance(exc, SignInError) and not exc.retry_after_s:
            return _back({"status": 400, "error": "The present password is wrong."})
        return _back(_refusal(exc))
    response = make_response(redirect("/account?notice=password", 303))
    begin_session(response, user)
    return response


@blueprint.post("/account/keys")
@require_role(Role.USER)
def create_key() -> Response:
    """Make an API key. The page that this leads to shows its secret, once."""
    label, scopes = request.form.get("label", ""), _chosen_scopes()
    allowance().check_texts(demand_user().id, [])  # making a key and revoking it are events
    allowance().spend(demand_user().id, Content(label))
    try:
        _, secret = services().api_keys.create(
            demand_user(), label, by=current_actor(), expires_at=_chosen_end(), rights=KeyRights(scopes)
        )
    except AccountError as exc:
        return _back({"status": 400, "error": str(exc), "label": label, "chosen": sorted(scopes)})
    return hand_over(url_for("account.show", notice="key_shown"), {"new_key": secret})


@blueprint.post("/account/keys/<key_id>/revoke")
def revoke_key(key_id: str) -> Response:
    """Stop one of the person's own keys, after asking."""
    user, api_keys = demand_user(), services().api_keys
    key = next((key for key in api_keys.list_keys(user.id) if key.id == key_id), None)
    if key is None:
        raise NotFoundError("no_such_key", "You have no such key.")
    if not confirm.is_confirmed():
        return confirm.ask(present.question_of_revoking(key))
    api_keys.revoke(user.id, key_id, by=current_actor())
    return make_response(redirect("/account?notice=revoked", 303))


@blueprint.post("/account/instructions")
@require_role(Role.USER)
def keep_instructions() -> Response:
    """Replace what the model reads first in this person's chats."""
    text = request.form.get("text", "").replace("\r\n", "\n")
    problem = _problem_of(text)
    if problem:
        return hand_over("/account", {"status": 400, "error": problem, "instructions": text[: MAX_CHARS * 2]})
    user = demand_user()
    allowance().spend_bytes(user.id, len(text.encode()))
    services().instructions.keep(user.id, text)
    notice = "instructions" if text.strip() else "no_instructions"
    return make_response(redirect(f"/account?notice={notice}", 303))


def _problem_of(text: str) -> str:
    if len(text) > MAX_CHARS:
        return f"The instructions have {len(text):,} characters, and {MAX_CHARS:,} are allowed. Nothing was changed."
    try:
        check_storable(text)
    except ValueError:
        return "The instructions contain characters that cannot be kept. Nothing was changed."
    return ""


@blueprint.post("/account/sessions/end-others")
def end_other_sessions() -> Response:
    """Sign this person out everywhere but here, after asking."""
    if not confirm.is_confirmed():
        return confirm.ask(present.question_of_ending_sessions())
    services().sessions.end_others(demand_user(), own_token=own_token(), by=current_actor())
    return make_response(redirect("/account?notice=signed_out", 303))


def _refusal(error: SignInError | HashingBusyError | PasswordRuleError) -> dict[str, Any]:
    """What the next page says, with the status of a password that was not accepted, and when to try again."""
    if isinstance(error, PasswordRuleError):
        return {"status": 400, "error": str(error)}
    status = 503 if isinstance(error, HashingBusyError) else 429 if error.retry_after_s else 401
    waits = {} if status == 401 else {"retry_after": int(error.retry_after_s) + 1}
    return {"status": status, "error": str(error), **waits}


def _back(left: dict[str, Any]) -> Response:
    return hand_over(url_for("account.show"), left)


def _back_to_link(token: str, name: str, error: str) -> Response:
    return hand_over(url_for("auth.welcome", token=token), {"status": 400, "error": error, "name": name})


def _go_on(user: User, path: str, session: str | None = None) -> Response:
    response = make_response(redirect(path, 303))
    begin_session(response, user, token=session)
    return response


def _link_user(token: str) -> User | None:
    try:
        return services().accounts.link_user(token)
    except LinkError as exc:
        raise LinkRefusedError(message=str(exc)) from None


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
            return end_of_day(date.fromisoformat(request.form.get("end_date", "")))
        return services().clock() + timedelta(days=int(chosen))
    except (ValueError, OverflowError) as exc:
        raise AccountError("Choose when the key ends: in a number of days, or on a date.") from exc


def _chosen_scopes() -> frozenset[Scope]:
    """The boxes of the form that are ticked; a form without a tick gives a key no scope, and so no key."""
    return frozenset(scope for scope in Scope if scope.value in request.form.getlist("scope"))


def _page(left: dict[str, Any], *, notice: str | None) -> str:
    """Args: left: what the form that led here left: ``new_key``, or ``error`` with what was in the form."""
    user, service, now = demand_user(), services(), services().clock()
    keys = service.api_keys.list_keys(user.id)
    sessions = service.sessions.list_sessions(user.id, own_token=own_token())
    return render_template(
        "account.html", api_keys=[present.page_key(key, now) for key in keys if key.revoked_at is None],
        damaged_keys=keys.damaged, sessions=sessions, damaged_sessions=sessions.damaged,
        instructions=left.get("instructions", service.instructions.of(user.id)), most_instructions=MAX_CHARS,
        new_key=left.get("new_key"), error=left.get("error"), notice=None if left else notice,
        label=left.get("label", ""), chosen=left.get("chosen", ALL_SCOPES), scope_words=present.SCOPE_WORDS,
        ends=present.end_choices(now, may_be_endless=service.api_keys.allow_endless), api_url=f"{service.site_url}/v1",
    )  # fmt: skip
