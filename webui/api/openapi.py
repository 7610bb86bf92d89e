"""GET /v1/openapi.json: the API described as OpenAPI 3.1, generated from the routes and the types that they check with.

Source: OpenAPI Specification 3.1.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, Response, current_app, jsonify
from werkzeug.routing import Rule

from webui.api import shapes
from webui.api.addresses import UNKNOWN
from webui.api.blueprint import blueprint
from webui.api.described import STATUSES, Description, described, description_of
from webui.api.models import model_names
from webui.services import services

if TYPE_CHECKING:
    from webui.api.schemas import Components

_OWN_METHODS: Final = {"HEAD", "OPTIONS"}  # Flask answers them
_PARAMETER: Final = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_END: Final = "[DONE]"
_HEADERS: Final = {
    "X-API-Key-Expires": "When the key ends, if it does.",
    "X-Ignored-Fields": "Fields of the body that the server does not know.",
}


_ABOUT: Final = (
    "Fields that the server does not know are ignored. Null is the same as absent. "
    "Text must be Unicode without U+0000 and without lone surrogates, and whole numbers "
    "have at most 63 bits."
)


@blueprint.get("/openapi.json")
@described(answer=shapes.Document)
def get_openapi_document() -> Response:
    """This document."""
    return jsonify(document_of(current_app, services().release.version, model_names()))


def operations(app: Flask) -> Iterator[tuple[Rule, str, Description | None]]:
    """Each address under /v1 with each method, and what its route says of itself."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{blueprint.name}.") and rule.endpoint != UNKNOWN:
            for method in sorted((rule.methods or set()) - _OWN_METHODS):
                yield rule, method, description_of(app.view_functions[rule.endpoint])


def document_of(app: Flask, version: str, model_names: Sequence[str]) -> dict[str, Any]:
    """The document of a site that runs this release, and its model under these names."""
    from webui.api.schemas import components_of  # pydantic's generator is loaded at the first question

    described_ones = [(rule, method, one) for rule, method, one in operations(app) if one is not None]
    said = {kind for _, _, one in described_ones for kind in (one.answer, one.chunk, one.body, one.refusal)}
    components = components_of(frozenset(said - {None}))
    targets = {rule.endpoint.rpartition(".")[2]: (rule, one) for rule, _, one in described_ones}
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, one in described_ones:
        path = _PARAMETER.sub(r"{\1}", rule.rule)
        paths.setdefault(path, {})[method.lower()] = _operation(rule, one, components, targets)
    return {
        "openapi": "3.1.1",
        "info": {"title": "gpt-oss appliance", "version": version, "description": _ABOUT},
        "paths": paths,
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas([one for _, _, one in described_ones], components, model_names),
        },
    }


def _schemas(found: list[Description], components: Components, model_names: Sequence[str]) -> dict[str, Any]:
    from webui.api.schemas import as_body

    schemas = dict(components.schemas)
    for one in found:
        if one.body is not None:
            name = components.name(one.body)
            schemas[name] = as_body(schemas[name], one.fields, one.together)
            if "model" in one.fields:
                fields = schemas[name]["properties"]
                fields["model"] = _one_of(fields["model"], model_names)
    return schemas


def _one_of(field: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The field with these names alone in it; null stays, where it may be sent."""
    named = {"type": "string", "enum": list(names)}
    return field | ({"anyOf": [named, {"type": "null"}]} if "anyOf" in field else named)


def _operation(
    rule: Rule, description: Description, components: Components, targets: Mapping[str, tuple[Rule, Description]]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": rule.endpoint.rpartition(".")[2],
        "summary": description.summary,
        "responses": _responses(description, components, _links(description, targets)),
    }
    if rule.arguments or description.query:
        operation["parameters"] = _parameters(rule, description)
    if description.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(components.reference(description.body))}
    return operation


def _parameters(rule: Rule, description: Description) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    in_path = [{"name": name, "in": "path", "required": True, "schema": text} for name in sorted(rule.arguments)]
    return in_path + [{"name": name, "in": "query", "schema": dict(one)} for name, one in description.query.items()]


def _links(description: Description, targets: Mapping[str, tuple[Rule, Description]]) -> dict[str, Any]:
    """What can be asked next of an answer, at addresses whose path has its id. Queries have their defaults."""
    links = {}
    for name in description.links:
        rule, target = targets[name]
        (parameter,) = rule.arguments
        defaults = {field: _as_text(one["default"]) for field, one in target.query.items() if "default" in one}
        links[name] = {"operationId": name, "parameters": {parameter: "$response.body#/id", **defaults}}
    return links


def _as_text(value: Any) -> str:
    """A value as a query has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _responses(description: Description, components: Components, links: dict[str, Any]) -> dict[str, Any]:
    headers = {name: {"description": said, "schema": {"type": "string"}} for name, said in _HEADERS.items()}
    content = _json(components.reference(description.answer))
    if description.chunk is not None:
        content["text/event-stream"] = {"schema": _events(description, components)}
    whole: dict[str, Any] = {"description": description.summary, "headers": headers, "content": content}
    if links:
        whole["links"] = links
    errors = {str(status): _error(status, description.refusal, components) for status in description.errors}
    return {"200": whole, **errors}


def _events(description: Description, components: Components) -> dict[str, Any]:
    """One event of a stream: an object as JSON, an error that ends it, or its end."""
    objects = {"anyOf": [components.reference(description.chunk), components.reference(description.refusal)]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": objects}
    ends = [{"properties": {"data": {"const": _END}}}, {"properties": {"data": data}}]
    return {"type": "object", "required": ["data"], "anyOf": ends}


def _error(status: int, refusal: Any, components: Components) -> dict[str, Any]:
    error: dict[str, Any] = {
        "description": STATUSES[status],
        "content": _json(components.reference(refusal)),
    }
    named = {429: "Retry-After", 401: "WWW-Authenticate"}.get(status)
    return error if named is None else error | {"headers": {named: {"schema": {"type": "string"}}}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
