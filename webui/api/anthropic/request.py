"""The bodies of the two addresses, checked, and the turn that they ask for."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from appliance.turns.request import Message, Settings, TurnRequest, new_request
from installer.formats.checks import FaultError, check
from webui.api.anthropic.body import COUNT_FIELDS, FIELDS, Body, CountBody
from webui.api.anthropic.choices import OWN
from webui.api.tools import offered
from webui.api.validation import as_error, known_fields, parse_json

Form = TypeVar("Form", bound=CountBody)
ID_PREFIX = "msg_"


def parse_request(raw: bytes, *, strict: bool) -> tuple[Body, tuple[str, ...]]:
    """The body of POST /v1/messages, and the names of the fields and tools that are not known.

    Args:
        strict: what is not known is refused, not ignored.
    Raises:
        ApiError: 400, with the field at fault in `param`.
    """
    return _parsed(Body, FIELDS, raw, strict=strict)


def parse_count_request(raw: bytes, *, strict: bool) -> tuple[CountBody, tuple[str, ...]]:
    """As `parse_request`, for /v1/messages/count_tokens. Fields of a message that count nothing are ignored."""
    return _parsed(CountBody, COUNT_FIELDS, raw, strict=strict)


def _parsed(form: type[Form], names: Collection[str], raw: bytes, *, strict: bool) -> tuple[Form, tuple[str, ...]]:
    known, ignored = known_fields(parse_json(raw), names, strict=strict, elsewhere={}, own_tools=OWN)
    try:
        return check(form, known), ignored
    except FaultError as fault:
        raise as_error(fault) from None


def turn_request(body: CountBody, user_id: str, *, grammar: bool) -> TurnRequest:
    """The turn that a body asks for; for a count, with the settings that a count does not have left as they are.

    Raises:
        ApiError: 400, two fields contradict each other, or an answer cannot be held to a schema.
    """
    try:
        tools, must_call = offered(body.tools, body.tool_choice, parameters=("input_schema",))
        answer_schema = body.output_config.answer_schema
    except FaultError as fault:
        raise as_error(fault) from None
    thinking = body.thinking.effort if body.thinking else TurnRequest.effort
    last = body.messages[-1]
    is_begun = last.role == "assistant" and not last.tool_calls and bool(last.content)
    system = (Message("system", body.system),) if body.system else ()
    settings = Settings(
        tools=tools, must_call=must_call, answer_schema=answer_schema, effort=body.output_config.effort or thinking,
        continues=is_begun and not must_call and answer_schema is None, grammar=grammar,
    )  # fmt: skip
    if isinstance(body, Body):
        settings |= Settings(
            max_tokens=body.max_tokens, stop=body.stop_sequences, temperature=body.temperature, top_p=body.top_p,
            top_k=body.top_k,
        )  # fmt: skip
    return new_request(user_id, (*system, *body.messages), id_prefix=ID_PREFIX, **settings)
