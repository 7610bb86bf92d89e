"""The site answers only under its own addresses, once the operator has named them (``[site] address``). Before that it
answers under any valid host name.

Covers: a Host header, or the host of an absolute request target, that names another site (DNS rebinding, poisoned links
and caches, a second name that nobody meant to serve). A monitor on the machine itself may ask /healthz and /readyz
under a loopback name.
Does not cover: X-Forwarded-Host, which this module does not read. No link is made from a request
(`webui.services.Services.site_url`).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from flask import Flask, request

from appliance.audit.event import Actor
from appliance.site_address import is_loopback, parse_authority
from webui.api.errors import ApiError, is_api
from webui.denials import record_denial
from webui.errors import UnknownHostError
from webui.services import services
from webui.session import client_address

_HEALTH_PATHS: Final = ("/healthz", "/readyz")


def install(app: Flask) -> None:
    """Check the host of every request of `app` before anything else looks at it."""
    app.before_request(check_host)


def check_host() -> None:
    """Refuse a request under a name that is not the site's.

    Raises:
        UnknownHostError: for a page; recorded by `webui.denials`.
        ApiError: for the API; recorded here.
    """
    if all(_is_ours(named) for named in _named_hosts()):
        return
    if is_api(request.path):  # even if no view takes the request
        record_denial(Actor("", "(not signed in)", "api", client_address()), UnknownHostError.code)
        raise ApiError(UnknownHostError.status, UnknownHostError.code, UnknownHostError.message)
    raise UnknownHostError


def _named_hosts() -> list[str]:
    """The Host header, and the host of a request target in absolute form. Both must be ours."""
    named = [request.environ["HTTP_HOST"]] if "HTTP_HOST" in request.environ else []
    if not named and services().config.site_addresses and request.path not in _HEALTH_PATHS:
        named = [""]  # HTTP/1.0 without a Host header names nothing of ours; load balancers check health that way
    target = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI") or "/"
    if not target.startswith("/") and target != "*":
        named.append(urlsplit(target).netloc)
    return named


def _is_ours(named: str) -> bool:
    try:
        host, port = parse_authority(named)
    except ValueError:
        return False
    addresses = services().config.site_addresses
    if not addresses or (request.path in _HEALTH_PATHS and is_loopback(host)):
        return True
    return any(address.is_named_by(host, port) for address in addresses)
