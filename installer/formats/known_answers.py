"""known_answers.json: the logits that a release's graph gives for a few prompts, where the release was built.

{"format": 1, "tolerance": 0.01, "cases": [{"prompt_ids": [..], "top_ids": [5 ids], "top_logits": [5 numbers]}]}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

from installer.formats.checks import Length, Must
from installer.formats.fields import Real, Whole, parse_file

FORMAT = 1
FILE = "known_answers.json"
TOP = 5


@dataclass(frozen=True)
class KnownAnswer:
    """The ``TOP`` largest logits after a prompt, largest first."""

    prompt_ids: Annotated[list[Whole], Length(least=1)]
    top_ids: Annotated[list[Whole], Length(least=TOP, most=TOP)]
    top_logits: Annotated[list[Real], Length(least=TOP, most=TOP)]


@dataclass(frozen=True)
class KnownAnswers:
    """``tolerance`` is relative to max(1, |logit|)."""

    cases: Annotated[tuple[KnownAnswer, ...], Length(least=1)]
    tolerance: Annotated[float, Must("must be a number between 0 and 1", gt=0, lt=1)]


def encode_known_answers(answers: KnownAnswers) -> bytes:
    body = {"format": FORMAT, "tolerance": answers.tolerance, "cases": [asdict(case) for case in answers.cases]}
    return (json.dumps(body, separators=(",", ":"), sort_keys=True) + "\n").encode()


def parse_known_answers(data: bytes) -> KnownAnswers:
    """Read the file's bytes.

    Raises:
        FormatError: it is not such a file, or has no case, or a number that is not finite.
    """
    return parse_file(KnownAnswers, data, version=FORMAT)
