"""Who calls the API: a Bearer key that belongs to a person with the role ``user``. No cookie is read under /v1."""

from __future__ import annotations

from flask import g, request

from appliance.accounts import Role, User
from appliance.audit.event import Actor
from webui.api.errors import ApiError
from webui.auth.session import client_address
from webui.denials import record_denial
from webui.services import services

_SCHEME = "bearer "


def demand_key() -> None:
    """Refuse a request without a valid key; a refusal is recorded first.

    Raises:
        ApiError: 401 without a valid key, 403 when its owner may not chat.
    """
    header = request.headers.get("Authorization", "")
    secret = header[len(_SCHEME) :].strip() if header.lower().startswith(_SCHEME) else ""
    user = services().api_keys.user(secret) if secret else None
    if user is None:
        record_denial(Actor("", "(no valid key)", "api", client_address()), "invalid_api_key")
        raise ApiError(401, "invalid_api_key", "A valid API key is needed: Authorization: Bearer KEY.")
    if Role.USER not in user.roles:
        record_denial(user.actor("api", client_address()), "missing_role")
        raise ApiError(403, "missing_role", "The owner of this key does not have the role to use the model.")
    g.api_user = user


def api_user() -> User:
    """The key's owner; after `demand_key`."""
    user: User = g.api_user
    return user
