"""Who calls the API: somebody with the key of a person with the role ``user``, as Bearer or in ``X-API-Key``. Cookies
are ignored under /v1.

A request is let in by five checks: 1. the key is valid, 2. its owner has the role, 3. the address is open to keys,
4. the key has the scope of the address, 5. the key's limits are not used up. The first four are asked again while an
answer is being written.
"""

from __future__ import annotations

from email.utils import format_datetime
from typing import Final

from flask import Response, g, request

from appliance.audit.details.denials import ScopeMissing
from appliance.audit.event import Actor
from appliance.people.accounts import Role, User
from appliance.people.api_keys import ApiKey, KeyEnd, KeyRefusedError
from appliance.people.key_rights import Scope
from appliance.turns.permits import Permit
from webui.api.addresses import UNKNOWN
from webui.api.errors import ApiError
from webui.api.limits import count_request
from webui.api.scopes import SCOPES, named
from webui.denials import record_denial
from webui.services import services
from webui.session import client_address, has_role

_SCHEME = "bearer "
EXPIRY_HEADER: Final = "X-API-Key-Expires"
_ENDED: Final[dict[KeyEnd, str]] = {
    "unknown": "The API key is not known",
    "revoked": "The API key was revoked",
    "expired": "The API key has ended",
    "account_disabled": "The account was disabled",
}


def demand_key() -> None:
    """Refuse a request whose key does not open this address; a refusal is recorded first.

    Raises:
        ApiError: 401 without a valid key, 403 when its owner may not chat or the key lacks the scope.
        KeyLimitError: the key has made as many requests as it may.
    """
    try:  # 1.
        access = services().api_keys.authenticate(_secret())
    except KeyRefusedError as exc:
        raise _refused(exc) from None
    g.api_user, g.api_key, g.api_scopes = access.user, access.key, set[Scope]()
    if not has_role(access.user, Role.USER):  # 2.
        record_denial(access.user.actor("api", client_address()), "missing_role")
        raise ApiError(403, "missing_role", "The owner of this key does not have the role to use the model.")
    _demand_scope_of_address()  # 3., 4.
    count_request(access.key)  # 5.


def demand_scope(scope: Scope) -> None:
    """Refuse this request unless its key has the scope, now and for as long as the answer is being written.

    Raises:
        ApiError: 403; the refusal is recorded first.
    """
    key: ApiKey = g.api_key
    if not has_scope(key, scope):
        raise _out_of_scope(scope.value, f"This API key lacks the scope {scope.value}, which this request needs.")
    g.api_scopes.add(scope)


def has_scope(key: ApiKey, scope: Scope) -> bool:
    """The rule of every address under /v1; `webui.admin.why` explains it with this function."""
    return scope in key.rights.scopes


def key_permit() -> Permit:
    """Says whether the key still opens this; it is asked again and again while an answer is being written."""
    api_keys, secret, scopes = services().api_keys, _secret(), frozenset[Scope](g.api_scopes)

    def why_ended() -> str | None:
        try:
            access = api_keys.authenticate(secret)
        except KeyRefusedError as exc:
            return _ENDED[exc.why]
        if Role.USER not in access.user.roles:
            return "The role that this needs was taken away"
        return None if scopes <= access.key.rights.scopes else "The scope that this needs was taken from the API key"

    return why_ended


def say_when_the_key_ends(response: Response) -> Response:
    """Name the key's end in a header, so that programs can warn their owner before it."""
    key: ApiKey | None = g.get("api_key")
    expires_at = None if key is None else key.expires_at
    if expires_at is not None:
        response.headers[EXPIRY_HEADER] = format_datetime(expires_at, usegmt=True)
    return response


def api_user() -> User:
    """The key's owner; after `demand_key`."""
    user: User = g.api_user
    return user


def _demand_scope_of_address() -> None:
    """Raises: ApiError: 403, the key may not use this address; the refusal is recorded first."""
    if request.endpoint == UNKNOWN or request.method == "OPTIONS":  # says which addresses or methods there are
        return
    scope = SCOPES.get(named(request.method, str(request.url_rule)))
    if scope is None:
        raise _out_of_scope("(none)", "This address is open to no API key.")
    demand_scope(scope)


def _out_of_scope(scope: str, message: str) -> ApiError:
    """Record which key was refused for which scope."""
    details = ScopeMissing(key=g.api_key.label, scope=scope)
    record_denial(api_user().actor("api", client_address()), "insufficient_scope", details)
    return ApiError(403, "insufficient_scope", message)


def _secret() -> str:
    header = request.headers.get("Authorization", "")
    if header.lower().startswith(_SCHEME):
        return header[len(_SCHEME) :].strip()
    return request.headers.get("X-API-Key", "").strip()  # as Anthropic's clients send it


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
