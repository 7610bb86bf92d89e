"""instructor: structured answers by its default mode and by each other that asks the server for something."""

from functools import partial

import instructor
from openai import OpenAI
from pydantic import BaseModel

CLIENT = "instructor"
SETTINGS = "`base_url`, `api_key` of the OpenAI client below it"
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]


class Weather(BaseModel):
    city: str
    degrees: int


def structured(mode: instructor.Mode | None, base_url: str, api_key: str, model: str) -> object:
    settings = {} if mode is None else {"mode": mode}
    client = instructor.from_openai(OpenAI(base_url=base_url, api_key=api_key), **settings)
    return client.chat.completions.create(
        model=model, messages=ASKED, response_model=Weather, max_retries=0
    ).model_dump()


def by_provider(base_url: str, api_key: str, model: str) -> object:
    client = instructor.from_provider(f"openai/{model}", base_url=base_url, api_key=api_key)
    return client.chat.completions.create(messages=ASKED, response_model=Weather, max_retries=0).model_dump()


def partly(base_url: str, api_key: str, model: str) -> object:
    client = instructor.from_openai(OpenAI(base_url=base_url, api_key=api_key))
    pieces = client.chat.completions.create_partial(model=model, messages=ASKED, response_model=Weather, max_retries=0)
    return list(pieces)[-1].model_dump()


CASES = {
    "structured: default": partial(structured, None),
    "structured: from_provider": by_provider,
    "structured: streamed": partly,
    "structured: JSON": partial(structured, instructor.Mode.JSON),
    "structured: JSON_SCHEMA": partial(structured, instructor.Mode.JSON_SCHEMA),
    "structured: TOOLS_STRICT": partial(structured, instructor.Mode.TOOLS_STRICT),
}
