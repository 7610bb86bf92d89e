"""Known answers: the logits that a release's prompts must give, recorded where it was built, checked where it runs.

    {"format": 1, "tolerance": 0.01, "cases": [{"prompt_ids": [..], "top_ids": [5 ids], "top_logits": [5 numbers]}]}

What this shows: graph, weights, runtime and processor together compute what they computed for the signer. On a CPU the
answers are those of the products for decoded tokens, which differ little between processors; the quicker ones for
prompts, which may round more, must then come near them. What it does not show: anything about the text a conversation
gives, or about speed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from appliance.engine.model import ModelError, OnnxModel, load_model
from appliance.engine.sampling import Float32Array, TopLogits
from appliance.errors import ApplianceError
from appliance.release import Release, ReleaseError

FORMAT = 1
TOP = 5
TOLERANCE = 0.01  # relative to max(1, |logit|)
# Of all logits of a prompt, the distance (root mean square) from those of the same tokens decoded, in their standard
# deviations. The demo model's are 0.01 apart, 0.3 where a token goes to another expert; those of random weights, whose
# experts are chosen by a hair, 0.4 after 24 layers; logits that have nothing to do with each other 1.4.
PROMPT_TOLERANCE = 0.8

Progress = Callable[[int, int], None]  # cases done, cases in all


class KnownAnswerError(ApplianceError):
    """The release does not give the answers it must."""


@dataclass(frozen=True)
class KnownAnswer:
    """The ``TOP`` largest logits after a prompt, largest first."""

    prompt_ids: list[int]
    top_ids: list[int]
    top_logits: list[float]


@dataclass(frozen=True)
class SelfTest:
    """A passed test: how many cases, and the largest deviation relative to max(1, |logit|). On a CPU also the largest
    distance of a prompt read at once, as PROMPT_TOLERANCE has it."""

    accelerator: str
    cases: int
    worst: float
    tolerance: float
    prompt_distance: float | None


def check_known_answers(release: Release, *, progress: Progress | None = None) -> SelfTest:
    """Have the release's graph answer its prompts and compare.

    Raises:
        ReleaseError: the release has no known answers, or their file is malformed.
        ModelError: the graph cannot be loaded or run.
        KnownAnswerError: an answer differs.
    """
    if release.known_answers is None:
        raise ReleaseError(f"{release.path}: this release has no known answers to test against")
    known, tolerance = _load(release.known_answers)
    model = _model_for(release, [case.prompt_ids for case in known])
    worst, distance = 0.0, None
    for number, case in enumerate(known, 1):
        top = model.read(0, case.prompt_ids, as_decoded=True)
        worst = max(worst, _deviation(case, top, tolerance, number))
        if model.accelerator == "cpu":
            decoded = top.all_logits()
            prompt = model.read(0, case.prompt_ids).all_logits()
            distance = max(distance or 0.0, _prompt_distance(prompt, decoded, number))
        if progress is not None:
            progress(number, len(known))
    return SelfTest(model.accelerator, len(known), worst, tolerance, distance)


def record_known_answers(release: Release, prompts: Sequence[Sequence[int]], out: Path) -> None:
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
        top = model.read(0, prompt, as_decoded=True)
        cases.append(KnownAnswer(list(prompt), top.ids[:TOP].tolist(), top.logits[:TOP].tolist()))
    body = {"format": FORMAT, "tolerance": TOLERANCE, "cases": [asdict(case) for case in cases]}
    try:
        out.write_text(json.dumps(body) + "\n")
    except OSError as exc:
        raise ReleaseError(f"{out}: cannot be written: {exc.strerror}") from exc


def load_prompts(path: Path) -> list[list[int]]:
    """Read a JSON list of lists of token ids.

    Raises:
        ReleaseError: the file is missing or something else.
    """
    try:
        return [[_whole(token) for token in prompt] for prompt in json.loads(path.read_bytes())]
    except OSError as exc:
        raise ReleaseError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError) as exc:
        raise ReleaseError(f"{path}: is not a JSON list of lists of token ids") from exc


def _model_for(release: Release, prompts: Sequence[Sequence[int]]) -> OnnxModel:
    accelerator = "cpu" if "cpu" in release.graphs else next(iter(release.graphs))
    longest = max(len(prompt) for prompt in prompts)
    model = load_model(release.graphs[accelerator], accelerator=accelerator, slots=1, context_tokens=longest)
    beyond = [token for prompt in prompts for token in prompt if not 0 <= token < model.shape.vocab]
    if beyond:
        raise ModelError(f"the prompts have token {beyond[0]}; the model's are 0 to {model.shape.vocab - 1}")
    return model


def _deviation(case: KnownAnswer, top: TopLogits, tolerance: float, number: int) -> float:
    """Largest relative deviation of a case's logits; raises KnownAnswerError beyond the tolerance.

    Each expected token must have its logit. The first must also be the largest, or so near to the largest that the
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


def _load(path: Path) -> tuple[list[KnownAnswer], float]:
    try:
        body = json.loads(path.read_bytes())
        cases = [
            KnownAnswer(
                [_whole(token) for token in case["prompt_ids"]],
                [_whole(token) for token in case["top_ids"]],
                [_number(logit) for logit in case["top_logits"]],
            )
            for case in body["cases"]
        ]
        tolerance = _number(body["tolerance"])
        shaped = all(case.prompt_ids and len(case.top_ids) == len(case.top_logits) == TOP for case in cases)
        if body["format"] != FORMAT or not cases or not shaped or not 0 < tolerance < 1:
            raise ValueError("not of this format")
    except OSError as exc:
        raise ReleaseError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise ReleaseError(f"{path}: is not a file of known answers: {exc}") from exc
    return cases, tolerance


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r:.40} is not a token id")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is not a number")
    return float(value)
