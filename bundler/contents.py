"""Assembles a release directory from a checkpoint: graphs, vocabulary, wheels, known answers, licences, bill of
materials, provenance.

docs/architecture.md, "A release directory", lists every file. The files depend on the inputs alone (no times, no paths,
no random numbers), so that the same inputs give the same archive.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version as distribution_version
from pathlib import Path, PurePath

from bundler.about import write_about
from bundler.advisories import read_advisories
from bundler.archive import ReleaseTree, digest_tree
from bundler.checkpoint import Checkpoint, open_checkpoint
from bundler.dependencies import Hosts
from bundler.errors import BuildError, KnownAnswersError
from bundler.export import MODEL, export_graph
from bundler.graph.cpu import DenseKind
from bundler.graph.plan import Accelerator
from bundler.known_answers import record_known_answers, verify_known_answers
from bundler.lock import PROJECT, WheelTarget, check_coverage, load_lock
from bundler.model_card import model_card, plain_name
from bundler.model_licence import licence_of_model
from bundler.own_wheel import build_own_wheel, project_requirements
from bundler.provenance import FILE as PROVENANCE
from bundler.provenance import (
    Input,
    Parameter,
    encode_provenance,
    model_inputs,
    source_input,
    wheel_inputs,
)
from bundler.sbom import FILE as SBOM
from bundler.sbom import Materials, encode_sbom
from bundler.tokenizer import load_vocabulary
from bundler.vulnerabilities import compare, parts_of
from bundler.wheel_facts import WheelFacts, read_wheel, safe_name
from bundler.wheelhouse import check_unpacking, collect_wheelhouse, fetch_wheels, sha256_file
from installer.archive import Sha256Hex
from installer.formats.advisories import FILE as ADVISORIES
from installer.formats.advisories import Advisories, encode_advisories
from installer.formats.known_answers import FILE as KNOWN_ANSWERS
from installer.formats.release import (
    DESCRIPTOR,
    VERSION_PATTERN,
    ModelCard,
    Release,
    encode_release,
    python_number,
)
from installer.formats.release import Target as ReleaseTarget
from installer.formats.vocabulary import PATH as VOCABULARY
from installer.progress import Progress
from installer.targets import Target, contents_digest

CONFIG = "model/config.json"


@dataclass(frozen=True)
class BuildRequest:
    """Everything that decides a release's contents."""

    checkpoint: Path
    adapter: Path | None  # a LoRA adapter to merge
    targets: tuple[WheelTarget, ...]  # one for each Python of the hosts; else alike
    wheel_cache: Path
    own_wheel: Path | None  # None: built from the source tree
    dense: DenseKind  # how the CPU graph's operators hold attention and head
    name: str | None  # None: the model's id
    version: str | None  # None: the project's version and a digest of the contents
    known_answers: bool
    environ: Mapping[str, str]  # the environment of the programs that the build starts
    advisories: tuple[Path, ...] = ()  # exports of vulnerability data, whose findings travel with the release

    @property
    def target(self) -> ReleaseTarget:
        """What the wheels are for, as release.json says it."""
        pythons = sorted({target.python for target in self.targets}, key=python_number)
        return ReleaseTarget(tuple(pythons), self.targets[0].platform)

    @property
    def accelerators(self) -> tuple[Accelerator, ...]:
        chosen = self.targets[0].accelerator
        return ("cpu", "cuda") if chosen == "both" else (chosen,)


def assemble_release(tree: Path, request: BuildRequest, progress: Progress) -> ReleaseTree:
    """Build the release in the empty directory `tree` and hash its files.

    Raises:
        BundlerError: a subclass that says which input is at fault.
    """
    # 1. Refuse what cannot work, before a large graph takes hours.
    progress.stage("Reading the checkpoint")
    checkpoint = open_checkpoint(request.checkpoint, request.adapter)
    descriptor = _descriptor(request, model_card(checkpoint))
    _require_graph_for_answers(request)
    vocabulary = load_vocabulary(checkpoint)
    progress.stage("Collecting wheels")
    _wheels(tree, request)
    write_about(tree)
    # 2. The parts.
    exported = _export(tree, checkpoint, vocabulary, request, progress)
    descriptor = replace(descriptor, model=replace(descriptor.model, converted=checkpoint.converted()))
    with ThreadPoolExecutor(max_workers=1) as beside:  # the recording computes, and leaves the disk to it
        model = beside.submit(_model_inputs, request)
        if request.known_answers:
            progress.stage("Recording known answers")
            _write_descriptor(tree, descriptor)
            record_known_answers(tree)
            descriptor = replace(descriptor, known_answers=KNOWN_ANSWERS)
            (tree / DESCRIPTOR).unlink()
        progress.stage("Hashing the checkpoint")
        inputs = model.result()
    progress.stage("Reading wheels and licences")
    wheels = tuple(read_wheel(path) for path in sorted((tree / "wheels").glob("*.whl")))
    _write_licences(tree, request, wheels)
    if request.advisories:
        (tree / ADVISORIES).write_bytes(encode_advisories(_known_vulnerabilities(request.advisories, wheels)))
    inputs += _other_inputs(request, wheels)
    # 3. Their digests, then the documents that name them, then release.json. The version may be made from all of them.
    files = digest_tree(tree, known=exported).targets
    if request.version is None:
        drafts = _documents(request, descriptor, files, wheels, inputs)
        contents = contents_digest((*files, *(target_of(path, data) for path, data in drafts.items())))
        descriptor = replace(descriptor, version=f"{descriptor.version}+{contents[:8]}")
    documents = _documents(request, descriptor, files, wheels, inputs)
    try:
        documents[DESCRIPTOR] = encode_release(descriptor)
    except UnicodeEncodeError as exc:
        raise BuildError(f"{DESCRIPTOR}: a text cannot be written as UTF-8") from exc
    for path, data in documents.items():
        (tree / path).write_bytes(data)
    # 4. The finished tree, as the installer will test it. What is signed later has the digests from above.
    if request.known_answers:
        progress.stage("Testing the release with its known answers")
        verify_known_answers(tree)
    named = [target_of(path, data) for path, data in documents.items()]
    return ReleaseTree(tree, tuple(sorted((*files, *named), key=lambda t: t.path)))


def target_of(path: str, data: bytes) -> Target:
    """A file of the release that is in memory."""
    return Target(path, Sha256Hex(hashlib.sha256(data).hexdigest()), len(data))


def _descriptor(request: BuildRequest, card: ModelCard) -> Release:
    """release.json, still without known answers and without the contents' digest in its version."""
    name = request.name or plain_name(card.id)
    version = request.version or distribution_version(PROJECT)
    for field in (name, version):
        if not VERSION_PATTERN.fullmatch(field):
            raise BuildError(f"{field!r} is not a usable name or version: letters, digits and .+- only, at most 64")
    accelerators = request.accelerators
    return Release(
        name=name,
        version=version,
        accelerators=accelerators,
        graphs={accelerator: f"model/{accelerator}/{MODEL}" for accelerator in accelerators},
        dense=request.dense if "cpu" in accelerators else None,
        config=CONFIG,
        vocabulary=VOCABULARY,
        known_answers=None,
        target=request.target,
        model=card,
    )


def _require_graph_for_answers(request: BuildRequest) -> None:
    """Refuse known answers for a release without a graph that could give them."""
    if request.known_answers and "cpu" not in request.accelerators:
        raise KnownAnswersError("known answers are recorded with the CPU graph; --no-known-answers builds without them")


def _export(
    tree: Path, checkpoint: Checkpoint, vocabulary: bytes, request: BuildRequest, progress: Progress
) -> dict[Path, Sha256Hex]:
    """Write the graphs and what belongs to them. Returns the digests of the graphs' files."""
    digests: dict[Path, Sha256Hex] = {}
    (tree / "model").mkdir()
    (tree / CONFIG).write_bytes(checkpoint.config_bytes)
    for accelerator in request.accelerators:
        graph = export_graph(
            checkpoint,
            tree / "model" / accelerator,
            accelerator=accelerator,
            dense=request.dense,
            progress=progress,
        )
        digests |= {file.path: file.sha256 for file in graph.files}
        if accelerator == "cpu":  # stores experts as published, so they are rounded once for all graphs
            checkpoint = checkpoint.reading({name: graph.reader(name) for name in checkpoint.rounded})
    (tree / VOCABULARY).parent.mkdir()
    (tree / VOCABULARY).write_bytes(vocabulary)
    return digests


def _wheels(tree: Path, request: BuildRequest) -> None:
    locks = {target: load_lock(target) for target in request.targets}
    if request.own_wheel is None:
        for target, lock in locks.items():
            check_coverage(lock, project_requirements(target))
    with tempfile.TemporaryDirectory(prefix="bundler-own-") as scratch:
        own = request.own_wheel or build_own_wheel(Path(scratch), request.environ)
        for target, lock in locks.items():
            name = PurePath(request.target.lock(target.python)).name
            collect_wheelhouse(tree / "wheels", fetch_wheels(lock, target, request.wheel_cache), own, lock, name=name)
            check_unpacking(tree / "wheels", name, target.python)


def _write_licences(tree: Path, request: BuildRequest, wheels: Sequence[WheelFacts]) -> None:
    licences = tree / "licences"
    for wheel in wheels:
        directory = licences / f"{wheel.name}-{safe_name(wheel.version)}"
        for file, text in wheel.licences.items():
            directory.mkdir(parents=True, exist_ok=True)
            (directory / file).write_bytes(text)
    given = {"model": request.checkpoint, **({} if request.adapter is None else {"adapter": request.adapter})}
    for name, directory in given.items():
        for path in sorted(directory.glob("LICEN*")):
            (licences / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, licences / name / safe_name(path.name))


def _known_vulnerabilities(exports: Sequence[Path], wheels: Sequence[WheelFacts]) -> Advisories:
    parts = parts_of(wheels)
    packages = {(part.type, part.name) for part in parts}
    return compare(parts, [read_advisories(path, packages) for path in exports])


def _model_inputs(request: BuildRequest) -> list[Input]:
    """The files of the model that the release is made from, by digest."""
    adapter = [] if request.adapter is None else model_inputs("adapter", request.adapter)
    return [*model_inputs("checkpoint", request.checkpoint), *adapter]


def _other_inputs(request: BuildRequest, wheels: Sequence[WheelFacts]) -> list[Input]:
    """What else the release is made from, by digest."""
    source = [] if request.own_wheel is not None else [source_input()]
    advisories = [Input("advisories", sha256_file(path)) for path in request.advisories]
    return [*source, *wheel_inputs(wheels), *advisories]


def _documents(
    request: BuildRequest,
    descriptor: Release,
    files: Sequence[Target],
    wheels: tuple[WheelFacts, ...],
    inputs: Sequence[Input],
) -> dict[str, bytes]:
    """The files that name the other files by digest: the bill of materials and the provenance."""
    materials = Materials(
        name=descriptor.name,
        version=descriptor.version,
        bundler=distribution_version(PROJECT),
        model=descriptor.model.id,
        model_licence=licence_of_model(request.checkpoint, request.adapter),
        targets=tuple(files),
        wheels=wheels,
        hosts=Hosts(descriptor.target.pythons, descriptor.target.platform),
        extra=request.targets[0].extra,
    )
    sbom = encode_sbom(materials)
    parameters: dict[str, Parameter] = {
        "name": descriptor.name,
        "version": descriptor.version,
        "accelerators": list(descriptor.accelerators),
        "dense": descriptor.dense,
        "pythons": list(materials.hosts.pythons),
        "platform": materials.hosts.platform,
        "known_answers": request.known_answers,
    }
    subject = [*files, target_of(SBOM, sbom)]
    return {SBOM: sbom, PROVENANCE: encode_provenance(subject, inputs, parameters)}


def _write_descriptor(tree: Path, descriptor: Release) -> None:
    try:
        (tree / DESCRIPTOR).write_bytes(encode_release(descriptor))
    except UnicodeEncodeError as exc:
        raise BuildError(f"{DESCRIPTOR}: a text cannot be written as UTF-8") from exc
