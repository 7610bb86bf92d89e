"""How much of a decode step the Harmony grammar costs: ``python -m bench.grammar``.

The demo model answers questions at temperature 1, one after the other. Each step's logits are kept, and the tokens are
drawn from them again, in turn with the grammar and without. The best of many rounds is compared with the best decode
step of the same model, so that other work on the machine does not change the result.
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
from appliance.engine.model.base import OnnxModel
from appliance.engine.sampling import TopLogits, new_generator, sample
from appliance.engine.steps import Append
from appliance.turns.request import Message, TurnRequest
from bench.demo_model_eval import open_examinee
from bench.machine import seconds

_QUESTIONS = ("What is this appliance?", "Who can read what I ask?", "How do I verify the record?")
_MAX_TOKENS = 200
_ROUNDS = 60
_DAY = date(2026, 11, 30)


@dataclass(frozen=True)
class Steps:
    """One answer: the logits that each token was drawn from, and the seconds of the fastest decode step."""

    tops: list[TopLogits]
    best_step_s: float


def answer(model: OnnxModel, vocabulary: Vocabulary, question: str) -> Steps:
    request = TurnRequest(id="t", user="u", messages=(Message("user", question),), seed=1)
    prompt = render_prompt(vocabulary, request, today=_DAY)
    state, rng = HarmonyGrammars(vocabulary).start(()), new_generator(1)
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


def draw_all(tops: Sequence[TopLogits], vocabulary: Vocabulary, grammars: HarmonyGrammars | None) -> list[int]:
    """The answer's tokens, drawn again from the same logits."""
    rng, drawn = new_generator(1), []
    state = None if grammars is None else grammars.start(())
    for top in tops:
        mask = None if state is None else state.mask
        drawn.append(sample(top, temperature=1.0, top_p=1.0, rng=rng, mask=mask))
        state = None if state is None or drawn[-1] in (RETURN, CALL) else state.after(drawn[-1])
    return drawn


@click.command()
def main() -> None:
    """Measure the grammar, as the module's docstring says."""
    with tempfile.TemporaryDirectory() as directory:
        examinee = open_examinee(Path(directory))
        answers = [answer(examinee.model, examinee.vocabulary, question) for question in _QUESTIONS]
    count = sum(len(one.tops) for one in answers)
    grammars = HarmonyGrammars(examinee.vocabulary)
    best = dict.fromkeys(("without", "with"), np.inf)
    for _ in range(_ROUNDS):
        for name, kept in (("without", None), ("with", grammars)):
            took_s = sum(seconds(partial(draw_all, one.tops, examinee.vocabulary, kept)) for one in answers)
            best[name] = min(best[name], took_s / count)
    step_s = min(one.best_step_s for one in answers)
    click.echo(f"{count} tokens of {len(answers)} answers; best decode step {step_s * 1e6:.0f} us")
    click.echo(f"a draw takes {best['without'] * 1e6:.1f} us without the grammar, {best['with'] * 1e6:.1f} us with it")
    click.echo(f"the grammar costs {(best['with'] - best['without']) / (step_s + best['without']):.2%} of a step")


if __name__ == "__main__":
    sys.exit(main())
