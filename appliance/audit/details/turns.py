"""Details of questions and answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from appliance.audit.details.codec import ALWAYS, SPREAD, Details
from appliance.turns.events import Done
from appliance.turns.request import ToolCall, TurnRequest
from appliance.turns.typed import LATER

_BESIDE = '{"beside":'  # the keys of stored details are sorted, and this is the first of a prompt's


@dataclass(frozen=True, kw_only=True)
class Beside(Details):
    """How much of a request reaches the model beside the event's text, so that a list can say it.

    The numbers are characters, except for ``earlier`` (messages) and ``tools``.
    """

    system: int = 0
    earlier: int = 0
    earlier_characters: int = 0
    begun: int = 0  # of an answer that the request begins
    tools: int = 0
    tool_characters: int = 0
    stop: int = 0
    schema: int = 0  # to which the answer is held; the model reads it


FileForm = Literal["text", "code", "csv", "markdown", "pdf", "word", "spreadsheet"]
# What of a file is not in the text that was read of it.
LeftOut = Literal[
    "pages_without_text", "hidden_sheets", "empty_sheets", "charts", "macros", "margins", "comments",
]  # fmt: skip


@dataclass(frozen=True)
class FileFacts:
    """A file that went with a question: of its bytes size and digest, of the text that the model read length and
    digest. ``parts`` counts pages or sheets; ``encoding`` is set where a text is not UTF-8."""

    name: str
    form: FileForm
    size_bytes: int
    sha256: str
    characters: int
    text_sha256: str
    parts: int | None = field(default=None, metadata=LATER)
    encoding: str | None = field(default=None, metadata=LATER)
    left_out: tuple[LeftOut, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class PromptDetails(Details):
    """Everything that decided an answer.

    ``conversation`` is None for a request through the API. ``process`` names the process that runs the turn; prompts of
    earlier releases may have none. ``index`` says which version of the search index has its words
    (`appliance.audit.details.indexed`). ``files`` are those of this question; their text is part of the request.
    ``marking`` is that of the conversation, by its name then; "" is not set, None is a site without markings.
    """

    conversation: str | None
    request: TurnRequest
    beside: Beside | None = field(default=None, metadata=ALWAYS)
    index: int | None = field(default=None, metadata=ALWAYS)
    process: str | None = field(default=None, metadata=ALWAYS)
    files: tuple[FileFacts, ...] = ()
    marking: str | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerDetails(Details):
    """What every answer has."""

    conversation: str | None
    reasoning: str
    tool_calls: tuple[ToolCall, ...]


@dataclass(frozen=True, kw_only=True)
class FinishedAnswer(AnswerDetails):
    """An answer that the model ended, with everything that is known of the turn.

    ``arithmetic`` says what decided the last bits: accelerator, instruction set and the type of the KV cache's numbers.
    Answers of earlier releases have none.
    """

    done: Done = field(metadata=SPREAD)
    index: int | None = field(default=None, metadata=ALWAYS)
    arithmetic: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure(Details):
    """Why a turn brought no complete answer; the code is that of `appliance.turns.events`, or ``interrupted``."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class TurnFailure(Failure):
    """A failure that the process which ran the turn has seen."""

    retry_after_s: float | None


@dataclass(frozen=True, kw_only=True)
class UnfinishedAnswer(AnswerDetails):
    """An answer that failed, or without a ``failure`` one that nobody listened to any more.

    ``prompt_tokens`` is None where the prompt never got a slot.
    """

    prompt_tokens: int | None
    failure: TurnFailure | None = None
    index: int | None = field(default=None, metadata=ALWAYS)
    arithmetic: str | None = None


@dataclass(frozen=True, kw_only=True)
class LostAnswer(AnswerDetails):
    """An answer to ``prompt_event`` that was lost because its process died (`appliance.turns.interrupted`)."""

    failure: Failure
    prompt_event: int


def read_beside(beginning: str) -> Beside | None:
    """What the beginning of a prompt's stored details says; None where it does not begin in this way.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError: it cannot be read.
    """
    if not beginning.startswith(_BESIDE):
        return None
    counts, _ = json.JSONDecoder().raw_decode(beginning, len(_BESIDE))
    return None if counts is None else Beside.read(counts)
