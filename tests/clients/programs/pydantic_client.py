"""pydantic-ai: agents with tools and an output type, in each of its ways to get structured output."""

import asyncio
from functools import partial

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

CLIENT = "pydantic-ai-slim"
SETTINGS = "`OpenAIProvider(base_url=.., api_key=..)`"
ASKED = "What is the weather in Paris?"


class Weather(BaseModel):
    city: str
    degrees: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def model_at(api: str, base_url: str, api_key: str, model: str) -> object:
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
    return kind(model, provider=OpenAIProvider(base_url=base_url, api_key=api_key))


def answer(api: str, *site: str) -> object:
    return Agent(model_at(api, *site)).run_sync("Hello").output


def stream(api: str, *site: str) -> object:
    async def run() -> object:
        async with Agent(model_at(api, *site)).run_stream("Hello") as result:
            return await result.get_output()

    return asyncio.run(run())


def tool(api: str, *site: str) -> object:
    return Agent(model_at(api, *site), tools=[weather]).run_sync(ASKED).output


def structured(output: object, api: str, *site: str) -> object:
    return Agent(model_at(api, *site), output_type=output).run_sync(ASKED).output.model_dump()


def tool_and_type(api: str, *site: str) -> object:
    return Agent(model_at(api, *site), tools=[weather], output_type=Weather).run_sync(ASKED).output.model_dump()


KINDS = {
    "answer": answer,
    "stream": stream,
    "tool": tool,
    "structured: output_type": partial(structured, Weather),
    "structured: ToolOutput": partial(structured, ToolOutput(Weather)),
    "structured: NativeOutput": partial(structured, NativeOutput(Weather)),
    "structured: PromptedOutput": partial(structured, PromptedOutput(Weather)),
    "structured: tool and output_type": tool_and_type,
}
CASES = {name: partial(case, "chat") for name, case in KINDS.items()} | {
    f"responses: {name}": partial(case, "responses") for name, case in list(KINDS.items())[:4]
}
