"""Known answers: the logits that a release's prompts must give, recorded where it was built, checked where it runs.

installer/formats/known_answers.py defines the file. A passed test shows that graph, weights, runtime and processor
together compute what they computed for the signer. On a CPU the answers are computed with the products for decoded
tokens, which differ little between processors; the faster products for prompts, which may round more, must then come
near them. The test says nothing about the text of a conversation, or about speed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from appliance.engine.model import ModelError
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.sampling import Float32Array, TopLogits
from appliance.errors import ApplianceError
from appliance.installed_release import InstalledRelease, ReleaseError
from installer.formats.fields import FormatError, Whole, parse_fields
from installer.formats.known_answers import (
    TOP,
    KnownAnswer,
    KnownAnswers,
    encode_known_answers,
    parse_known_answers,
)

TOLERANCE = 0.01  # relative to max(1, |logit|)
# How far the logits of a prompt may be from those of the same tokens decoded: root mean square over all logits, in
# standard deviations of the latter. The demo model's are 0.01 apart, and 0.3 where a token is routed to another expert.
# Random weights, where the choice of experts is close, give 0.4 after 24 layers; unrelated logits give 1.4.
PROMPT_TOLERANCE = 0.8

Progress = Callable[[int, int], None]  # cases done, cases in all


class KnownAnswerError(ApplianceError):
    """The release does not give its known answers."""


@dataclass(frozen=True)
class SelfTest:
    """A passed test.

    Attributes:
        worst: the largest deviation, relative to max(1, |logit|).
        prompt_distance: on a CPU, the largest distance of a prefilled prompt (see PROMPT_TOLERANCE).
    """

    accelerator: str
    cases: int
    worst: float
    tolerance: float
    prompt_distance: float | None


def check_known_answers(release: InstalledRelease, *, progress: Progress | None = None) -> SelfTest:
    """Let the release's graph answer the prompts and compare.

    Raises:
        ReleaseError: the release has no known answers, or their file is malformed.
        ModelError: the graph cannot be loaded or run.
        KnownAnswerError: an answer differs.
    """
    if release.known_answers is None:
        raise ReleaseError(f"{release.path}: this release has no known answers to test against")
    known = _load(release.known_answers)
    model = _model_for(release, [case.prompt_ids for case in known.cases])
    worst, distance = 0.0, None
    for number, case in enumerate(known.cases, 1):
        top = model.prefill_prompt(0, case.prompt_ids, as_decoded=True)
        worst = max(worst, _deviation(case, top, known.tolerance, number))
        if model.accelerator == "cpu":
            decoded = top.all_logits()
            prompt = model.prefill_prompt(0, case.prompt_ids).all_logits()
            distance = max(distance or 0.0, _prompt_distance(prompt, decoded, number))
        if progress is not None:
            progress(number, len(known.cases))
    return SelfTest(model.accelerator, len(known.cases), worst, known.tolerance, distance)


def record_known_answers(release: InstalledRelease, prompts: Sequence[Sequence[int]], out: Path) -> None:
    """Write the answers that the release's graph gives to ``prompts`` (token ids).

    Raises:
        ReleaseError: there is no prompt, or ``out`` cannot be written.
        ModelError: the graph cannot be loaded or run, or a prompt does not suit it.
    """
    if not prompts or not all(prompts):
        raise ReleaseError("known answers need at least one prompt, and none may be empty")
    model = _model_for(release, prompts)
    cases = []
    for prompt in prompts:
        top = model.prefill_prompt(0, prompt, as_decoded=True)
        cases.append(KnownAnswer(list(prompt), top.ids[:TOP].tolist(), top.logits[:TOP].tolist()))
    try:
        out.write_bytes(encode_known_answers(KnownAnswers(tuple(cases), TOLERANCE)))
    except OSError as exc:
        raise ReleaseError(f"{out}: cannot be written: {exc.strerror}") from exc


def load_prompts(path: Path) -> list[list[int]]:
    """Read a JSON list of lists of token ids.

    Raises:
        ReleaseError: the file is missing or something else.
    """
    try:
        return parse_fields(list[list[Whole]], json.loads(path.read_bytes()))
    except OSError as exc:
        raise ReleaseError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ReleaseError(f"{path}: is not a JSON list of lists of token ids") from exc


def _model_for(release: InstalledRelease, prompts: Sequence[Sequence[int]]) -> OnnxModel:
    accelerator = "cpu" if "cpu" in release.graphs else next(iter(release.graphs))
    longest = max(len(prompt) for prompt in prompts)
    model = load_model(release.graphs[accelerator], accelerator=accelerator, slots=1, context_tokens=longest)
    beyond = [token for prompt in prompts for token in prompt if not 0 <= token < model.shape.vocab]
    if beyond:
        raise ModelError(f"the prompts have token {beyond[0]}; the model's are 0 to {model.shape.vocab - 1}")
    return model


def _deviation(case: KnownAnswer, top: TopLogits, tolerance: float, number: int) -> float:
    """Largest relative deviation of a case's logits; raises KnownAnswerError beyond the tolerance.

    Each expected token must have its logit. The first must also have the largest logit, or one so near to it that the
    tolerance allows the two to change places.
    """
    found = dict(zip(top.ids.tolist(), top.logits.tolist(), strict=True))
    worst = 0.0
    for token, expected in zip(case.top_ids, case.top_logits, strict=True):
        actual = found.get(token, -math.inf)
        worst = max(worst, abs(actual - expected) / max(1.0, abs(expected)))
    lead = float(top.logits[0]) - found.get(case.top_ids[0], -math.inf)
    if not (worst <= tolerance and lead <= tolerance * max(1.0, abs(case.top_logits[0]))):
        raise KnownAnswerError(
            f"known answer {number} differs: expected token {case.top_ids[0]} with logit {case.top_logits[0]:.3f}, "
            f"got token {int(top.ids[0])} with {float(top.logits[0]):.3f}; deviation {worst:.2g}, allowed {tolerance:g}"
        )
    return worst


def _prompt_distance(prompt: Float32Array, decoded: Float32Array, number: int) -> float:
    """How far a prompt's logits are from those of its tokens decoded; raises KnownAnswerError beyond the tolerance."""
    distance = float(np.sqrt(np.mean((prompt - decoded) ** 2)) / np.std(decoded))
    if not distance <= PROMPT_TOLERANCE:
        raise KnownAnswerError(
            f"known answer {number} differs when it is read as a prompt: its logits are {distance:.2g} standard "
            f"deviations from those of its tokens decoded, {PROMPT_TOLERANCE:g} are allowed"
        )
    return distance


def _load(path: Path) -> KnownAnswers:
    try:
        return parse_known_answers(path.read_bytes())
    except OSError as exc:
        raise ReleaseError(f"{path}: cannot be read: {exc.strerror}") from exc
    except FormatError as exc:
        raise ReleaseError(f"{path}: is not a file of known answers: {exc}") from exc
