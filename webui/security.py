"""What all responses and all changing requests share: headers, cookies and the CSRF check.

Covers: framing, script injection (CSP), MIME sniffing, cross-site requests that ride on a signed-in browser, caching of
pages on shared machines, referrers leaving the site.
Does not cover: TLS (`webui.serving`), who may see what (`webui.session`), HTML made from untrusted text
(`webui.rendering`).

The CSRF scheme. Each browser holds one HttpOnly, SameSite=Strict cookie: the session token when signed in, else a
random visit token. The form token is HMAC-SHA256 of a fixed text under that cookie, so a page of another site can
neither read nor compute it, and signing in changes it. Templates have ``csrf_token()``, which goes into every form as
the hidden field ``csrf_token`` and into ``<meta name="csrf-token">`` for scripts, which send it as ``X-CSRF-Token``.
/v1 is exempt: it reads no cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from flask import Flask, Response, g, request

from webui.errors import ForeignRequestError
from webui.proxies import PROXY_REMARK, Remark

CSRF_FIELD: Final = "csrf_token"
CSRF_HEADER: Final = "X-CSRF-Token"

# Referrer-Policy is same-origin, not no-referrer: under no-referrer browsers send "Origin: null" with our own forms
# (Fetch, "append a request Origin header"), and check 1 below could not tell them from another site's.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

HSTS_S: Final = 365 * 24 * 3600  # browsers heed it only after a handshake without a warning
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CSRF_TEXT: Final = b"gpt-oss-appliance csrf 1"


def install(app: Flask) -> None:
    """Put the headers on every response of `app` and give templates ``csrf_token()``."""
    app.after_request(_finish)
    app.jinja_env.globals["csrf_token"] = csrf_token


def cookie_name(kind: str) -> str:
    """The cookie's name. Over https it begins with ``__Host-``, so browsers accept it from this host alone."""
    return f"__Host-{kind}" if request.is_secure else kind


def set_cookie(response: Response, kind: str, value: str, *, max_age_s: int | None) -> None:
    """Set one of our cookies. With `max_age_s` None it lasts until the browser closes."""
    name, secure = cookie_name(kind), request.is_secure
    response.set_cookie(name, value, max_age=max_age_s, path="/", secure=secure, httponly=True, samesite="Strict")


def drop_cookie(response: Response, kind: str) -> None:
    """Ask the browser to forget one of our cookies."""
    response.delete_cookie(cookie_name(kind), path="/", secure=request.is_secure, httponly=True, samesite="Strict")


def csrf_token() -> str:
    """The form token of this browser. A browser without a cookie gets a visit cookie with the response."""
    holders = _holders()
    if not holders:
        if "new_visit" not in g:
            g.new_visit = secrets.token_urlsafe(32)
        holders = [g.new_visit]
    return _token_of(holders[0])


def check_csrf() -> None:
    """Refuse a changing request that may not come from our own page.

    Raises:
        ForeignRequestError: (1) Origin names another site; (2) the browser says that another site sent it; (3) the form
            token is absent or was made from no cookie of this browser.
    """
    if request.method in _SAFE_METHODS:
        return
    if request.headers.get("Origin", own_origin()) != own_origin():  # (1)
        raise ForeignRequestError("bad_origin", what_to_do=_advice(request.headers["Origin"]))
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):  # (2)
        raise ForeignRequestError("bad_origin")
    given = request.headers.get(CSRF_HEADER) or request.form.get(CSRF_FIELD) or ""
    if not any(hmac.compare_digest(given.encode(), _token_of(holder).encode()) for holder in _holders()):  # (3)
        raise ForeignRequestError("bad_csrf_token")


def _advice(origin: str) -> str | None:
    """What to change at a proxy in front, if the proxy makes the origins differ; else None."""
    remark = request.environ.get(PROXY_REMARK)
    if not isinstance(remark, Remark) or not (remark.is_trusted or remark.has_headers or "Via" in request.headers):
        return None
    if remark.has_headers and not remark.is_trusted:
        missing = f"name the proxy in [proxy] trusted of appliance.toml, as {remark.peer}"
    elif origin.partition("://")[2] != request.host:
        missing = "have the proxy pass the Host header as the browser sent it, or X-Forwarded-Host"
    else:
        missing = f"have the proxy send X-Forwarded-Proto: {origin.partition(':')[0]}"
    remark.say(f"a form from {origin[:100]!r} was refused, because it reached this server as {own_origin()}: {missing}")
    return (
        f"Reload the page and try again. If that does not help, tell your administrator: the page was opened as "
        f"{origin[:100]} and reached this server as {own_origin()}. To mend it, {missing}. "
        "The page docs/tls-and-proxies.md has examples for nginx, Apache and HAProxy."
    )


def own_origin() -> str:
    """This site's origin as a browser writes it: in lower case, however a proxy writes the name."""
    return f"{request.scheme}://{request.host.lower()}"


def _holders() -> list[str]:
    """The cookies that a form token may be made from. Both count: a browser that follows a link from another site
    withholds its session (SameSite=Strict), gets a visit cookie with the sign-in form, and sends both with the form."""
    cookies = (request.cookies.get(cookie_name(kind)) for kind in ("session", "visit"))
    return [cookie for cookie in cookies if cookie]


def _token_of(holder: str) -> str:
    return hmac.new(holder.encode(), _CSRF_TEXT, hashlib.sha256).hexdigest()


def _finish(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", f"max-age={HSTS_S}")
    response.headers.setdefault("Cache-Control", "no-store")
    if "new_visit" in g:
        set_cookie(response, "visit", g.new_visit, max_age_s=None)
    return response
