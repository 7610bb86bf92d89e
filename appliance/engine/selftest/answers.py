"""Known answers: what each operator of a release's graph gives for given inputs, recorded where the release is built,
compared where it runs.

installer/formats/known_answers.py defines the file. A passed test shows that graph, weights, packing, operators,
runtime and processor compute, part by part, what they computed for the signer, and that the parts are joined as they
were there. No part reads what another one computed, so rounding errors do not accumulate, and an expert is never
chosen by a rounding error. It does not show that the parts work in one session: the first start shows that. It says
nothing about speed.

The answers are those of the portable path, whose arithmetic is the same on every processor. A part's tolerance is
MARGIN times the largest difference between the paths of the builder's processor, and at least LEAST. An operator that
no path computes differently runs once, and its tolerance is LEAST.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from appliance.engine.host import physical_cores
from appliance.engine.model.onnx_file import GraphFile, read_graph
from appliance.engine.model.parts import Part, PartSession, open_part, parts_of
from appliance.engine.model.runtime import import_onnxruntime
from appliance.engine.operators import Operators, load_operators
from appliance.engine.packed_weights import Packing, load_packing, read_ahead
from appliance.engine.selftest.rows import Kind, Row, largest, rows_of
from appliance.errors import ApplianceError
from appliance.installed_release import InstalledRelease, ReleaseError
from installer.formats.fields import FormatError
from installer.formats.known_answers import (
    KnownAnswer,
    KnownAnswers,
    encode_known_answers,
    parse_known_answers,
)

REFERENCE: Final = "portable"  # the path whose answers are recorded
ON_PATHS: Final = frozenset({"Attention", "Dense", "ExpertLayer", "TopLogits"})  # operators that a path computes
MARGIN: Final = 3.0  # times the largest difference between the builder's paths


@dataclass(frozen=True)
class Allowed:
    """The largest differences, in units of a sketch's root mean square."""

    decoded: float
    prompt: float


# The least tolerances, for processors with instructions that the builder lacks: three times what was measured over
# random models of many sizes with six instruction sets. Decoded products take activations of 16 bits, those of a
# prompt 8 bits or bfloat16, and the experts' second product takes what the first one rounded. Everything else is
# computed in float32.
LEAST: Final = {"Dense": Allowed(2e-4, 0.03), "ExpertLayer": Allowed(1e-3, 0.12)}
LEAST_ELSE: Final = Allowed(2e-5, 2e-5)
MOST: Final = 10.0  # times the least: paths that differ more do not compute the same, and nothing is recorded

Progress = Callable[[int, int], None]  # parts done, parts in all

_AHEAD: Final = 7  # parts whose weights are read ahead: a layer has as many, so the next experts are among them

_OF_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_WORDS: Final = {
    "Embedding": "the embedding",
    "SimplifiedLayerNormalization": "a norm",
    "SkipSimplifiedLayerNormalization": "a norm",
    "Gemm": "the router",
    "Dense": "a projection",
    "Attention": "the attention",
    "ExpertLayer": "the experts",
    "Gather": "the choice of rows",
    "Identity": "a table",
    "TopLogits": "the largest logits",
}


class KnownAnswerError(ApplianceError):
    """The release does not give its known answers."""


@dataclass(frozen=True)
class SelfTest:
    """A passed test.

    Attributes:
        path: the instruction set that computed.
        decoded, prompt: the largest share of its tolerance that any part needed.
    """

    path: str
    parts: int
    decoded: float
    prompt: float


def check_known_answers(release: InstalledRelease, *, progress: Progress | None = None) -> SelfTest:
    """Let each part of the release's graph answer, and compare.

    Raises:
        ReleaseError: the release has no known answers, or their file is malformed.
        ModelError, PackingError: a part cannot be loaded or run.
        KnownAnswerError: an answer differs, or the graph has other parts.
    """
    if release.known_answers is None:
        raise ReleaseError(f"{release.path}: this release has no known answers to test against")
    known = _load(release.known_answers)
    subject = Subject.of(release)
    _require_same_parts(subject.parts, known)
    worst: dict[Kind, float] = {"decoded": 0.0, "prompt": 0.0}
    with closing(subject.sessions()) as sessions:
        for number, ((part, session), answer) in enumerate(zip(sessions, known.parts, strict=True), 1):
            rows = rows_of(subject.graph, part, session)
            for kind, share in compare(part, rows, answer).items():
                worst[kind] = max(worst[kind], share)
            if progress is not None:
                progress(number, len(known.parts))
    return SelfTest(subject.operators.chosen, len(known.parts), worst["decoded"], worst["prompt"])


def record_known_answers(release: InstalledRelease, out: Path, *, progress: Progress | None = None) -> None:
    """Write what each part of the release's graph gives, and how far this machine's instruction sets are from it.

    Raises:
        ReleaseError: ``out`` cannot be written.
        ModelError, PackingError: a part cannot be loaded or run.
        KnownAnswerError: a part gives what is no number, or two instruction sets differ too much.
    """
    subject = Subject.of(release)
    answers = []
    with closing(subject.sessions()) as sessions:
        for number, (part, session) in enumerate(sessions, 1):
            answers.append(answer_of(subject, part, session))
            if progress is not None:
                progress(number, len(subject.parts))
    try:
        out.write_bytes(encode_known_answers(KnownAnswers(tuple(answers))))
    except OSError as exc:
        raise ReleaseError(f"{out}: cannot be written: {exc.strerror}") from exc


@dataclass(frozen=True)
class Subject:
    """A release's graph for CPUs, and what its parts need to run."""

    graph: GraphFile
    parts: tuple[Part, ...]
    packing: Packing
    operators: Operators

    @classmethod
    def of(cls, release: InstalledRelease) -> Subject:
        if "cpu" not in release.graphs:
            raise ReleaseError(f"{release.path}: this release has no graph for CPUs, which known answers need")
        operators = load_operators()
        operators.set_threads(physical_cores())
        graph = read_graph(release.graphs["cpu"])
        return cls(graph, parts_of(graph), load_packing(graph.path.parent), operators)

    def opened(self, part: Part) -> AbstractContextManager[PartSession]:
        return open_part(import_onnxruntime(), self.graph, part, self.packing, self.operators, threads=physical_cores())

    def sessions(self) -> Generator[tuple[Part, PartSession]]:
        """Each part in turn, open until the next one is asked for, while the weights of later parts are being read.

        Raises:
            ModelError, PackingError: as ``open_part`` says.
        """
        with ThreadPoolExecutor(1) as reader:
            try:
                for number, part in enumerate(self.parts):
                    for later in self.parts[number + _AHEAD if number else 1 : number + _AHEAD + 1]:
                        reader.submit(self._read_ahead, later)
                    with self.opened(part) as session:
                        yield part, session
            finally:
                reader.shutdown(cancel_futures=True)

    def _read_ahead(self, part: Part) -> None:
        with suppress(OSError):  # whoever opens the part says what is wrong with its file
            for entry in self.packing.entries:
                if entry.key in part.keys:
                    read_ahead(entry, self.graph.path.parent)


def answer_of(subject: Subject, part: Part, session: PartSession) -> KnownAnswer:
    """What a part gives on the reference path, and the tolerance that the other paths of this processor need.

    Raises:
        ModelError: the part cannot be run.
        KnownAnswerError: it gives what is no number, or two paths differ too much.
    """
    with subject.operators.using(REFERENCE):
        expected = rows_of(subject.graph, part, session)
    if not all(np.isfinite(row.sketch).all() for row in expected):
        raise KnownAnswerError(f"{_words(part)} gives what is no number; is the checkpoint damaged?")
    worst: dict[Kind, float] = {"decoded": 0.0, "prompt": 0.0}
    for path in subject.operators.paths() if part.node.operator in ON_PATHS else ():
        if path == REFERENCE:
            continue
        with subject.operators.using(path):
            found = rows_of(subject.graph, part, session)
        for kind, distance in largest(found, expected).items():
            worst[kind] = max(worst[kind], distance[0])
    least = LEAST.get(part.node.operator, LEAST_ELSE)
    for kind, most in (("decoded", MOST * least.decoded), ("prompt", MOST * least.prompt)):
        if not worst[kind] <= most:
            raise KnownAnswerError(
                f"{_words(part)} differs between the instruction sets of this machine ({worst[kind]:.2g}, "
                f"{most:.2g} are possible by rounding): the operators are at fault, build elsewhere"
            )
    numbers = np.concatenate([row.sketch for row in expected]).astype("<f4")
    return KnownAnswer(
        name=part.name,
        operator=part.node.operator,
        node_sha256=part.digest,
        decoded=max(least.decoded, float(f"{MARGIN * worst['decoded']:.1e}")),
        prompt=max(least.prompt, float(f"{MARGIN * worst['prompt']:.1e}")),
        answer=base64.b64encode(numbers.tobytes()).decode(),
    )


def compare(part: Part, rows: Sequence[Row], answer: KnownAnswer) -> dict[Kind, float]:
    """The largest share of each tolerance; raises KnownAnswerError beyond it."""
    numbers = np.frombuffer(base64.b64decode(answer.answer), "<f4").astype(np.float64)
    sizes = [len(row.sketch) for row in rows]
    if sum(sizes) != len(numbers):
        raise KnownAnswerError(
            f"{_words(part)} differs: it gives {sum(sizes)} numbers, where the release was built it gave {len(numbers)}"
        )
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    expected = [Row(row.kind, row.name, one) for row, one in zip(rows, parts, strict=True)]
    shares: dict[Kind, float] = {}
    for kind, (distance, name) in largest(rows, expected).items():
        allowed = answer.decoded if kind == "decoded" else answer.prompt
        if not distance <= allowed:
            read = "" if kind == "decoded" else ", read as part of a prompt,"
            raise KnownAnswerError(
                f"{_words(part)} differs: {name}{read} is {distance:.2g} from what it was where the release was built, "
                f"{allowed:.2g} is allowed"
            )
        shares[kind] = distance / allowed
    return shares


def _require_same_parts(parts: Sequence[Part], known: KnownAnswers) -> None:
    """Refuse a graph with other operators than those that answered."""
    for part, answer in zip(parts, known.parts, strict=False):
        if part.name != answer.name:
            raise KnownAnswerError(f"{_words(part)} stands in the graph where {answer.name} stood when it was built")
        if part.digest != answer.node_sha256:
            raise KnownAnswerError(f"{_words(part)} reads other values or has other attributes than when it was built")
    if len(parts) != len(known.parts):
        raise KnownAnswerError(f"the graph has {len(parts)} parts; when it was built, it had {len(known.parts)}")


def _words(part: Part) -> str:
    """How a sentence names a part."""
    layer = _OF_LAYER.search(part.name)
    words = f"{_WORDS.get(part.node.operator, part.node.operator)} ({part.name})"
    return f"layer {layer[1]}: {words}" if layer else words


def _load(path: Path) -> KnownAnswers:
    try:
        return parse_known_answers(path.read_bytes())
    except OSError as exc:
        raise ReleaseError(f"{path}: cannot be read: {exc.strerror}") from exc
    except FormatError as exc:
        raise ReleaseError(f"{path}: is not a file of known answers: {exc}") from exc
