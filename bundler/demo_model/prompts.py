"""Dialogues as Harmony tokens, written with ``oss-harmony`` as the engine writes them.

A test compares `encode_prompt` with the engine's own rendering.
"""

from __future__ import annotations

from functools import cache

import openai_harmony as oh

from bundler.demo_model.dialogues import Dialogue, Said

_EFFORTS = {"low": oh.ReasoningEffort.LOW, "medium": oh.ReasoningEffort.MEDIUM, "high": oh.ReasoningEffort.HIGH}


@cache
def harmony() -> oh.HarmonyEncoding:
    return oh.load_harmony_encoding(oh.HarmonyEncodingName.HARMONY_GPT_OSS)


def encode_prompt(dialogue: Dialogue) -> list[int]:
    """The tokens up to and including ``<|start|>assistant``."""
    system = oh.SystemContent.new().with_reasoning_effort(_EFFORTS[dialogue.effort])
    if dialogue.date:
        system = system.with_conversation_start_date(dialogue.date)
    messages = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system)]
    if dialogue.instructions or dialogue.functions:
        content = oh.DeveloperContent.new()
        if dialogue.instructions:
            content = content.with_instructions(dialogue.instructions)
        if dialogue.functions:
            tools = [oh.ToolDescription.new(f.name, f.description, parameters=f.parameters) for f in dialogue.functions]
            content = content.with_function_tools(tools)
        messages.append(oh.Message.from_role_and_content(oh.Role.DEVELOPER, content))
    # Reasoning is dropped, except that of calls after the last final answer. The library would keep more of it.
    finals = [i for i, said in enumerate(dialogue.said) if said.role == "assistant" and not said.call]
    last_final = finals[-1] if finals else -1
    for position, said in enumerate(dialogue.said):
        messages += _messages(said, with_reasoning=position > last_final)
    conversation = oh.Conversation.from_messages(messages)
    settings = oh.RenderConversationConfig(auto_drop_analysis=False)
    tokens: list[int] = harmony().render_conversation_for_completion(conversation, oh.Role.ASSISTANT, settings)
    return tokens


def encode_answer(said: Said) -> list[int]:
    """What the model must write after the prompt, ``<|return|>`` or ``<|call|>`` included."""
    text = f"<|channel|>analysis<|message|>{said.reasoning}<|end|><|start|>assistant" if said.reasoning else ""
    if said.call is not None:
        header = f"<|channel|>commentary to=functions.{said.call.name} <|constrain|>json<|message|>"
        text += f"{header}{said.call.arguments}<|call|>"
    else:
        text += f"<|channel|>final<|message|>{said.text}<|return|>"
    tokens: list[int] = harmony().encode(text, allowed_special="all")
    return tokens


def _messages(said: Said, *, with_reasoning: bool) -> list[oh.Message]:
    if said.role == "user":
        return [oh.Message.from_role_and_content(oh.Role.USER, said.text)]
    function = f"functions.{said.call.name}" if said.call else ""
    if said.role == "tool":
        author = oh.Author.new(oh.Role.TOOL, function)
        return [_channelled(oh.Message.from_author_and_content(author, said.text), "commentary", "assistant")]
    text = said.call.arguments if said.call else said.text
    message = oh.Message.from_role_and_content(oh.Role.ASSISTANT, text)
    if said.call:
        message = _channelled(message, "commentary", function).with_content_type("<|constrain|>json")
    else:
        message = message.with_channel("final")
    if not (said.reasoning and with_reasoning):
        return [message]
    return [oh.Message.from_role_and_content(oh.Role.ASSISTANT, said.reasoning).with_channel("analysis"), message]


def _channelled(message: oh.Message, channel: str, recipient: str) -> oh.Message:
    return message.with_channel(channel).with_recipient(recipient)
