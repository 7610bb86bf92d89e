"""What schemathesis checks beside its own checks. The test names this module in SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import re
from typing import Any, Final

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis.generation.meta import TestPhase

# What JSON Schema cannot say: rules on several fields or messages at once, and on the depth of a tree.
BEYOND: Final = (
    "must be that of an unanswered call",
    "comes before every tool call has been answered",
    "ends before every tool call has been answered",
    "is used twice",
    "may only be sent when stream is true",
    "differ; send one of them",
    "deep",
    "may only be sent when logprobs is true",
    "are contraries; send one of them",
    "asks for an answer that goes on",
    "must name tokens by their numbers",
    "must be the same as n",
    "choices together with prompt",
    "must have at least one string",
    "cannot be given with echo",
    "which is not among the tools",
    "asks for a call, and there are no tools",
    "function call has its output",
    "unanswered function_call",
    "There is no such response",
    "names no item that is kept",
    "must be the id of an item of the list",
    "Only a response in the background can be",  # cancelled, streamed again
    "because the response is read by its id",
    "contains a NUL character",  # this and the next: the document says so in words
    "whole number of more than 63 bits",
)


@schemathesis.hook
def before_call(_: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Where links are followed, have each response kept, and begin a conversation: a guessed id names nothing."""
    is_created = case.method == "POST" and case.path == "/v1/responses"
    if is_created and case.meta and case.meta.phase.name is TestPhase.STATEFUL and isinstance(case.body, dict):
        case.body = {**case.body, "store": True, "previous_response_id": None}


def is_float(body: Any, place: str) -> bool:
    """Whether the value at fault is a number like 1.0, which JSON Schema counts among the whole numbers."""
    for name, number in re.findall(r"([A-Za-z_]+)|\[(\d+)\]", place or ""):
        body = body[int(number)] if number else body[name]
    return isinstance(body, float)


def is_schema_not_held(error: dict[str, Any]) -> bool:
    """Whether a JSON Schema within the request has a feature to which no answer can be held."""
    place = str(error["param"]).partition("schema")
    is_of_tool = ".parameters" in place[0] or "input_" in place[0]
    return error["code"] == "unsupported_value" and (place[1] != "" or is_of_tool)


@schemathesis.check
def what_fits_the_schema_is_taken(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Fails where a request that fits the document is refused for another reason than a rule of `BEYOND`."""
    mode = case.meta.generation.mode if case.meta else None
    if mode is GenerationMode.POSITIVE and response.status_code in (400, 413, 415, 422):
        error = response.json()["error"]
        if "details" in error:  # /v1/messages
            error |= {"code": error["details"]["error_code"], "param": error["details"]["param"]}
        said = error["message"]
        is_beyond = any(sentence in said for sentence in BEYOND) or is_schema_not_held(error)
        is_whole = said.endswith("must be a whole number.") and is_float(case.body, error["param"])
        assert is_beyond or is_whole, f"refused, though it fits the schema: {said}"
