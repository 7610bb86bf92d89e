"""How a route under /v1 says what it takes and answers, for the OpenAPI document.

    @blueprint.post("/tokenize")
    @described(body=TokenizeBody, fields=FIELDS, answer=shapes.Tokens, errors=(400, 404, 413, 415))
    def tokenize() -> Response:
        \"\"\"The tokens of a text.\"\"\"          (the summary of the address)

The body is the dataclass that the route checks requests with, so there is no second description of it. The answer is
one of `webui.api.shapes`. Every address may also answer with `ALWAYS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

from webui.api.shapes import Refusal

View = TypeVar("View", bound=Callable[..., Any])

ALWAYS: Final = (401, 403, 429, 500, 503)
STATUSES: Final = {
    400: "A field is wrong, or the prompt is too long.",
    401: "The API key is not valid.",
    403: "The key or its owner may not do this.",
    404: "There is no such model or object.",
    413: "The body is too large.",
    415: "The body is not declared to be JSON.",
    429: "A limit is reached; Retry-After says when to try again.",
    500: "The engine or the server failed.",
    503: "A part of the appliance is not available.",
}
_ATTRIBUTE: Final = "api_description"
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Description:
    """What one address takes and answers."""

    summary: str
    answer: Any
    body: Any
    fields: Mapping[str, str]  # name -> sentence
    chunk: Any  # one object of a stream, where the address streams
    errors: tuple[int, ...]
    together: Mapping[str, Any]  # JSON Schema of several fields at once
    query: Mapping[str, Mapping[str, Any]]  # name -> schema
    links: tuple[str, ...]
    refusal: Any  # the shape of an answer whose status is not 200


def described(
    *,
    answer: Any,
    body: Any = None,
    fields: Mapping[str, str] = _NOTHING,
    chunk: Any = None,
    errors: tuple[int, ...] = (),
    together: Mapping[str, Any] = _NOTHING,
    query: Mapping[str, Mapping[str, Any]] = _NOTHING,
    links: tuple[str, ...] = (),
    refusal: Any = Refusal,
) -> Callable[[View], View]:
    """Decorates a view.

    Args:
        answer: the shape of the answer with status 200.
        body: the dataclass that the request's body is checked with.
        fields: those fields of it that may be sent, each with its sentence of docs/api.md.
        chunk: the shape of one object of a stream, or a union of shapes.
        errors: further statuses beside `ALWAYS`.
        together: what is checked of several fields at once, in JSON Schema.
        query: the parameters of the query, each with its schema.
        links: the views whose address has the ``id`` of the answer in it.
        refusal: the shape of an answer with another status.
    """

    def describe(view: View) -> View:
        summary = (view.__doc__ or "").strip().partition("\n")[0]
        statuses = tuple(sorted({*ALWAYS, *errors}))
        description = Description(summary, answer, body, fields, chunk, statuses, together, query, links, refusal)
        setattr(view, _ATTRIBUTE, description)
        return view

    return describe


def description_of(view: Callable[..., Any]) -> Description | None:
    """What a view says of itself; None where it says nothing."""
    found: Description | None = getattr(view, _ATTRIBUTE, None)
    return found
