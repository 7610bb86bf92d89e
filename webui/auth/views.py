"""Signing in and out, and the one-time link with which a person begins."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for

from appliance.people.accounts import AccountError, LinkError, User
from appliance.people.hashing_slots import HashingBusyError
from appliance.people.passwords import PasswordRuleError
from appliance.people.sign_in import SignInError
from webui.auth.return_to import safe_return_path
from webui.auth.session import begin_session, client_address, current_user, device_of, end_session
from webui.errors import LinkRefusedError
from webui.services import services

blueprint = Blueprint("auth", __name__)


@blueprint.get("/sign-in")
def sign_in() -> Response:
    """The form; someone who is signed in goes on at once."""
    return_path = safe_return_path(request.args.get("next"))
    if current_user() is not None:
        return make_response(redirect(return_path))
    response = _sign_in_form(return_path)
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        # A link from another site: the browser withholds the session it may have (SameSite=Strict), and will send it
        # when this page itself asks again.
        response.headers["Refresh"] = "0; url=" + url_for("auth.sign_in", next=return_path)
    return response


@blueprint.post("/sign-in")
def sign_in_submit() -> Response:
    """Check name and password; every attempt is recorded by the accounts."""
    name, password = request.form.get("name", ""), request.form.get("password", "")
    return_path = safe_return_path(request.form.get("next"))
    try:
        user, session = services().sign_in.open_session(
            services().sessions, name, password, via="web", address=client_address(), device=device_of(name)
        )
    except (SignInError, HashingBusyError, PasswordRuleError) as exc:
        response = _sign_in_form(return_path, name=name, error=str(exc))
        response.status_code = refusal_status(exc)
        if response.status_code in (429, 503):
            response.headers["Retry-After"] = str(retry_after_s(exc))
        return response
    return _go_on(user, return_path, session)


def refusal_status(error: SignInError | HashingBusyError | PasswordRuleError) -> int:
    """What a password that was not accepted is in HTTP."""
    if isinstance(error, HashingBusyError):
        return 503
    if isinstance(error, PasswordRuleError):
        return 400
    return 429 if error.retry_after_s else 401


def retry_after_s(error: SignInError | HashingBusyError | PasswordRuleError) -> int:
    """Whole seconds to wait."""
    return 0 if isinstance(error, PasswordRuleError) else int(error.retry_after_s) + 1


@blueprint.post("/sign-out")
def sign_out() -> Response:
    """End this browser's session."""
    response = make_response(redirect("/sign-in"))
    end_session(response)
    return response


@blueprint.get("/welcome/<token>")
def welcome(token: str) -> Response:
    """The form behind a one-time link. Looking at it does not use the link up."""
    return _welcome_form(token, _link_user(token))


@blueprint.post("/welcome/<token>")
def welcome_submit(token: str) -> Response:
    """Use the link: make the account or set its password, and sign in."""
    link_user = _link_user(token)
    name, password = request.form.get("name", ""), request.form.get("password", "")
    if password != request.form.get("password_again", ""):
        return _welcome_form(token, link_user, name=name, error="The two passwords differ.")
    try:
        user = services().accounts.redeem(
            token, name, password, via="web", address=client_address(), end_keys=request.form.get("end_keys") == "yes"
        )
    except LinkError as exc:  # ended between the two steps
        raise LinkRefusedError(message=str(exc)) from None
    except (AccountError, PasswordRuleError, HashingBusyError) as exc:
        return _welcome_form(token, link_user, name=name, error=str(exc))
    return _go_on(user, "/")


def _go_on(user: User, path: str, session: str | None = None) -> Response:
    response = make_response(redirect(path, 303))
    begin_session(response, user, token=session)
    return response


def _sign_in_form(return_path: str, *, name: str = "", error: str | None = None) -> Response:
    return make_response(render_template("sign_in.html", error=error, name=name, next=return_path))


def _welcome_form(token: str, link_user: User | None, *, name: str = "", error: str | None = None) -> Response:
    shown = link_user.name if link_user else name
    has_keys = link_user is not None and services().api_keys.has_working(link_user.id)
    page = render_template("welcome.html", token=token, name=shown, error=error, has_keys=has_keys)
    return make_response(page, 400 if error else 200)


def _link_user(token: str) -> User | None:
    try:
        return services().accounts.link_user(token)
    except LinkError as exc:
        raise LinkRefusedError(message=str(exc)) from None
