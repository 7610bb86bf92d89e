"""llama-index: OpenAILike, with an agent and a structured prediction."""

import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

CLIENT = "llama-index-llms-openai-like"
SETTINGS = "`api_base`, `api_key`, `is_chat_model=True`, `is_function_calling_model=True`"
ASKED = "What is the weather in Paris?"


class Weather(BaseModel):
    city: str
    degrees: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def llm(base_url: str, api_key: str, model: str) -> OpenAILike:
    settings = {"is_chat_model": True, "is_function_calling_model": True}
    return OpenAILike(model=model, api_base=base_url, api_key=api_key, **settings)


def answer(*site: str) -> object:
    return llm(*site).chat([ChatMessage(role="user", content="Hello")]).message.content


def stream(*site: str) -> object:
    return "".join(piece.delta for piece in llm(*site).stream_chat([ChatMessage(role="user", content="Hello")]))


def tool(*site: str) -> object:
    async def run() -> object:
        return str(await FunctionAgent(tools=[weather], llm=llm(*site)).run(ASKED))

    return asyncio.run(run())


def structured(*site: str) -> object:
    return llm(*site).structured_predict(Weather, PromptTemplate(ASKED)).model_dump()


def as_structured(*site: str) -> object:
    return llm(*site).as_structured_llm(Weather).chat([ChatMessage(role="user", content=ASKED)]).raw.model_dump()


CASES = {
    "answer": answer,
    "stream": stream,
    "tool": tool,
    "structured: structured_predict": structured,
    "structured: as_structured_llm": as_structured,
}
