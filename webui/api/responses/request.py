"""The body of POST /v1/responses, checked, and the turn that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.people.responses import TooMuchKeptError
from appliance.turns.request import TurnRequest, new_request
from installer.formats.checks import FaultError, check
from webui.api.errors import ApiError
from webui.api.responses.body import FIELDS, LOGPROBS, SEALED_REASONING, Body
from webui.api.responses.conversation import conversation
from webui.api.responses.items import Reference
from webui.api.responses.kept import Earlier
from webui.api.responses.present import ID_PREFIX
from webui.api.tools import offered
from webui.api.validation import as_error, known_fields, parse_json
from webui.api.values import UNSUPPORTED


@dataclass(frozen=True)
class ResponseRequest:
    """One request. ``ignored`` are fields that are not known."""

    body: Body
    ignored: tuple[str, ...]

    @property
    def seals_reasoning(self) -> bool:
        return SEALED_REASONING in self.body.include

    @property
    def top_logprobs(self) -> int | None:
        """As in `TurnRequest`. A number above 0 asks for log probabilities, too: it means nothing without them."""
        is_asked = LOGPROBS in self.body.include or self.body.top_logprobs > 0
        return self.body.top_logprobs if is_asked else None

    @property
    def reads_kept(self) -> bool:
        """Whether the turn reads what was kept before."""
        is_named = any(isinstance(item, Reference) for item in self.body.input)
        return is_named or self.body.previous_response_id is not None


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


def turn_request(asked: ResponseRequest, earlier: Earlier, *, grammar: bool) -> TurnRequest:
    """The turn.

    Raises:
        ApiError: 400, two fields or two items contradict each other, or what is referred to is not kept.
    """
    body = asked.body
    before = earlier.before(body.previous_response_id)
    try:
        _check_kept(body, are_kept=earlier.responses.are_kept)
        messages = conversation(body.instructions, before, earlier.resolved(body.input))
        tools, must_call = offered(body.tools, body.tool_choice, parameters=("parameters",))
        answer_schema = body.text.format.answer_schema
    except FaultError as fault:
        raise as_error(fault) from None
    except TooMuchKeptError as exc:
        raise ApiError(400, "context_length_exceeded", f"{exc}.", param="input") from exc
    return new_request(
        earlier.user_id,
        messages,
        id_prefix=ID_PREFIX,
        tools=tools,
        must_call=must_call,
        answer_schema=answer_schema,
        effort=body.reasoning.effort,
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=body.max_output_tokens,
        top_logprobs=asked.top_logprobs,
        grammar=grammar,
    )


def _check_kept(body: Body, *, are_kept: bool) -> None:
    """Raises: FaultError: the response cannot be kept as the request wants."""
    if not are_kept and (body.store or body.background):
        field = "store" if body.store else "background"
        raise FaultError("this site keeps no responses; send false", kind=UNSUPPORTED, at=(field,))
    if body.background and body.store is False:
        raise FaultError("needs store: true, because the response is read by its id", at=("background",))
