"""The body of POST /v1/responses, checked, and the turn that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.turns.request import TurnRequest, new_request
from installer.formats.checks import FaultError, check
from webui.api.responses.body import FIELDS, SEALED_REASONING, Body
from webui.api.responses.conversation import conversation
from webui.api.responses.items import Reference
from webui.api.responses.present import ID_PREFIX
from webui.api.responses.tools import offered
from webui.api.validation import as_error, known_fields, parse_json


@dataclass(frozen=True)
class ResponseRequest:
    """One request. ``ignored`` are fields that are not known."""

    body: Body
    ignored: tuple[str, ...]

    @property
    def seals_reasoning(self) -> bool:
        return SEALED_REASONING in self.body.include


def parse_request(raw: bytes, *, strict: bool) -> ResponseRequest:
    """Check a request's body, field by field.

    Args:
        strict: fields that are not known are refused, not ignored.
    Raises:
        ApiError: 400, with the field at fault in `param`.
    """
    known, ignored = known_fields(parse_json(raw), FIELDS, strict=strict)
    try:
        return ResponseRequest(check(Body, known), ignored)
    except FaultError as fault:
        raise as_error(fault) from None


def turn_request(asked: ResponseRequest, user: str, *, grammar: bool) -> TurnRequest:
    """The turn.

    Raises:
        ApiError: 400, two fields or two items contradict each other.
    """
    body = asked.body
    try:
        items = []
        for index, item in enumerate(body.input):
            if isinstance(item, Reference):
                raise FaultError("names an item, and this server keeps none", at=("input", index, "id"))
            items.append(item)
        messages = conversation(body.instructions, (), items)
        tools, must_call = offered(body.tools, body.tool_choice)
    except FaultError as fault:
        raise as_error(fault) from None
    return new_request(
        user,
        messages,
        id_prefix=ID_PREFIX,
        tools=tools,
        must_call=must_call,
        answer_schema=body.text.format.answer_schema,
        effort=body.reasoning.effort,
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=body.max_output_tokens,
        grammar=grammar,
    )
