"""Who is asking: the session cookie becomes ``current_user()``. Only this module demands roles.

Views are guarded with ``@require_role(Role.USER)``, or a whole blueprint with
``blueprint.before_request(lambda: demand_role(Role.REVIEWER))``. `webui.denials` records a refusal before it is
answered.
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
    """The signed-in person, or None. One request looks it up once; /v1 has keys of its own and never does."""
    if "user" not in g:
        g.user = None  # if the look-up raises, the error's own page is drawn for nobody
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
    if not has_role(demand_user(), role):
        raise ForbiddenError("missing_role")


def has_role(user: User, role: Role) -> bool:
    """The rule of every page that demands a role; `webui.admin.why` explains it with this function."""
    return role in user.roles


def require_role(role: Role) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only people with `role` use a view."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            demand_role(role)
            return view(*args, **kwargs)

        return guarded

    return decorate


def session_permit(role: Role) -> Permit:
    """A check that the turn repeats while it runs: the session still stands, and its owner has `role`."""
    service, token, user_id = services(), own_token(), demand_user().id

    def why_ended() -> str | None:
        user = service.sessions.user(token, is_used=False)  # a running turn alone keeps no session alive
        if user is None:
            return "The account was disabled" if service.accounts.get(user_id).disabled else "The session has ended"
        return None if role in user.roles else "The role that this needs was taken away"

    return why_ended


def client_address() -> str:
    """The address that the request comes from; behind a trusted proxy, the one that the proxy names."""
    return request.remote_addr or ""


def current_actor(via: Via = "web") -> Actor:
    """Who acts in this request, for the record."""
    user = current_user()
    return user.actor(via, client_address()) if user else Actor("", "(not signed in)", via, client_address())


def begin_session(response: Response, user: User, *, token: str | None = None) -> None:
    """Sign `user` in with a new token, never with one that the browser sent. The browser's earlier session ends.

    The browser also gets its device cookie, which identifies it when it signs in to this account again.

    Args:
        token: the token of a session that was just begun; None begins one.
    """
    _end_own_session()
    token = token or services().sessions.create(user, address=client_address())
    set_cookie(response, "session", token, max_age_s=None)
    set_cookie(response, _device_kind(user.name), services().sign_in.device_cookie(user), max_age_s=_DEVICE_KEPT_S)
    drop_cookie(response, "visit")


def device_of(name: str) -> str:
    """This browser's device cookie for the account called `name`; "" without one."""
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
    """The cookie's kind. Each account has one, because people share browsers; it does not contain the name."""
    return "device-" + hashlib.sha256(name.encode(errors="replace")).hexdigest()[:12]
