"""Who is asking: the session cookie becomes ``current_user()``; roles are demanded here and nowhere else.

Views are guarded with ``@require_role("user")``, or a whole blueprint with
``blueprint.before_request(lambda: demand_role("reviewer"))``. A refusal is recorded before it is answered
(`webui.denials`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import g, request

from appliance.accounts import Role, User
from webui.errors import ForbiddenError, SignInNeededError
from webui.security import cookie_name
from webui.services import services

P = ParamSpec("P")
R = TypeVar("R")


def current_user() -> User | None:
    """The signed-in person, or None. Looked up once per request; /v1 has its own keys and never asks."""
    if "user" not in g:
        token = request.cookies.get(cookie_name("session"))
        g.user = services().accounts.session_user(token) if token else None
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
