"""The stream of a response in the background, from any event on, for any number of readers in any web worker.

A stream is drawn again from the file of the turn for each reader, so every reader gets the same events with the same
numbers. The file stays for a while after the end (`appliance.turns.ended`). Once it is gone, a stream has each item in
one piece; a reader who has had a part of it gets the last event alone.

A reader who leaves ends nothing. The key of a reader is checked for as long as it reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from flask import Response

from appliance.errors import ApplianceError
from appliance.people.responses import KeptResponse
from appliance.turns.answer import Answer
from appliance.turns.events import Done, Failed, Queued
from appliance.turns.journal import Kept, Reader
from appliance.turns.permits import Permit, now_and_then
from webui.api import errors
from webui.api.auth import api_user, key_permit
from webui.api.errors import ApiError
from webui.api.responses import present
from webui.api.responses.body import SEALED_REASONING
from webui.api.responses.own import OwnResponses, own_responses
from webui.api.responses.present import Envelope
from webui.api.responses.stream import ResponseEvents
from webui.api.running import WAITING, event_response, sse
from webui.chat.watchers import watchers
from webui.streaming import watch_client

_log = logging.getLogger(__name__)
_LOOK_S: Final = 0.5  # how long to wait for events before the connection and the key are looked at
_MOST_DIGITS: Final = 9
FROM_THE_BEGINNING: Final = -1
QUERY: Final[Mapping[str, Mapping[str, Any]]] = {
    "stream": {
        "type": "boolean", "default": False,
        "description": "Follow a response in the background as a stream of events.",
    },
    "starting_after": {
        "type": "integer", "minimum": FROM_THE_BEGINNING, "maximum": 10**_MOST_DIGITS - 1,
        "default": FROM_THE_BEGINNING,
        "description": "The `sequence_number` of the event after which the stream begins; -1 stands for the beginning.",
    },
}  # fmt: skip


def asks_to_follow(query: Mapping[str, str]) -> bool:
    """Raises: ApiError: 400, ``stream`` is neither true nor false."""
    stream = query.get("stream", "false").lower()  # programs in Python write True
    if stream not in ("true", "false"):
        raise ApiError(400, "invalid_value", "stream must be true or false.", param="stream")
    return stream == "true"


def starting_after(query: Mapping[str, str]) -> int:
    """Raises: ApiError: 400, it is no number of an event."""
    given = query.get("starting_after", f"{FROM_THE_BEGINNING}")
    if given == f"{FROM_THE_BEGINNING}":
        return FROM_THE_BEGINNING
    if not (given.isascii() and given.isdecimal() and len(given) <= _MOST_DIGITS):
        message = "starting_after must be the sequence_number of an event."
        raise ApiError(400, "invalid_value", message, param="starting_after")
    return int(given)


def enter() -> Callable[[], None]:
    """Count one more reader. Call the value once when the reader has left.

    Raises:
        ApiError: 429, this person follows too many streams.
    """
    leave = watchers().enter(api_user().id)
    if leave is None:
        raise ApiError(429, "too_many_readers", "You follow as many answers at once as one person may; close a stream.")
    return leave


def follow(response_id: str, after: int, leave: Callable[[], None]) -> Response:
    """The events of a response after the one with the number `after`.

    Raises:
        ApiError: 404, this person keeps no such response; 400, it is not in the background.
    """
    reader: Reader | None = None
    try:
        own = own_responses()
        found = own.kept(response_id)
        if not found.response["background"]:
            message = "Only a response in the background can be streamed again; leave out stream."
            raise ApiError(400, "not_in_background", message, param="stream")
        reader = _open(own, response_id)
        pieces = _redrawn(own.current(response_id), after) if reader is None else _lines(reader, own, found, after)
        response = event_response(pieces)
    except BaseException:
        _close(reader, leave)
        raise
    response.call_on_close(lambda: _close(reader, leave))
    return response


def _open(own: OwnResponses, response_id: str) -> Reader | None:
    reader = own.turns.find(own.user_id, response_id) or own.turns.ended_turns.find(own.user_id, response_id)
    if reader is not None and reader.head is None:  # no file that the appliance wrote whole
        reader.close()
        return None
    return reader


def _close(reader: Reader | None, leave: Callable[[], None]) -> None:
    leave()
    if reader is not None:
        reader.close()


def _lines(reader: Reader, own: OwnResponses, found: KeptResponse, after: int) -> Iterator[str]:
    """What a reader gets; it is made while it is sent, outside the request's context."""
    include = () if reader.head is None else reader.head.include
    envelope, answer = Envelope(found.response, seals_reasoning=SEALED_REASONING in include), Answer()
    drawing = ResponseEvents(envelope, answer)
    end = partial(_end, own, drawing, envelope, answer)
    return _drawn(reader, drawing, answer, _Unseen(after), end, watch_client(), now_and_then(key_permit()))


def _drawn(
    reader: Reader, drawing: ResponseEvents, answer: Answer, unseen: _Unseen, end: Callable[[], Iterable[str]],
    is_gone: Callable[[], bool], may_read: Permit,
) -> Iterator[str]:  # fmt: skip
    yield unseen.of(drawing.begin()) or WAITING
    is_over = False
    while not is_over and not is_gone():
        entries = reader.read(_LOOK_S)
        if not entries and not reader.has_owner():
            entries = reader.read(0.0)  # what the owner wrote before it released the lock
            is_over = not entries
        pieces: list[str] = []
        for entry in entries:
            if isinstance(entry.event, Kept):
                is_over = True
                break
            if isinstance(entry.event, Queued):  # the response stays queued
                continue
            answer.add(entry.event)
            if not isinstance(entry.event, Done | Failed):
                pieces.append(unseen.of(drawing.add(entry.event)))
        why = may_read()
        if why is not None:
            yield sse(errors.body_of(ApiError(401, "access_ended", f"{why}.")))
            return
        yield "".join(pieces) or WAITING
    if is_over:
        yield unseen.of(end())


def _end(own: OwnResponses, drawing: ResponseEvents, envelope: Envelope, answer: Answer) -> Iterator[str]:
    """The end of a stream, as the response is kept. If the file lacks the end, the last event says it all."""
    try:
        whole = own.current(envelope.id).response
    except ApiError as error:  # deleted meanwhile
        yield sse(errors.body_of(error))
        return
    except ApplianceError:
        _log.exception("the end of response %s cannot be read", envelope.id)
        message = "The end of the response cannot be read now; ask for the response in a minute."
        yield sse(errors.body_of(ApiError(503, "unavailable", message)))
        return
    if isinstance(answer.end, Done) and whole["status"] in ("completed", "incomplete"):
        output = present.output_of(envelope, answer.parts, answer.end)
        yield from drawing.complete(answer.end, {**whole, "output": output})
    else:
        yield from drawing.stop(whole)


def _redrawn(found: KeptResponse, after: int) -> Iterator[str]:
    """The events of a response whose file is gone."""
    drawing = ResponseEvents(Envelope(found.response), Answer())
    if after == FROM_THE_BEGINNING:
        yield "".join(drawing.replay(found.response))
    else:
        yield "".join(drawing.stop(found.response, number=after + 1))


class _Unseen:
    """Leaves out the events that a reader has had. The events of one response come in order, each as one string."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._next = 0

    def of(self, events: Iterable[str]) -> str:
        """Those of the next events that are new to the reader."""
        said = []
        for event in events:
            if self._next > self._after:
                said.append(event)
            self._next += 1
        return "".join(said)
