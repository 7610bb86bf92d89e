"""Begins a response in the background, and keeps its end.

The turn runs in a thread of the worker that began it (`appliance.turns.running`) and ends with the key that began it.
Its response is kept from the beginning, so that every worker finds it (`webui.api.responses.own`).
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from appliance.people.responses import KeptResponse
from appliance.turns.events import Done, Failed
from appliance.turns.request import TurnRequest
from appliance.turns.run import Turn
from appliance.turns.running import NotRecordedError, TooManyTurnsError
from webui.api import errors
from webui.api.auth import api_user
from webui.api.errors import ApiError
from webui.api.responses import present
from webui.api.responses.kept import input_objects
from webui.api.responses.present import Envelope
from webui.api.responses.request import ResponseRequest
from webui.api.running import begin_turn, check_finished
from webui.services import Services, services
from webui.streaming import server_ending


def begin(asked: ResponseRequest, turn_request: TurnRequest, envelope: Envelope) -> dict[str, Any]:
    """Begin a turn and return its response, as it is answered at once.

    Raises:
        ApiError: nothing was asked.
        RefusedError: as `run_turn`.
    """
    service, user, body = services(), api_user(), asked.body
    given = input_objects(envelope.id, body.input)
    new = KeptResponse(envelope.id, body.previous_response_id, given, envelope.settings, is_running=True)
    try:
        with service.turns.claim(user.id, envelope.id) as place:
            turn = begin_turn(turn_request, through=partial(place.engine, is_ending=server_ending()))
            keep_request = partial(service.responses.keep, user.id, new)
            keep_answer = partial(_keep_answer, service, user.id, envelope, turn)
            place.start_response(turn, keep_request, keep_answer, include=body.include)
    except TooManyTurnsError as exc:
        raise ApiError(429, "too_many_waiting", f"{exc}") from exc
    except NotRecordedError as exc:
        raise errors.from_failed(exc.failure) from exc
    except OSError as exc:
        raise ApiError(503, "unavailable", "The server cannot begin an answer in the background now.") from exc
    return envelope.settings


def in_seconds(time: datetime) -> int:
    """A time as responses have it."""
    return int(time.timestamp())


def _keep_answer(service: Services, user_id: str, envelope: Envelope, turn: Turn) -> str | None:
    """Keep the end of a response, in the thread of its turn. The value is its id; None where it was removed meanwhile.

    Raises:
        DatabaseError: it could not be kept now.
    """
    whole = _ended(envelope, turn, in_seconds(service.clock()))
    whole["output"] = present.without_logprobs(whole["output"])
    return envelope.id if service.responses.finish(user_id, envelope.id, whole) else None


def _ended(envelope: Envelope, turn: Turn, now_s: int) -> dict[str, Any]:
    """The response of a turn that is over, however it ended."""
    end, parts = turn.answer.end, turn.answer.parts
    try:
        if isinstance(end, Done):
            check_finished(end)
            output = present.output_of(envelope, parts, end)
            return envelope.response(present.status_of(end), output, done=end, completed=now_s)
        error = errors.from_failed(end) if isinstance(end, Failed) else None
    except ApiError as exc:
        error = exc
    output = present.partial_output(envelope, parts)
    if isinstance(end, Failed) and end.code == "stopped":
        return envelope.response("cancelled", output)
    return envelope.response("failed", output, error=error)
