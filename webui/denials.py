"""Every denied attempt is an event of the record before it is answered; when it cannot be recorded, the answer is 503.

Covers: a missing role, a request that is not from our own page, a one-time link or an API key that is not valid. A
wrong name or password is recorded by `appliance.accounts`, with its counters. A visit without a session is no denial:
the browser is sent to the sign-in page.
"""

from __future__ import annotations

from flask import Flask, Response, request

from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import RecordError
from webui import errors
from webui.auth.session import current_actor
from webui.services import services


def install(app: Flask) -> None:
    """Record every `ForbiddenError` of `app`."""
    app.register_error_handler(errors.ForbiddenError, _respond)


def record_denial(actor: Actor, code: str) -> None:
    """Record that `actor` was refused this request. The address of a page is not kept: it may hold a link's token.

    Raises:
        RecordError: it is not recorded.
    """
    event = NewEvent(actor, "denied", "denied", subject=request.endpoint or "", content=Content(code))
    services().record.append(event)


def _respond(error: errors.ForbiddenError) -> Response:
    try:
        record_denial(current_actor(), error.code)
    except RecordError:
        return errors.respond(errors.UnavailableError("record_failed"))
    return errors.respond(error)
