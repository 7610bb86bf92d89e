"""Who calls the API: somebody with the Bearer key of a person with the role ``user``. Cookies are ignored under /v1."""

from __future__ import annotations

from datetime import datetime
from email.utils import format_datetime
from typing import Final

from flask import Response, g, request

from appliance.audit.event import Actor
from appliance.people.accounts import Role, User
from appliance.people.api_keys import KeyEnd, KeyRefusedError
from appliance.turns.permits import Permit
from webui.api.errors import ApiError
from webui.denials import record_denial
from webui.services import services
from webui.session import client_address

_SCHEME = "bearer "
EXPIRY_HEADER: Final = "X-API-Key-Expires"
_ENDED: Final[dict[KeyEnd, str]] = {
    "unknown": "The API key is not known",
    "revoked": "The API key was revoked",
    "expired": "The API key has ended",
    "account_disabled": "The account was disabled",
}


def demand_key() -> None:
    """Refuse a request without a valid key; a refusal is recorded first.

    Raises:
        ApiError: 401 without a valid key, 403 when its owner may not chat.
    """
    try:
        user, g.api_key_expires_at = services().api_keys.authenticate(_secret())
    except KeyRefusedError as exc:
        raise _refused(exc) from None
    if Role.USER not in user.roles:
        record_denial(user.actor("api", client_address()), "missing_role")
        raise ApiError(403, "missing_role", "The owner of this key does not have the role to use the model.")
    g.api_user = user


def key_permit() -> Permit:
    """Says whether the key is still valid; it is asked again and again while an answer is being written."""
    api_keys, secret = services().api_keys, _secret()

    def why_ended() -> str | None:
        try:
            user, _ = api_keys.authenticate(secret)
        except KeyRefusedError as exc:
            return _ENDED[exc.why]
        return None if Role.USER in user.roles else "The role that this needs was taken away"

    return why_ended


def say_when_the_key_ends(response: Response) -> Response:
    """Name the key's end in a header, so that programs can warn their owner before it."""
    expires_at: datetime | None = g.get("api_key_expires_at")
    if expires_at is not None:
        response.headers[EXPIRY_HEADER] = format_datetime(expires_at, usegmt=True)
    return response


def api_user() -> User:
    """The key's owner; after `demand_key`."""
    user: User = g.api_user
    return user


def _secret() -> str:
    header = request.headers.get("Authorization", "")
    return header[len(_SCHEME) :].strip() if header.lower().startswith(_SCHEME) else ""


def _refused(error: KeyRefusedError) -> ApiError:
    """Record whose key was refused, and say what to do."""
    owner = error.user
    actor = owner.actor("api", client_address()) if owner else Actor("", "(no valid key)", "api", client_address())
    if error.why == "expired":
        record_denial(actor, "api_key_expired")
        message = "This API key has ended; its owner makes a new one on the account page."
        return ApiError(401, "api_key_expired", message)
    record_denial(actor, "invalid_api_key")
    return ApiError(401, "invalid_api_key", "A valid API key is needed: Authorization: Bearer KEY.")
