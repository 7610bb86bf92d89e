"""Who is asking: the session cookie becomes ``current_user()``; roles are demanded here and nowhere else.

Views are guarded with ``@require_role(Role.USER)``, or a whole blueprint with
``blueprint.before_request(lambda: demand_role(Role.REVIEWER))``. A refusal is recorded before it is answered
(`webui.denials`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from flask import Response, g, request

from appliance.audit.event import Actor, Via
from appliance.people.accounts import Role, User
from appliance.turns.permits import Permit
from webui.errors import ForbiddenError, SignInNeededError
from webui.security import cookie_name, drop_cookie, set_cookie
from webui.services import services

P = ParamSpec("P")
R = TypeVar("R")

_DEVICE_KEPT_S: Final = 180 * 24 * 3600


def current_user() -> User | None:
    """The signed-in person, or None. Looked up once per request; /v1 has its own keys and never asks."""
    if "user" not in g:
        g.user = None  # stays so when the look-up raises, so that the error's own page can be shown
        token = own_token()
        if token:
            g.user = services().sessions.user(token)
    user: User | None = g.user
    return user


def own_token() -> str:
    """The session token that this browser sent; "" without one."""
    return request.cookies.get(cookie_name("session"), "")


def demand_user() -> User:
    """The signed-in person.

    Raises:
        SignInNeededError: nobody is signed in.
    """
    user = current_user()
    if user is None:
        raise SignInNeededError
    return user


def demand_role(role: Role) -> None:
    """Refuse unless the signed-in person has `role`.

    Raises:
        SignInNeededError, ForbiddenError
    """
    if role not in demand_user().roles:
        raise ForbiddenError("missing_role")


def require_role(role: Role) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A view only for people with `role`."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            demand_role(role)
            return view(*args, **kwargs)

        return guarded

    return decorate


def session_permit(role: Role) -> Permit:
    """Whether this session still stands and its owner has `role`: asked again while an answer is under way."""
    service, token, user_id = services(), own_token(), demand_user().id

    def why_ended() -> str | None:
        user = service.sessions.user(token, is_used=False)  # an answer that nobody watches keeps no session alive
        if user is None:
            return "The account was disabled" if service.accounts.get(user_id).disabled else "The session has ended"
        return None if role in user.roles else "The role that this needs was taken away"

    return why_ended


def client_address() -> str:
    """Where the request comes from, as the server sees it; a proxy in front hides more."""
    return request.remote_addr or ""


def current_actor(via: Via = "web") -> Actor:
    """Who acts in this request, for the record."""
    user = current_user()
    return user.actor(via, client_address()) if user else Actor("", "(not signed in)", via, client_address())


def begin_session(response: Response, user: User, *, token: str | None = None) -> None:
    """Sign `user` in: a new token, never one the browser brought along; an earlier session of it ends.

    The browser is also given its device cookie, by which it is known when it signs in to this account again.

    Args:
        token: that of a session which has just been begun; None: begin one.
    """
    _end_own_session()
    token = token or services().sessions.create(user, address=client_address())
    set_cookie(response, "session", token, max_age_s=None)
    set_cookie(response, _device_kind(user.name), services().sign_in.device_cookie(user), max_age_s=_DEVICE_KEPT_S)
    drop_cookie(response, "visit")


def device_of(name: str) -> str:
    """This browser's device cookie for the account of that name; "" without one."""
    return request.cookies.get(cookie_name(_device_kind(name.strip().lower())), "")


def end_session(response: Response) -> None:
    """Sign this browser out; without a session it does nothing."""
    _end_own_session()
    drop_cookie(response, "session")


def _end_own_session() -> None:
    token, user = own_token(), current_user()
    if token and user:
        services().sessions.end(token, by=user.actor("web", client_address()))


def _device_kind(name: str) -> str:
    """One cookie for each account: people share browsers. The name itself is not written into it."""
    return "device-" + hashlib.sha256(name.encode(errors="replace")).hexdigest()[:12]
