"""Examines the demo model in the real engine: ``python -m bench.demo_model_eval``.

The compact weights are expanded and exported to the ONNX graph; the appliance's own scheduler, sampler and parser
answer the questions. This module may import both rooms because it is part of neither. Exit code 1 if too few answers
are right.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import click

from appliance.engine.harmony import Vocabulary, load_vocabulary, render_prompt
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.scheduler import Scheduler
from appliance.turns.events import AnswerDelta, Done, Failed, ReasoningDelta, ToolCallDelta, TurnEvent
from appliance.turns.request import Message, Tool, ToolCall, TurnRequest, new_request
from bundler.checkpoint import open_checkpoint
from bundler.demo_model.corpus import load_corpus
from bundler.demo_model.dialogues import Call, Dialogue, Said
from bundler.demo_model.evaluate import MINIMUM, Given, Judge, Result, right_share, table
from bundler.demo_model.examination import held_out_dialogues
from bundler.demo_model.expand import expand_demo_checkpoint
from bundler.export import export_graph
from bundler.tokenizer import published_vocabulary

_SLOTS = 32
_CONTEXT_TOKENS = 2048
_MAX_TOKENS = 400


class Examinee:
    """The demo model behind the appliance's engine."""

    def __init__(self, model: OnnxModel, vocabulary: Vocabulary) -> None:
        self.model = model
        self.vocabulary = vocabulary

    def answer(self, dialogues: Sequence[Dialogue], *, temperature: float, grammar: bool = True) -> list[Given]:
        """The answers to all dialogues; turn N has the seed N. Without ``grammar`` the model may write any tokens."""
        scheduler = Scheduler(self.model, self.vocabulary, queue_limit=len(dialogues))
        events: list[list[TurnEvent]] = [[] for _ in dialogues]
        for number, dialogue in enumerate(dialogues):
            request = turn_request(dialogue, seed=number, temperature=temperature, grammar=grammar)
            prompt = render_prompt(self.vocabulary, request, today=date.fromisoformat(dialogue.date))
            scheduler.submit(Job(request, prompt, events[number].append))
        while scheduler.step():
            pass
        return [given_by(turn) for turn in events]


def open_examinee(directory: Path) -> Examinee:
    """Expand and export the demo model into the empty ``directory`` and load it."""
    expand_demo_checkpoint(directory / "checkpoint")
    graph = export_graph(open_checkpoint(directory / "checkpoint"), directory / "graph", accelerator="cpu")
    vocabulary = directory / "o200k_base.tiktoken"
    vocabulary.write_bytes(published_vocabulary())
    model = load_model(graph.model, accelerator="cpu", slots=_SLOTS, context_tokens=_CONTEXT_TOKENS)
    return Examinee(model, load_vocabulary(vocabulary))


def turn_request(dialogue: Dialogue, *, seed: int, temperature: float, grammar: bool = True) -> TurnRequest:
    """The dialogue as the pages and the API send it."""
    messages = [Message("developer", dialogue.instructions)] if dialogue.instructions else []
    messages += [_message(said) for said in dialogue.said]
    return new_request(
        "examiner",
        tuple(messages),
        id_prefix=f"turn-{seed}-",
        seed=seed,
        tools=tuple(Tool(f.name, f.description, f.parameters) for f in dialogue.functions),
        effort=dialogue.effort,
        temperature=temperature,
        max_tokens=_MAX_TOKENS,
        grammar=grammar,
    )


def _message(said: Said) -> Message:
    if said.call is None:
        return Message(said.role, said.text, reasoning=said.reasoning or None)
    if said.role == "tool":
        return Message("tool", said.text, tool_call_id="call-0", name=said.call.name)
    call = ToolCall("call-0", said.call.name, said.call.arguments)
    return Message("assistant", "", reasoning=said.reasoning or None, tool_calls=(call,))


def given_by(events: Sequence[TurnEvent]) -> Given:
    """The answer that a turn's events add up to."""
    reasoning = "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    text = "".join(e.text for e in events if isinstance(e, AnswerDelta))
    pieces = [e for e in events if isinstance(e, ToolCallDelta)]
    calls = tuple(
        Call(piece.name, "".join(p.arguments for p in pieces if p.index == piece.index))
        for piece in pieces
        if piece.name is not None
    )
    end = events[-1]
    if isinstance(end, Failed):
        raise RuntimeError(f"the engine failed: {end.message}")
    sound = isinstance(end, Done) and not end.malformed and end.finish_reason in ("stop", "tool_calls")
    return Given(reasoning, text, calls, sound)


@click.command()
@click.option("--temperature", default=0.0, show_default=True, help="The pages and the API use 1 by default.")
@click.option("--wrong", is_flag=True, help="Also print every wrong answer.")
def main(temperature: float, wrong: bool) -> None:
    """Examine the demo model with wordings that it was never trained on."""
    corpus = load_corpus()
    dialogues, judge = held_out_dialogues(corpus), Judge(corpus)
    with tempfile.TemporaryDirectory() as directory:
        given = open_examinee(Path(directory)).answer(dialogues, temperature=temperature)
    results = [Result(d, g, judge.is_right(d, g)) for d, g in zip(dialogues, given, strict=True)]
    for result in results if wrong else []:
        if not result.right:
            asked = " / ".join(said.text for said in result.dialogue.said if said.role == "user")
            click.echo(f"WRONG {result.dialogue.category}: {asked}\n  {result.given}\n")
    click.echo(f"{len(results)} questions in wordings never trained on, temperature {temperature:g}\n")
    click.echo(table(results))
    if right_share(results) < MINIMUM:
        click.echo(f"too few: at least {MINIMUM:.0%} must be right", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
