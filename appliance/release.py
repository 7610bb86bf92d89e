"""Reads an installed release directory into one frozen ``Release``; see docs/architecture.md, "A release directory".

The installer has verified every byte against signed metadata before this directory existed. What is checked here is
what a process relies on when it opens the directory: the format it understands, paths that stay inside, files that are
there, and the vocabulary's digest (the one file whose right content is known to us, not only to the signer).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from appliance.errors import ApplianceError

RELEASE_FORMAT = 1
VOCABULARY_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"  # o200k_base.tiktoken
_MAX_RELEASE_JSON_BYTES = 1024 * 1024


class ReleaseError(ApplianceError):
    """The release cannot be used: a file is missing, unreadable or not the one it must be."""


@dataclass(frozen=True)
class ModelCard:
    """What the pages say about the model."""

    id: str
    title: str
    description: str
    context_tokens: int
    example_prompts: tuple[str, ...]
    notice: str | None


@dataclass(frozen=True)
class Release:
    """An installed release. Paths are absolute; ``graphs`` maps an accelerator to its graph."""

    path: Path
    name: str
    version: str
    graphs: Mapping[str, Path]
    config: Path
    vocabulary: Path
    known_answers: Path | None
    dense: str | None  # how the CPU graph holds attention and head: "int8" or "bf16"
    model: ModelCard


def load_release(path: Path) -> Release:
    """Read ``release.json`` under ``path``.

    Raises:
        ReleaseError: the description is missing, malformed or of another format, or names a file that is not there.
    """
    manifest = path / "release.json"
    try:
        with manifest.open("rb") as stream:
            body = json.loads(stream.read(_MAX_RELEASE_JSON_BYTES))
    except OSError as exc:
        raise ReleaseError(f"{manifest}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ReleaseError(f"{manifest}: is not JSON: {exc}") from exc
    if not isinstance(body, dict) or body.get("format") != RELEASE_FORMAT:
        raise ReleaseError(f"{manifest}: is not a release description of format {RELEASE_FORMAT}")
    try:
        known_answers = body["known_answers"]
        return Release(
            path=path,
            name=_text(body, "name"),
            version=_text(body, "version"),
            graphs={str(kind): _file(path, graph) for kind, graph in body["graphs"].items()},
            config=_file(path, body["config"]),
            vocabulary=_file(path, body["vocabulary"]),
            known_answers=None if known_answers is None else _file(path, known_answers),
            dense=None if body.get("dense") is None else _text(body, "dense"),
            model=_model_card(body["model"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ReleaseError(f"{manifest}: a field is missing or malformed: {exc}") from exc


def verify_vocabulary(path: Path) -> None:
    """Check that the file is o200k_base.

    Raises:
        ReleaseError: it cannot be read, or its SHA-256 is another.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise ReleaseError(f"{path}: cannot be read: {exc.strerror}") from exc
    if digest != VOCABULARY_SHA256:
        raise ReleaseError(f"{path}: is not the o200k_base vocabulary: SHA-256 is {digest}, not {VOCABULARY_SHA256}")


def _model_card(body: Mapping[str, Any]) -> ModelCard:
    context_tokens = body["context_tokens"]
    if type(context_tokens) is not int or context_tokens < 1:
        raise ValueError("model.context_tokens must be a positive whole number")
    return ModelCard(
        id=_text(body, "id"),
        title=_text(body, "title"),
        description=_text(body, "description"),
        context_tokens=context_tokens,
        example_prompts=tuple(str(prompt) for prompt in body["example_prompts"]),
        notice=None if body.get("notice") is None else _text(body, "notice"),
    )


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a text")
    return value


def _file(release: Path, name: object) -> Path:
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is not a path")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise ValueError(f"{name!r} does not stay inside the release")
    path = release / relative
    if not path.is_file():
        raise ReleaseError(f"{path}: is missing from the release")
    return path
