"""The OpenAPI document is generated from the code, and describes every address under /v1."""

from __future__ import annotations

from typing import Any

import openapi_spec_validator
import pytest
from flask import Response, jsonify
from jsonschema import Draft202012Validator

from tests.webui.conftest import Site
from tests.webui.described_answers import differences, hold_to_descriptions
from webui.api import shapes
from webui.api.body import FIELDS
from webui.api.openapi import document_of, operations

HELLO = [{"role": "user", "content": "Hello"}]


def document(site: Site) -> dict[str, Any]:
    client = site.app.test_client()
    key = site.add_key(site.add_user("ada"))
    response = client.get("/v1/openapi.json", headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 200
    assert response.json is not None
    return dict(response.json)


@pytest.fixture
def chat(site: Site) -> Draft202012Validator:
    """Checks the body of a chat by the document."""
    found = document(site)
    body = found["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return Draft202012Validator({**body, "components": found["components"]})


def test_the_document_is_valid_openapi(site: Site) -> None:
    openapi_spec_validator.validate(document(site))


def test_every_address_describes_itself(site: Site) -> None:
    found = list(operations(site.app))
    assert len(found) >= 12
    assert [(rule.rule, method) for rule, method, description in found if description is None] == []
    paths = document_of(site.app, "1", "m")["paths"]
    assert sum(len(methods) for methods in paths.values()) == len(found)


def test_an_address_without_a_description_is_seen(site: Site) -> None:
    site.app.add_url_rule("/v1/further", "api.further", lambda: "", methods=["POST"])
    assert [rule.rule for rule, _, description in operations(site.app) if description is None] == ["/v1/further"]


def test_every_field_of_a_chat_is_in_the_document(site: Site) -> None:
    found = document(site)
    body = found["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = found["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"]
    assert set(fields) == set(FIELDS)
    assert fields["model"]["enum"] == ["gpt-oss-fake"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"unknown": 1},
        {"temperature": None},
        {"temperature": 2, "top_p": 1, "max_tokens": -1, "stop": ["a", "b"], "stream_options": {"include_usage": True}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"tools": [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]},
    ],
)
def test_the_schema_takes_what_the_server_takes(chat: Draft202012Validator, fields: dict[str, Any]) -> None:
    assert list(chat.iter_errors({"model": "gpt-oss-fake", "messages": HELLO} | fields)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"messages": []},
        {"messages": None},
        {"messages": [{"role": "other", "content": "a"}]},
        {"messages": [{"role": "user", "content": 1}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"temperature": 2.1},
        {"temperature": "1"},
        {"top_p": 0},
        {"max_tokens": 0},
        {"max_tokens": 2**31},
        {"stop": ["a"] * 17},
        {"stop": "a" * 257},
        {"stop": 1},
        {"reasoning_effort": "enormous"},
        {"tools": [{"type": "other", "function": {"name": "now"}}]},
        {"tools": [{"type": "function", "function": {"name": "not a name"}}]},
        {"metadata": {"a": 1}},
        {"functions": []},
    ],
)
def test_the_schema_refuses_what_the_server_refuses(chat: Draft202012Validator, fields: dict[str, Any]) -> None:
    assert list(chat.iter_errors({"model": "gpt-oss-fake", "messages": HELLO} | fields)) != []


def test_options_name_the_methods_of_the_address(site: Site) -> None:
    key = site.add_key(site.add_user("ada"))
    response = site.app.test_client().options("/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert (response.status_code, response.headers["Allow"]) == (200, "GET, HEAD, OPTIONS")


def test_an_answer_that_is_not_described_is_seen(site: Site) -> None:
    """The check that every test of the API runs under."""

    @site.app.after_request  # runs before the ones that were added earlier
    def changed(response: Response) -> Response:
        return response if response.status_code != 200 else jsonify(object="list", data=[], further=1)

    faults = hold_to_descriptions(site.app)
    key = site.add_key(site.add_user("ada"))
    client = site.app.test_client()
    site.app.after_request_funcs[None].reverse()
    client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert len(faults) == 1
    assert "further" in faults[0]


@pytest.mark.parametrize("change", [{"owned_by": 1}, {"created": None}, {"further": ""}])
def test_a_shape_is_closed(change: dict[str, Any]) -> None:
    model = {"id": "m", "object": "model", "created": 1, "owned_by": "o", "root": "m"}
    assert differences(shapes.Model, model) == []
    assert len(differences(shapes.Model, model | change)) == 1
