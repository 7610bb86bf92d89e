"""openai: the client that the others are built on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI
from pydantic import BaseModel

CLIENT = "openai"
SETTINGS = "`base_url`, `api_key`"
HELLO = [{"role": "user", "content": "Hello"}]
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False,
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {**TOOL["function"], "strict": True}}
FLAT = {"type": "function", **TOOL["function"]}


class Weather(BaseModel):
    city: str
    degrees: int


@contextmanager
def connected(base_url: str, api_key: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key=api_key) as client:
        yield client


def answer(base_url: str, api_key: str, model: str) -> object:
    with connected(base_url, api_key) as client:
        return client.chat.completions.create(model=model, messages=HELLO).choices[0].message.content


def stream(base_url: str, api_key: str, model: str) -> object:
    with connected(base_url, api_key) as client:
        chunks = client.chat.completions.create(model=model, messages=HELLO, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def tool(base_url: str, api_key: str, model: str, **settings: object) -> object:
    """Ask, run the function, and say what it gave."""
    settings = {"tools": [TOOL], **settings}
    with connected(base_url, api_key) as client:
        message = client.chat.completions.create(model=model, messages=ASKED, **settings).choices[0].message
        call = message.tool_calls[0]
        result = {
            "role": "tool",
            "tool_call_id": call.id,
            "content": f"sunny in {json.loads(call.function.arguments)['city']}",
        }
        history = [*ASKED, message, result]
        return client.chat.completions.create(model=model, messages=history, tools=[TOOL]).choices[0].message.content


def strict_tool(*site: str) -> object:
    return tool(*site, tools=[STRICT])


def required(*site: str) -> object:
    return tool(*site, tool_choice="required")


def named(*site: str) -> object:
    return tool(*site, tool_choice={"type": "function", "function": {"name": "weather"}})


def json_object(base_url: str, api_key: str, model: str) -> object:
    with connected(base_url, api_key) as client:
        asked = [{"role": "user", "content": "The weather in Paris, as JSON."}]
        answer = client.chat.completions.create(model=model, messages=asked, response_format={"type": "json_object"})
        return json.loads(answer.choices[0].message.content)


def parse(base_url: str, api_key: str, model: str) -> object:
    with connected(base_url, api_key) as client:
        answer = client.chat.completions.parse(model=model, messages=ASKED, response_format=Weather)
        return answer.choices[0].message.parsed.model_dump()


def responses(base_url: str, api_key: str, model: str) -> object:
    with connected(base_url, api_key) as client:
        return client.responses.create(model=model, input="Hello").output_text


def responses_stream(base_url: str, api_key: str, model: str) -> object:
    with connected(base_url, api_key) as client, client.responses.stream(model=model, input="Hello") as events:
        return events.get_final_response().output_text


def responses_tool(base_url: str, api_key: str, model: str) -> object:
    with connected(base_url, api_key) as client:
        first = client.responses.create(model=model, input=ASKED, tools=[FLAT])
        call = next(item for item in first.output if item.type == "function_call")
        city = json.loads(call.arguments)["city"]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": f"sunny in {city}"}
        return client.responses.create(model=model, input=[*ASKED, *first.output, result], tools=[FLAT]).output_text


def responses_parse(base_url: str, api_key: str, model: str) -> object:
    with connected(base_url, api_key) as client:
        return client.responses.parse(model=model, input=ASKED, text_format=Weather).output_parsed.model_dump()


CASES = {
    "answer": answer,
    "stream": stream,
    "tool": tool,
    "strict tool": strict_tool,
    "tool_choice required": required,
    "tool_choice named": named,
    "json_object": json_object,
    "structured: parse": parse,
    "responses: answer": responses,
    "responses: stream": responses_stream,
    "responses: tool": responses_tool,
    "responses: structured, parse": responses_parse,
}
