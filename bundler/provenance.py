"""How a release was made: an in-toto statement with SLSA's provenance predicate, as a file of the release.

The statement names the other files of the release by digest (but not release.json, whose version is made from it), the
inputs by digest (files of the checkpoint, the source tree, every wheel), the parameters of the build, and the builder's
programs with their versions. It holds no time, no path and no name of a host, so that the same inputs on the same
builder give the same bytes. The archive's metadata signs it like any other file.

Specifications: in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md), SLSA
provenance v1 (https://slsa.dev/spec/v1.0/provenance).
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bundler.errors import CheckpointError
from bundler.own_wheel import project_root, source_packages
from bundler.wheel_facts import WheelFacts
from bundler.wheelhouse import sha256_file
from installer.archive import Sha256Hex
from installer.targets import Target, contents_digest

FILE = "provenance.json"
BUILD_TYPE = "urn:gpt-oss-appliance:bundler-build:1"
BUILDER = "urn:gpt-oss-appliance:bundler"
TOOLS = ("gpt-oss-appliance", "cyclonedx-python-lib", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "pip")

Parameter = str | bool | None | Sequence[str]


@dataclass(frozen=True)
class Input:
    """Something that a release was made from."""

    name: str
    sha256: str
    uri: str | None = None


def model_inputs(what: str, directory: Path) -> list[Input]:
    """The files at the top of a directory, by digest. A build reads nothing below them.

    Args:
        what: "checkpoint" or "adapter".
    Raises:
        CheckpointError: one cannot be read.
    """
    files = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    found = []
    for path in files:
        try:
            found.append(Input(f"{what}/{path.name}", sha256_file(path)))
        except OSError as exc:
            raise CheckpointError(path, f"cannot be read: {exc.strerror}", "a readable file") from exc
    return found


def source_input() -> Input:
    """The sources that the project's wheel is built from: SHA-256 of the sorted lines `digest size path`."""
    root = project_root()
    paths = [
        root / "pyproject.toml",
        *(path for name in source_packages() for path in sorted((root / name).rglob("*"))),
    ]
    files = [
        Target(path.relative_to(root).as_posix(), Sha256Hex(sha256_file(path)), path.stat().st_size)
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    ]
    return Input("source", contents_digest(files))


def wheel_inputs(wheels: Sequence[WheelFacts]) -> list[Input]:
    return [Input(wheel.file, wheel.sha256, f"pkg:pypi/{wheel.name}@{wheel.version}") for wheel in wheels]


def encode_provenance(targets: Sequence[Target], inputs: Sequence[Input], parameters: Mapping[str, Parameter]) -> bytes:
    """The statement's bytes.

    Args:
        targets: the files that the statement is about.
        parameters: what the person who built the release chose.
    """
    subject = [{"name": target.path, "digest": {"sha256": target.sha256}} for target in targets]
    dependencies = [
        {"name": one.name, "digest": {"sha256": one.sha256}, **({"uri": one.uri} if one.uri else {})} for one in inputs
    ]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"command": "bundler build", **parameters},
                "internalParameters": {"platform": f"{sys.platform}-{platform.machine()}"},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {"builder": {"id": BUILDER, "version": _versions()}},
        },
    }
    return (json.dumps(statement, indent=1, sort_keys=True) + "\n").encode()


def _versions() -> dict[str, str]:
    """The programs of the builder that decide bytes of a release."""
    found = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
