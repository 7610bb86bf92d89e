"""How a call of the API runs a turn: its body is read, the turn begins, and its answer goes out whole or as a stream.

    turn = begin_turn(new_request(api_user().id, messages, id_prefix="chatcmpl-", ..))
    whole:  done = finish(turn), then draw turn.answer
    stream: streamed(turn, drawing), where a `Drawing` says what each event becomes

Every turn goes through `appliance.turns.run`, so the prompt is recorded before the engine sees it. If the caller
goes away, the turn ends: the socket is checked at each event, and the engine's client makes one at least each second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, Final, NoReturn, Protocol

from flask import Response, abort, g, make_response, request, stream_with_context

from appliance.turns.engine import Engine
from appliance.turns.events import Done, Failed, TurnEvent
from appliance.turns.permits import permitted
from appliance.turns.request import TurnRequest
from appliance.turns.run import Turn, run_turn
from webui.api import errors
from webui.api.auth import api_user, key_permit
from webui.api.errors import ApiError
from webui.api.limits import bounds
from webui.services import services
from webui.session import client_address
from webui.streaming import client_is_gone

_CLIENT_GONE_STATUS: Final = 499  # nginx's number; nobody reads it but the server's log
IGNORED_HEADER: Final = "X-Ignored-Fields"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}(\[[0-9]{1,9}\])?")
_MOST_NAMES: Final = 32
WAITING: Final = ": waiting\n\n"  # a comment: it keeps the line alive, and no client sees it


class Drawing(Protocol):
    """Draws one turn as a stream of server-sent events, each as `sse` writes it."""

    def begin(self) -> Iterable[str]:
        """Before the first event."""

    def add(self, event: TurnEvent) -> Iterable[str]:
        """One event that is not the end; none for one that this API does not show. ``Done`` of a turn that others
        follow is such an event, too."""

    def end(self, done: Done) -> Iterable[str]:
        """The complete answer."""

    def fail(self, error: ApiError) -> Iterable[str]:
        """The turn failed after the stream had begun."""


def json_body() -> bytes:
    """The request's body. It may be declared to be anything but a form of several parts: many programs declare nothing.

    Raises:
        ApiError: 415, it cannot be JSON.
    """
    if request.mimetype.startswith("multipart/") or request.content_encoding not in (None, "identity"):
        message = "The body must be JSON that is not compressed: Content-Type: application/json."
        raise ApiError(415, "unsupported_media_type", message)
    return request.get_data(cache=False)


def wants_strictness() -> bool:
    """Whether the caller wants unknown fields refused: ``Prefer: handling=strict`` (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("Prefer")).replace(";", ",").split(",")
    return "handling=strict" in [one.strip().lower().replace('"', "") for one in preferences]


def note_ignored(names: Iterable[str]) -> None:
    """Have the answer name the fields that were ignored."""
    g.api_ignored = tuple(names)


def say_what_was_ignored(response: Response) -> Response:
    """Name the ignored fields in a header, those with plain names and no more than fit in a line."""
    names: tuple[str, ...] = g.get("api_ignored", ())
    plain = [name for name in names if _PLAIN_NAME.fullmatch(name)][:_MOST_NAMES]
    if names:
        others = [f"and {len(names) - len(plain)} others"] if len(plain) < len(names) else []
        response.headers[IGNORED_HEADER] = ", ".join([*plain, *others])
    return response


def begin_turn(turn_request: TurnRequest, *, through: Callable[[Engine], Engine] = lambda engine: engine) -> Turn:
    """A turn of the key's owner. It ends when the key does.

    Args:
        through: makes the engine that runs it of one that ends it with the key.
    Raises:
        RefusedError: as `run_turn`.
    """
    actor = api_user().actor("api", client_address())
    engine = through(permitted(services().engine, key_permit()))
    return run_turn(services().record, engine, actor, turn_request, conversation_id=None, allowance=bounds())


def finish(turn: Turn) -> Done:
    """Run a turn to its end; its answer is then in ``turn.answer``.

    Raises:
        ApiError: the turn failed or was cancelled.
        HTTPException: the caller has gone away, and nobody reads the answer.
    """
    with closing(turn):
        for event in turn:
            if isinstance(event, Done):
                check_finished(event)
                return event
            if isinstance(event, Failed):
                raise errors.from_failed(event)
            if client_is_gone():
                break
    abort_unread()


def abort_unread() -> NoReturn:
    """End a request whose caller has gone away."""
    abort(make_response("", _CLIENT_GONE_STATUS))


def streamed(turn: Turn, drawing: Drawing, *more: Turn) -> Response:
    """The answer as it is written. A turn that fails at once is an HTTP error; one that fails later, an error object.

    Args:
        more: turns that are run after it, one after the other. A failure of one ends the stream.
    Raises:
        ApiError: the first event is a failure.
    """
    first = next(turn)
    if isinstance(first, Failed):
        turn.close()
        raise errors.from_failed(first)
    response = event_stream(_drawn(chain([first], turn), more, drawing))
    for one in (turn, *more):
        response.call_on_close(one.close)
    return response


def event_stream(pieces: Iterator[str]) -> Response:
    """A response of server-sent events. They are made within the request's context."""
    return event_response(stream_with_context(pieces))


def event_response(pieces: Iterator[str]) -> Response:
    """A response of server-sent events that nothing on the way may keep or hold back."""
    response = Response(pieces, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def sse(body: dict[str, Any], name: str | None = None) -> str:
    """One server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(body, separators=(',', ':'))}\n\n"


def _drawn(events: Iterator[TurnEvent], more: Sequence[Turn], drawing: Drawing) -> Iterator[str]:
    yield from drawing.begin()
    last = len(more)
    for number, turn in enumerate((events, *more)):
        for event in turn:
            if client_is_gone():
                return
            if isinstance(event, Failed) or (isinstance(event, Done) and (number == last or _is_cancelled(event))):
                yield from _ending(event, drawing)
                return
            yield "".join(drawing.add(event)) or WAITING


def _ending(end: Done | Failed, drawing: Drawing) -> Iterator[str]:
    try:
        if isinstance(end, Failed):
            raise errors.from_failed(end)
        check_finished(end)
    except ApiError as error:
        yield from drawing.fail(error)
        return
    yield from drawing.end(end)


def _is_cancelled(done: Done) -> bool:
    return done.finish_reason == "cancelled"


def check_finished(done: Done) -> None:
    """Raises ApiError if the turn was cancelled."""
    if _is_cancelled(done):
        raise ApiError(503, "cancelled", "The answer was cancelled before it was complete.")
