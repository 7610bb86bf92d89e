"""What the official client asks in the tests of the API."""

from __future__ import annotations

from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
NOW: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}
