"""The kept responses of the person who asks: read as they stand, cancelled and deleted, in any web worker.

A response in the background is kept from its beginning. What its turn has said until now is in the turn's file alone.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from appliance.audit.event import Actor
from appliance.people.responses import KeptResponse, ResponseNotFoundError, Responses
from appliance.turns.events import Queued
from appliance.turns.journal import ConversationBusyError
from appliance.turns.running import RunningTurns
from webui.api.auth import api_user
from webui.api.errors import ApiError
from webui.services import services


@dataclass(frozen=True)
class OwnResponses:
    """The kept responses of one person. It needs no context of a request."""

    responses: Responses
    turns: RunningTurns
    user_id: str

    def kept(self, response_id: str) -> KeptResponse:
        """A response as it is kept.

        Raises:
            ApiError: 404, this person keeps no such response.
        """
        try:
            return self.responses.get(self.user_id, response_id)
        except ResponseNotFoundError:
            raise _not_found() from None

    def current(self, response_id: str) -> KeptResponse:
        """A response as it stands now. A response whose process died is ended first.

        Raises:
            ApiError: 404, this person keeps no such response.
        """
        found = self.kept(response_id)
        if not found.is_running:
            return found
        reader = self.turns.find(self.user_id, response_id)
        if reader is None:  # it has ended just now, or is lost
            self.turns.close_response(response_id)
            return self.kept(response_id)
        with closing(reader):
            is_started = any(not isinstance(entry.event, Queued) for entry in reader.read(0.0))
        return replace(found, response={**found.response, "status": "in_progress"}) if is_started else found

    def cancel(self, response_id: str) -> dict[str, Any]:
        """End a response, unless it has ended, and return its end.

        Raises:
            ApiError: 404, this person keeps no such response; 400, it is not in the background.
        """
        found = self.kept(response_id)
        if not found.response["background"]:
            message = "Only a response in the background can be cancelled; close the connection of this one."
            raise ApiError(400, "not_in_background", message)
        self._end(found)
        return self.current(response_id).response

    def delete(self, response_id: str, *, by: Actor) -> None:
        """Delete a response. One that is being written is cancelled first.

        Raises:
            ApiError: 404, this person keeps no such response.
        """
        self._end(self.kept(response_id))
        try:
            self.responses.delete(self.user_id, response_id, by=by)
        except ResponseNotFoundError:
            raise _not_found() from None
        self.turns.ended_turns.remove(self.user_id, response_id)

    def _end(self, found: KeptResponse) -> None:
        """Wait until the turn of a response is over, its file included: that may come after the response's end.

        Raises:
            ApiError: 503, its turn does not end.
        """
        if not found.response["background"]:
            return
        try:
            self.turns.end(self.user_id, found.id)
        except (ConversationBusyError, OSError) as exc:
            message = "The response could not be cancelled: its turn does not end. Try again in a minute."
            raise ApiError(503, "unavailable", message) from exc


def own_responses() -> OwnResponses:
    """Those of the person whose key this request has."""
    return OwnResponses(services().responses, services().turns, api_user().id)


def _not_found() -> ApiError:
    """The same for a response of somebody else, one that was deleted, and one that never was."""
    return ApiError(404, "response_not_found", "There is no such response, or it is no longer kept.")
