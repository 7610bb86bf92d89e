"""Every denied attempt is recorded before it is answered. If it cannot be recorded, the answer is 503.

Covers: a missing role, a request that is not from our own page, a one-time link or an API key that is not valid, a
body or a prompt that is too large, a day's allowance that is spent. `appliance.people.sign_in` records a wrong name or
password, with its counters. A visit without a session is no denial: the browser is sent to the sign-in page.

Repeated denials are counted (`appliance.audit.repeated`), so in a flood each one costs a look into a table in memory.
"""

from __future__ import annotations

import logging
import threading
from typing import Final, cast

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from appliance.audit.details.codec import Details
from appliance.audit.details.denials import BodyTooLarge
from appliance.audit.event import Actor
from appliance.audit.log import RecordError
from appliance.audit.repeated import WINDOW_S, RepeatedDenials
from appliance.database.transactions import DatabaseError
from appliance.people.allowance import LimitReachedError, PromptTooLargeError, QuotaSpentError, RefusedError
from appliance.people.api_keys import ApiKey
from webui import errors
from webui.allowances import usage_of
from webui.services import Services
from webui.session import current_actor

_KEY: Final = "gpt_oss_appliance.denials"
_log = logging.getLogger(__name__)


def install(app: Flask, services: Services) -> None:
    """Have every refusal of `app` recorded."""
    denials = RepeatedDenials(lambda event: services.record.append(event))
    app.extensions[_KEY] = _Recorder(denials)
    app.before_request(denials.record_due)
    app.register_error_handler(errors.ForbiddenError, respond)
    app.register_error_handler(RefusedError, _respond_refused)
    app.register_error_handler(RequestEntityTooLarge, _respond_too_large)


def record_denial(actor: Actor, code: str, details: Details | None = None) -> None:
    """Record that `actor` was refused this request. The page's address is not recorded: it may hold a link's token.

    Raises:
        RecordError: it is not recorded.
    """
    _recorder(current_app).record(actor, code, request.endpoint or "", details)
    _count(actor)


def _count(actor: Actor) -> None:
    """Count it for the page of usage. A count that cannot be kept now is kept with the next."""
    key: ApiKey | None = g.get("api_key")
    try:
        usage_of(current_app).refused(actor.user_id, "" if key is None else key.id)
    except DatabaseError as exc:
        _log.error("counted refusals are not kept yet: %s", exc)


def record_refusal(actor: Actor, error: RefusedError) -> None:
    """Record that a turn of `actor` was refused. A spent allowance is recorded once a day.

    Raises:
        RecordError: it is not recorded.
    """
    if not isinstance(error, QuotaSpentError) or error.is_first:
        record_denial(actor, error.code, error.details)
    else:
        _count(actor)


def record_counts(app: Flask) -> None:
    """Record the counts that are not recorded yet. Call it before the process ends.

    Raises:
        RecordError: some counts are not recorded.
    """
    _recorder(app).denials.record_due(all_of_it=True)


class _Recorder:
    """Records denials. A timer records their counts if no request comes that would do it."""

    def __init__(self, denials: RepeatedDenials) -> None:
        self.denials = denials
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None  # guarded by _lock

    def record(self, actor: Actor, code: str, subject: str, details: Details | None) -> None:
        self.denials.record(actor, code, subject, details)
        with self._lock:
            if self._timer is None and self.denials.has_counts():
                self._timer = threading.Timer(WINDOW_S + 1, self._record_due)
                self._timer.daemon = True
                self._timer.start()

    def _record_due(self) -> None:
        with self._lock:
            self._timer = None
        try:
            self.denials.record_due()
        except RecordError as exc:
            _log.error("counted denials are not recorded yet: %s", exc)


def _recorder(app: Flask) -> _Recorder:
    return cast(_Recorder, app.extensions[_KEY])


def respond(error: errors.ForbiddenError) -> Response:
    """Record the refusal, and then answer it."""
    try:
        record_denial(current_actor(), error.code)
    except RecordError:
        return errors.respond(errors.UnavailableError("record_failed"))
    return errors.respond(error)


def _respond_refused(error: RefusedError) -> Response:
    """Answer a question of the chat pages that is not asked."""
    try:
        record_refusal(current_actor(), error)
    except RecordError:
        return errors.respond(errors.UnavailableError("record_failed"))
    if isinstance(error, LimitReachedError):
        kind = errors.TooManyError if error.code == "too_many_running" else errors.QuotaSpentError
        shown_limit = kind(error.code, error.sentence, error.what_to_do)
        response = errors.respond(shown_limit)
        response.headers["Retry-After"] = str(int(error.retry_after_s) + 1)
        return response
    what_to_do = "Shorten it, or start a new chat: the whole conversation counts."
    shown = errors.TooLargeError("prompt_too_large", error.sentence, what_to_do)
    return errors.respond(shown if isinstance(error, PromptTooLargeError) else errors.BadRequestError(error.code))


def _respond_too_large(_: RequestEntityTooLarge) -> Response:
    """Answer a request whose body is refused unread."""
    try:
        record_denial(current_actor(), "body_too_large", BodyTooLarge(size_bytes=request.content_length))
    except RecordError:
        return errors.respond(errors.UnavailableError("record_failed"))
    return errors.respond(errors.TooLargeError())
