"""langchain-openai: ChatOpenAI with tools and each method of with_structured_output."""

from functools import partial

from langchain_core.tools import tool as langchain_tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

CLIENT = "langchain-openai"
SETTINGS = "`base_url`, `api_key`"
ASKED = "What is the weather in Paris, as JSON?"


class Weather(BaseModel):
    """The weather."""

    city: str
    degrees: int


@langchain_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def chat(base_url: str, api_key: str, model: str, **settings: object) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=base_url, api_key=api_key, **settings)


def answer(*site: str) -> object:
    return chat(*site).invoke("Hello").content


def stream(*site: str) -> object:
    return "".join(chunk.content for chunk in chat(*site).stream("Hello"))


def responses(*site: str) -> object:
    return chat(*site, use_responses_api=True).invoke("Hello").text


def use_tool(*site: str, choice: object = None) -> object:
    plain = chat(*site)
    first = plain.bind_tools([weather], tool_choice=choice).invoke(ASKED)
    result = weather.invoke(first.tool_calls[0])
    return plain.invoke([("user", ASKED), first, result]).content


def structured(method: str | None, *site: str) -> object:
    settings = {} if method is None else {"method": method}
    return chat(*site).with_structured_output(Weather, **settings).invoke(ASKED).model_dump()


CASES = {
    "answer": answer,
    "stream": stream,
    "tool": use_tool,
    "tool_choice required": partial(use_tool, choice="required"),
    "tool_choice named": partial(use_tool, choice="weather"),
    "structured: default": partial(structured, None),
    "structured: json_schema": partial(structured, "json_schema"),
    "structured: function_calling": partial(structured, "function_calling"),
    "structured: json_mode": partial(structured, "json_mode"),
    "responses: answer": responses,
}
