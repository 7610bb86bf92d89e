"""POST /v1/completions: bare texts are continued, without a conversation and without reasoning. Each choice is a turn
of its own, run one after the other, so that one call takes one of its caller's places in the queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from flask import Response, jsonify

from appliance.turns.events import AnswerDelta, Done, TokenLogprob, TurnEvent
from appliance.turns.request import Message, TurnRequest
from appliance.turns.run import Turn
from webui.api import errors, present, shapes
from webui.api.blueprint import blueprint
from webui.api.chat import new_turn
from webui.api.completion_body import FIELDS, CompletionBody, CompletionRequest, parse_completion_request
from webui.api.described import described
from webui.api.errors import ApiError
from webui.api.models import check_model
from webui.api.running import begin_turn, finish, json_body, note_ignored, sse, streamed, wants_strictness
from webui.api.text_logprobs import TextLogprobs
from webui.services import services


@dataclass(frozen=True)
class _Choice:
    """One turn, with the place of its prompt in the request and the text that the answer repeats before its own."""

    turn: Turn
    prompt: int
    echoed: str


@blueprint.post("/completions")
@described(
    body=CompletionBody,
    fields=FIELDS,
    answer=shapes.TextCompletion,
    chunk=shapes.TextChunk,
    errors=(400, 404, 413, 415),
)
def create_completion() -> Response:
    """Continue one text or several, as a whole or as a stream."""
    errors.name_fields(messages="prompt", max_completion_tokens="max_tokens")
    asked = parse_completion_request(json_body(), strict=wants_strictness())
    note_ignored(asked.ignored)
    check_model(asked.chat.model)
    choices = _begin(asked)
    created = int(services().clock().timestamp())
    envelope = present.Envelope(choices[0].turn.request.id, created, services().model.id, services().release.version)
    if asked.chat.stream:
        drawing = _Chunks(envelope, choices, include_usage=asked.chat.include_usage)
        first, *more = (choice.turn for choice in choices)
        return streamed(first, drawing, *more)
    return jsonify(_whole(envelope, choices))


def _begin(asked: CompletionRequest) -> list[_Choice]:
    """The turns, all of them checked before the first one is run."""
    choices: list[_Choice] = []
    for place, prompt in enumerate(asked.prompts):
        for _ in range(asked.n):
            request = _turn_request(asked, prompt, choices)
            choices.append(_Choice(begin_turn(request), place, prompt if asked.echo else ""))
    return choices


def _turn_request(asked: CompletionRequest, prompt: str, before: Sequence[_Choice]) -> TurnRequest:
    """The id of a further choice begins with that of the first; a seed that was sent counts up, so that they differ."""
    number, seed = len(before), asked.chat.seed
    chat = replace(
        asked.chat, messages=(Message("user", prompt),), seed=None if seed is None else seed + number, continues=False
    )
    request = replace(new_turn(chat, id_prefix="cmpl-"), form="text")
    return replace(request, id=f"{before[0].turn.request.id}-{number}") if before else request


def _whole(envelope: present.Envelope, choices: Sequence[_Choice]) -> dict[str, Any]:
    drawn, ends = [], []
    with ExitStack() as turns:
        for choice in choices:
            turns.callback(choice.turn.close)
        for number, choice in enumerate(choices):
            ends.append(finish(choice.turn))
            text = choice.echoed + choice.turn.answer.words.text
            drawn.append(_choice(number, text, ends[-1].finish_reason, _logprobs(choice.turn)))
    return envelope.wrap("text_completion", choices=drawn, usage=_usage(choices, ends))


def _logprobs(turn: Turn) -> dict[str, Any] | None:
    return None if turn.request.top_logprobs is None else TextLogprobs().draw(turn.answer.tokens)


def _choice(
    number: int, text: str, finish_reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _usage(choices: Sequence[_Choice], ends: Sequence[Done]) -> dict[str, Any]:
    """The counts of all choices. A prompt with several choices counts once."""
    by_prompt = groupby(zip(choices, ends, strict=True), key=lambda pair: pair[0].prompt)
    firsts = [next(pairs)[1] for _, pairs in by_prompt]
    return present.usage(
        replace(
            ends[0],
            prompt_tokens=sum(done.prompt_tokens for done in firsts),
            cached_tokens=sum(done.cached_tokens for done in firsts),
            completion_tokens=sum(done.completion_tokens for done in ends),
        )
    )


class _Chunks:
    """Draws a stream of completion chunks; `webui.api.running.Drawing`."""

    def __init__(self, envelope: present.Envelope, choices: Sequence[_Choice], *, include_usage: bool) -> None:
        self._envelope = envelope
        self._choices = choices
        self._include_usage = include_usage
        self._ends: list[Done] = []
        self._logprobs = TextLogprobs()  # of the choice that is being streamed

    def begin(self) -> Iterator[str]:
        yield from self._echo()

    def add(self, event: TurnEvent) -> Iterator[str]:
        if isinstance(event, AnswerDelta):
            yield self._chunk(event.text, tokens=event.tokens)
        elif isinstance(event, Done):  # of a choice that is not the last
            yield from self._end_choice(event)
            yield from self._echo()

    def end(self, done: Done) -> Iterator[str]:
        yield from self._end_choice(done)
        if self._include_usage:
            usage = _usage(self._choices, self._ends)
            yield sse(self._envelope.wrap("text_completion", choices=[], usage=usage))
        yield "data: [DONE]\n\n"

    def fail(self, error: ApiError) -> Iterator[str]:
        yield sse(errors.body_of(error))

    def _echo(self) -> Iterator[str]:
        if echoed := self._choices[len(self._ends)].echoed:
            yield self._chunk(echoed)

    def _end_choice(self, done: Done) -> Iterator[str]:
        yield self._chunk("", done.finish_reason)
        self._ends.append(done)
        self._logprobs = TextLogprobs()

    def _chunk(self, text: str, finish_reason: str | None = None, tokens: Sequence[TokenLogprob] = ()) -> str:
        logprobs = self._logprobs.draw(tokens) if tokens else None
        choice = _choice(len(self._ends), text, finish_reason, logprobs)
        return sse(self._envelope.wrap("text_completion", choices=[choice]))
