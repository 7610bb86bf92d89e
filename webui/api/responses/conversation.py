"""Makes the messages of a turn from items. An answer is several items (reasoning, text, calls); the model reads one
message.

Results of functions follow the calls at once, and each call has exactly one.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.turns.request import Message, ToolCall
from installer.formats.checks import FaultError
from webui.api.messages import MAX_MESSAGES
from webui.api.responses.items import Called, Item, Reasoned, Result, Said


def conversation(instructions: str | None, before: Sequence[Item], items: Sequence[Item]) -> tuple[Message, ...]:
    """The messages of a conversation.

    Args:
        before: the items of earlier responses; a fault is never in these alone.
        items: the items of this request.
    Raises:
        FaultError: the result of a function and a call do not belong together, or there are too many messages.
    """
    building = _Building()
    for index, item in enumerate((*before, *items), -len(before)):
        try:
            building.add(item)
        except FaultError as fault:
            raise FaultError(fault.said, at=("input", index, *fault.at) if index >= 0 else ("input",)) from None
    messages = building.finish()
    if len(messages) > MAX_MESSAGES:
        raise FaultError(f"and what went before have more than {MAX_MESSAGES:,} messages", at=("input",))
    return (Message("developer", instructions), *messages) if instructions else messages


class _Building:
    """The messages so far, and the answer that is being put together."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._said: list[tuple[str, str]] = []  # reasoning and the text after it
        self._reasoning = ""  # after the last text
        self._calls: list[ToolCall] = []
        self._open: dict[str, str] = {}  # call id -> function's name, of calls not yet answered

    def add(self, item: Item) -> None:
        match item:
            case Reasoned(text):
                self._check_answered()
                self._reasoning += text
            case Said("assistant", text):
                self._check_answered()
                self._said.append((self._reasoning, text))
                self._reasoning = ""
            case Called():
                self._add_call(item)
            case Result():
                self._add_result(item)
            case Said(role, text):
                self._end_answer()
                self._check_answered()
                self._messages.append(Message(role, text))

    def finish(self) -> tuple[Message, ...]:
        self._end_answer()
        if self._open:
            raise FaultError("ends before every function call has its output", at=("input",))
        return tuple(self._messages)

    def _check_answered(self) -> None:
        if self._open:
            raise FaultError("comes before every function call has its output")

    def _add_call(self, call: Called) -> None:
        self._check_answered()
        if any(other.id == call.call_id for other in self._calls):
            raise FaultError("is used twice", at=("call_id",))
        self._calls.append(ToolCall(call.call_id, call.name, call.arguments))

    def _add_result(self, result: Result) -> None:
        self._end_answer()
        name = self._open.pop(result.call_id, None)
        if name is None:
            raise FaultError("must be that of an unanswered function_call before it", at=("call_id",))
        self._messages.append(Message("tool", result.text, tool_call_id=result.call_id, name=name))

    def _end_answer(self) -> None:
        """Text before a call is its preamble. Without a call, each text is an answer with the reasoning before it."""
        rest = [(self._reasoning, "")] if self._reasoning else []
        if self._calls:
            said = [*self._said, *rest]
            reasoning, text = ("".join(pieces) for pieces in zip(*said, strict=True)) if said else ("", "")
            self._messages.append(Message("assistant", text, reasoning or None, tuple(self._calls)))
        else:
            said = [*self._said, *rest]
            self._messages += [Message("assistant", text, reasoning or None) for reasoning, text in said]
        self._open.update((call.id, call.name) for call in self._calls)
        self._said, self._reasoning, self._calls = [], "", []
