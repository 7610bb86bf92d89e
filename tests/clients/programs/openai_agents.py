"""openai-agents: agents with tools and handoffs, over chat completions and over responses."""

import asyncio
from functools import partial

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

CLIENT = "openai-agents"
SETTINGS = (
    "a model object with `AsyncOpenAI(base_url=.., api_key=..)`; `set_tracing_disabled(True)`, or it sends each run to "
    "api.openai.com"
)
ASKED = "What is the weather in Paris?"
set_tracing_disabled(True)


class Weather(BaseModel):
    city: str
    degrees: int


@function_tool
def weather(city: str) -> str:
    """The weather.

    Args:
        city: Name of the city.
    """
    return f"sunny in {city}"


def model_at(api: str, base_url: str, api_key: str, model: str) -> object:
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
    return kind(model=model, openai_client=AsyncOpenAI(base_url=base_url, api_key=api_key))


def answer(api: str, *site: str) -> object:
    agent = Agent(name="Guide", instructions="Be short.", model=model_at(api, *site))
    return Runner.run_sync(agent, "Hello").final_output


def stream(api: str, *site: str) -> object:
    agent = Agent(name="Guide", instructions="Be short.", model=model_at(api, *site), tools=[weather])

    async def run() -> object:
        result = Runner.run_streamed(agent, ASKED)
        async for _event in result.stream_events():
            pass
        return result.final_output

    return asyncio.run(run())


def tool(api: str, *site: str) -> object:
    agent = Agent(name="Guide", instructions="Be short.", model=model_at(api, *site), tools=[weather])
    return Runner.run_sync(agent, ASKED).final_output


def required(api: str, *site: str) -> object:
    settings = ModelSettings(tool_choice="required")
    agent = Agent(name="Guide", model=model_at(api, *site), tools=[weather], model_settings=settings)
    return Runner.run_sync(agent, ASKED).final_output


def handoff(api: str, *site: str) -> object:
    expert = Agent(name="Expert", instructions="You know weather.", model=model_at(api, *site))
    guide = Agent(name="Guide", instructions="Hand over.", model=model_at(api, *site), handoffs=[expert])
    return Runner.run_sync(guide, ASKED, run_config=RunConfig()).last_agent.name


def output_type(api: str, *site: str) -> object:
    agent = Agent(name="Guide", model=model_at(api, *site), output_type=Weather)
    return Runner.run_sync(agent, ASKED).final_output.model_dump()


KINDS = {
    "answer": answer, "tool": tool, "tool, streamed": stream, "tool_choice required": required, "handoff": handoff,
    "structured: output_type": output_type,
}  # fmt: skip
CASES = {name: partial(case, "chat") for name, case in KINDS.items()} | {
    f"responses: {name}": partial(case, "responses") for name, case in KINDS.items()
}
