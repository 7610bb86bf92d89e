"""known_answers.json: the logits that a release's graph gives for a few prompts, where the release was built.

{"format": 1, "tolerance": 0.01, "cases": [{"prompt_ids": [..], "top_ids": [5 ids], "top_logits": [5 numbers]}]}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from installer.formats.fields import FormatError, items, objects, parse_object, real_number, value, whole_number

FORMAT = 1
FILE = "known_answers.json"
TOP = 5


@dataclass(frozen=True)
class KnownAnswer:
    """The ``TOP`` largest logits after a prompt, largest first."""

    prompt_ids: list[int]
    top_ids: list[int]
    top_logits: list[float]


@dataclass(frozen=True)
class KnownAnswers:
    """``tolerance`` is relative to max(1, |logit|)."""

    cases: tuple[KnownAnswer, ...]
    tolerance: float


def encode_known_answers(answers: KnownAnswers) -> bytes:
    body = {"format": FORMAT, "tolerance": answers.tolerance, "cases": [asdict(case) for case in answers.cases]}
    return (json.dumps(body, separators=(",", ":"), sort_keys=True) + "\n").encode()


def parse_known_answers(data: bytes) -> KnownAnswers:
    """Read the file's bytes.

    Raises:
        FormatError: it is not such a file, holds no case, or a number that is not finite.
    """
    body = parse_object(data, version=FORMAT)
    cases = tuple(_case(case) for case in objects(body, "cases"))
    tolerance = real_number(value(body, "tolerance"), "tolerance")
    if not cases or not 0 < tolerance < 1:
        raise FormatError("it holds no case, or a tolerance that is not between 0 and 1")
    return KnownAnswers(cases, tolerance)


def _case(body: Any) -> KnownAnswer:
    case = KnownAnswer(
        [whole_number(token, "a token id") for token in items(body, "prompt_ids")],
        [whole_number(token, "a token id") for token in items(body, "top_ids")],
        [real_number(logit, "a logit") for logit in items(body, "top_logits")],
    )
    if not case.prompt_ids or len(case.top_ids) != TOP or len(case.top_logits) != TOP:
        raise FormatError(f"a case needs a prompt and {TOP} tokens with their logits")
    return case
