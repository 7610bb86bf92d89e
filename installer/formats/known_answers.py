"""known_answers.json: what each operator of a release's graph gave for given inputs, where the release was built.

    {"format": 2, "parts": [{"name": "model.layers.0.mlp.output", "operator": "ExpertLayer", "node_sha256": ..,
      "decoded": 0.001, "prompt": 0.12, "answer": numbers}]}

A part is an operator that does not read constants alone, in the order of the graph; ``name`` is that of its first
output. ``node_sha256`` is the digest of its node, and of the nodes that compute constants for it, as they stand in the
graph. ``answer`` holds sketches (appliance/engine/selftest/sketch.py) as float32, little-endian, in base64.
``decoded`` and ``prompt`` are the largest differences that are allowed, in units of a sketch's root mean square, for
tokens that are decoded and for tokens of a prompt.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass
from typing import Annotated

from installer.formats.checks import FaultError, Length, Must, Rule
from installer.formats.fields import Text, parse_file

FORMAT = 2
FILE = "known_answers.json"
NUMBER_BYTES = 4


def _numbers(text: str) -> str:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise FaultError("must be numbers in base64") from exc
    if not data or len(data) % NUMBER_BYTES:
        raise FaultError(f"must be whole numbers of {NUMBER_BYTES} bytes in base64")
    return text


_Tolerance = Annotated[float, Must("must be a number between 0 and 1", gt=0, lt=1)]


@dataclass(frozen=True)
class KnownAnswer:
    """What one part gave, and how far from it another machine may be."""

    name: Text
    operator: Text
    node_sha256: Text
    decoded: _Tolerance
    prompt: _Tolerance
    answer: Annotated[str, Rule(_numbers)]


@dataclass(frozen=True)
class KnownAnswers:
    """The parts in the order of the graph."""

    parts: Annotated[tuple[KnownAnswer, ...], Length(least=1)]


def encode_known_answers(answers: KnownAnswers) -> bytes:
    body = {"format": FORMAT, "parts": [asdict(part) for part in answers.parts]}
    return (json.dumps(body, separators=(",", ":"), sort_keys=True) + "\n").encode()


def parse_known_answers(data: bytes) -> KnownAnswers:
    """Read the file's bytes.

    Raises:
        FormatError: it is not such a file, or has no part.
    """
    return parse_file(KnownAnswers, data, version=FORMAT)
