"""Who is asking: the session cookie becomes ``current_user()``; roles are demanded here and nowhere else.

Views are guarded with ``@require_role(Role.USER)``, or a whole blueprint with
``blueprint.before_request(lambda: demand_role(Role.REVIEWER))``. A refusal is recorded before it is answered
(`webui.denials`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import Response, g, request

from appliance.accounts import Role, User
from appliance.audit.event import Actor, Via
from webui.errors import ForbiddenError, SignInNeededError
from webui.security import cookie_name, drop_cookie, set_cookie
from webui.services import services

P = ParamSpec("P")
R = TypeVar("R")


def current_user() -> User | None:
    """The signed-in person, or None. Looked up once per request; /v1 has its own keys and never asks."""
    if "user" not in g:
        g.user = None  # stays so when the look-up raises, so that the error's own page can be shown
        token = request.cookies.get(cookie_name("session"))
        if token:
            g.user = services().sessions.user(token)
    user: User | None = g.user
    return user


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


def client_address() -> str:
    """Where the request comes from, as the server sees it; a proxy in front hides more."""
    return request.remote_addr or ""


def current_actor(via: Via = "web") -> Actor:
    """Who acts in this request, for the record."""
    user = current_user()
    return user.actor(via, client_address()) if user else Actor("", "(not signed in)", via, client_address())


def begin_session(response: Response, user: User) -> None:
    """Sign `user` in: a new token, never one the browser brought along; an earlier session of it ends."""
    _end_own_session()
    set_cookie(response, "session", services().sessions.create(user, address=client_address()), max_age_s=None)
    drop_cookie(response, "visit")


def end_session(response: Response) -> None:
    """Sign this browser out; without a session it does nothing."""
    _end_own_session()
    drop_cookie(response, "session")


def _end_own_session() -> None:
    token, user = request.cookies.get(cookie_name("session")), current_user()
    if token and user:
        services().sessions.end(token, by=user.actor("web", client_address()))
