"""The OpenAPI document is generated from the code, and describes every address under /v1."""

from __future__ import annotations

from typing import Any

import openapi_spec_validator
import pytest
from flask import Response, jsonify
from jsonschema import Draft202012Validator

from tests.webui.conftest import MakeSite, Site
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


def body_check(site: Site, path: str) -> Draft202012Validator:
    """Checks the body of a POST by the document."""
    found = document(site)
    body = found["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return Draft202012Validator({**body, "components": found["components"]})


def refusal_of(site: Site, body: dict[str, Any], path: str = "/v1/responses") -> str:
    """What the server says of a body; nothing where it takes it."""
    key = site.add_key(site.add_user("bob"))
    answer = site.app.test_client().post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code in (200, 400)
    return "" if answer.status_code == 200 else str(answer.get_json()["error"]["message"])


@pytest.fixture
def chat(site: Site) -> Draft202012Validator:
    return body_check(site, "/v1/chat/completions")


@pytest.fixture
def response(site: Site) -> Draft202012Validator:
    return body_check(site, "/v1/responses")


@pytest.fixture
def counting(site: Site) -> Draft202012Validator:
    return body_check(site, "/v1/tokenize")


def test_the_document_is_valid_openapi(site: Site) -> None:
    openapi_spec_validator.validate(document(site))


def test_every_address_describes_itself(site: Site) -> None:
    found = list(operations(site.app))
    assert len(found) >= 12
    assert [(rule.rule, method) for rule, method, description in found if description is None] == []
    paths = document_of(site.app, "1", ["m"])["paths"]
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
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "now"}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": "now"}]}}},
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
        {"tools": [{"type": None, "function": {"name": "now"}}]},
        {"tools": [{"type": "function", "function": {"name": "not a name"}}]},
        {"tool_choice": "sometimes"},
        {"tool_choice": {"type": "function"}},
        {"tool_choice": {"type": "function", "name": "now", "function": {}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        {"metadata": {"a": 1}},
        {"functions": []},
    ],
)
def test_the_schema_refuses_what_the_server_refuses(chat: Draft202012Validator, fields: dict[str, Any]) -> None:
    assert list(chat.iter_errors({"model": "gpt-oss-fake", "messages": HELLO} | fields)) != []


CALL = {"type": "function_call", "call_id": "c", "name": "now", "arguments": "{}"}
NOW = {"type": "function", "name": "now"}


@pytest.mark.parametrize(
    "fields",
    [
        {"input": ""},
        {"input": [{"role": "user", "content": "a"}, {"type": "message", "role": "assistant", "content": []}]},
        {"input": [{"type": None, "role": "user", "content": [{"type": "input_text", "text": "a"}]}]},
        {"input": [CALL, {"type": "function_call_output", "call_id": "c", "output": "noon"}]},
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": None}]},
        {"input": [{"id": "msg_1"}, {"type": "item_reference", "id": "msg_1", "further": 1}]},
        {"reasoning": {"effort": "minimal", "summary": None}, "text": {"format": None, "verbosity": None}},
        {"reasoning": {"effort": None}, "text": {"format": {"type": "json_object"}}},
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}},
        {"tools": [NOW], "tool_choice": NOW},
        {"tools": [NOW], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [NOW]}},
        {"include": ["reasoning.encrypted_content"], "background": True, "metadata": {"a": "b"}},
        {"previous_response_id": None, "conversation": None, "unknown": 1},
    ],
)
def test_the_schema_takes_what_a_response_takes(
    response: Draft202012Validator, site: Site, fields: dict[str, Any]
) -> None:
    body = {"model": "gpt-oss-fake", "input": "Hello"} | fields
    assert list(response.iter_errors(body)) == []
    assert refusal_of(site, body) in ("", "input[0].id names no item that is kept.")


@pytest.mark.parametrize(
    "fields",
    [
        {"input": None},
        {"input": []},
        {"input": [{"role": "tool", "content": "a"}]},
        {"input": [{"role": "user", "content": 1}]},
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        {"input": [{"type": "other", "role": "user", "content": "a"}]},
        {"input": [{"type": "file_search_call", "id": "a"}]},
        {"input": [{"type": None, "id": "msg_1"}]},
        {"input": [{**CALL, "name": "not a name"}]},
        {"input": [{**CALL, "call_id": ""}]},
        {"reasoning": {"effort": "enormous"}},
        {"text": {"verbosity": "high"}},
        {"text": {"format": {"type": "json_schema", "name": "a"}}},
        {"text": {"format": {"type": "other"}}},
        {"tools": [{"type": 1}]},
        {"tools": [NOW], "tool_choice": {"type": "function", "name": "not a name"}},
        {"tools": [NOW], "tool_choice": {"type": "allowed_tools", "tools": [NOW]}},
        {"tools": [NOW], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        {"include": ["other"]},
        {"background": "yes"},
        {"metadata": {"a": 1}},
        {"top_p": 0},
        {"max_output_tokens": 0},
        {"conversation": "a"},
        {"prompt": {"id": "a"}},
    ],
)
def test_the_schema_refuses_what_a_response_refuses(
    response: Draft202012Validator, site: Site, fields: dict[str, Any]
) -> None:
    body = {"model": "gpt-oss-fake", "input": "Hello"} | fields
    assert list(response.iter_errors(body)) != []
    assert refusal_of(site, body) != ""


@pytest.mark.parametrize(
    ("fields", "is_taken"),
    [
        ({"prompt": ""}, True),
        ({"messages": HELLO}, True),
        ({"prompt": None, "messages": HELLO, "tools": [{"type": "function", "function": {"name": "now"}}]}, True),
        ({"prompt": "a", "messages": None, "tools": []}, True),
        ({}, False),
        ({"prompt": None, "messages": None}, False),
        ({"prompt": "a", "messages": HELLO}, False),
        ({"prompt": "a", "tools": [{"type": "function", "function": {"name": "now"}}]}, False),
    ],
)
def test_a_text_or_a_conversation_is_counted(
    counting: Draft202012Validator, site: Site, fields: dict[str, Any], is_taken: bool
) -> None:
    assert counting.is_valid(fields) is is_taken
    assert (refusal_of(site, fields, "/v1/tokenize") == "") is is_taken


def test_each_name_of_the_model_is_in_the_document(site: Site) -> None:
    schemas = document_of(site.app, "1", ["own", "alias"])["components"]["schemas"]
    named = [schema["properties"]["model"] for schema in schemas.values() if "model" in schema.get("properties", {})]
    fields = [one.get("anyOf", [one])[0] for one in named if "description" in one]
    assert [one["enum"] for one in fields] == [["own", "alias"]] * 7


def test_the_document_names_the_aliases_of_the_settings(make_site: MakeSite) -> None:
    site = make_site(model_aliases=("gpt-4o",))
    assert list(body_check(site, "/v1/responses").iter_errors({"model": "gpt-4o", "input": "Hello"})) == []


def test_links_lead_to_addresses_with_the_id_of_a_response(site: Site) -> None:
    paths = document(site)["paths"]
    links = paths["/v1/responses"]["post"]["responses"]["200"]["links"]
    by_id = {one["operationId"]: path for path, methods in paths.items() for one in methods.values()}
    assert len(links) == 4
    for name, link in links.items():
        assert "{response_id}" in by_id[name]
        assert link["parameters"].pop("response_id") == "$response.body#/id"
    assert links["get_response"]["parameters"] == {"stream": "false", "starting_after": "-1"}
    assert links["delete_response"]["parameters"] == {}


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
