"""How much of a decode step the Harmony grammar costs, and a JSON Schema: ``python -m bench.grammar [--schema]``.

The demo model answers questions at temperature 1, one after the other; with --schema its answers are held to one, so
they are JSON that it would hardly write. Each step's logits are kept, and the tokens are drawn from them again, in
turn held and free. The best of many rounds is compared with the best decode step, so that other work on the machine
does not change the result: of the demo model, or with --shape of a random model of that shape, in the same run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import click
import numpy as np

from appliance.engine.harmony import CALL, RETURN, Vocabulary, render_prompt
from appliance.engine.harmony_grammar import HarmonyGrammars
from appliance.engine.host import physical_cores
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.sampling import TopLogits, new_generator, sample
from appliance.engine.steps import Append
from appliance.engine.token_mask import State
from appliance.turns.request import Message, TurnRequest
from appliance.turns.schemas import with_order
from bench.demo_model_eval import open_examinee
from bench.machine import seconds
from bench.memory_probe import MemoryProbe
from bench.random_model import SHAPES, prepare

_QUESTIONS = ("What is this appliance?", "Who can read what I ask?", "How do I verify the record?")
_SCHEMA = with_order(
    {
        "type": "object",
        "properties": {
            "summary": {"type": "string"},
            "kind": {"enum": ["appliance", "record", "person"]},
            "steps": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"title": {"type": "string"}, "minutes": {"type": "integer", "minimum": 0}},
                    "required": ["title", "minutes"],
                    "additionalProperties": False,
                },
            },
            "source": {"type": ["string", "null"], "pattern": "^[a-z]+$"},
        },
        "required": ["summary", "kind", "steps", "source"],
        "additionalProperties": False,
    }
)
_MAX_TOKENS = 200
_STEPS = 40
_ROUNDS = 30
_DAY = date(2026, 11, 30)


@dataclass(frozen=True)
class Steps:
    """One answer: the logits that each token was drawn from, and the seconds of the fastest decode step."""

    tops: list[TopLogits]
    best_step_s: float


def asked(question: str, *, held: bool) -> TurnRequest:
    schema = _SCHEMA if held else None
    messages = (Message("user", question),)
    return TurnRequest(id="t", user="u", messages=messages, seed=1, grammar=True, answer_schema=schema)


def answer(model: OnnxModel, vocabulary: Vocabulary, request: TurnRequest, start: State) -> Steps:
    """The answer to a request that is held to ``start``."""
    prompt = render_prompt(vocabulary, request, today=_DAY)
    state, rng = start, new_generator(1)
    top, best = model.prefill_prompt(0, prompt), float("inf")
    tops: list[TopLogits] = []
    while len(tops) < _MAX_TOKENS:
        tops.append(_kept(top))
        token = sample(top, temperature=1.0, top_p=1.0, rng=rng, mask=state.mask)
        if token in (RETURN, CALL):
            break
        state = state.after(token)
        started = time.perf_counter()
        (top,) = model.decode([Append(0, token, len(prompt) + len(tops) - 1)])
        best = min(best, time.perf_counter() - started)
    return Steps(tops, best)


def _kept(top: TopLogits) -> TopLogits:
    """A copy of the logits, which the next step does not overwrite."""
    row = top.all_logits().copy()
    return replace(top, ids=top.ids.copy(), logits=top.logits.copy(), all_logits=lambda: row)


def draw_all(tops: Sequence[TopLogits], state: State | None) -> list[int]:
    """The answer's tokens, drawn again from the same logits."""
    rng, drawn = new_generator(1), []
    for top in tops:
        mask = None if state is None else state.mask
        drawn.append(sample(top, temperature=1.0, top_p=1.0, rng=rng, mask=mask))
        state = None if state is None or drawn[-1] in (RETURN, CALL) else state.after(drawn[-1])
    return drawn


def step_of(shape: str, work: Path) -> float:
    """The seconds of the fastest decode step of a random model of a shape."""
    graph = prepare(work, shape, "cpu", "int8")
    model = load_model(graph, accelerator="cpu", slots=1, context_tokens=1024)
    model.prefill_prompt(0, list(range(64)))
    return min(seconds(partial(model.decode, [Append(0, 7, 64 + place)])) for place in range(_STEPS))


@click.command()
@click.option("--schema", is_flag=True, help="Hold the answers to a JSON Schema.")
@click.option("--shape", type=click.Choice(sorted(SHAPES)), help="Compare with a step of this shape.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), help="Where its model is kept.")
def main(schema: bool, shape: str | None, work: Path) -> None:
    """Measure, as the module's docstring says."""
    work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        examinee = open_examinee(Path(directory))
        requests = [asked(question, held=schema) for question in _QUESTIONS]
        start = HarmonyGrammars(examinee.vocabulary).of(requests[0])
        if start is None:
            raise RuntimeError("internal error: the requests are held to nothing")
        answers = [answer(examinee.model, examinee.vocabulary, request, start) for request in requests]
    count = sum(len(one.tops) for one in answers)
    best = dict.fromkeys(("free", "held"), np.inf)
    for _ in range(_ROUNDS):
        for name, state in (("free", None), ("held", start)):
            took_s = sum(seconds(partial(draw_all, one.tops, state)) for one in answers)
            best[name] = min(best[name], took_s / count)
    step_s = step_of(shape, work) if shape else min(one.best_step_s for one in answers)
    what = "grammar and schema" if schema else "grammar"
    click.echo(f"memory: {MemoryProbe(physical_cores()).gb_s():.1f} GB/s")
    click.echo(f"{count} tokens of {len(answers)} answers; best decode step {step_s * 1e6:.0f} us ({shape or 'demo'})")
    click.echo(f"a draw takes {best['free'] * 1e6:.1f} us free, {best['held'] * 1e6:.1f} us held by the {what}")
    click.echo(f"the {what} cost {(best['held'] - best['free']) / (step_s + best['free']):.2%} of a step")


if __name__ == "__main__":
    sys.exit(main())
