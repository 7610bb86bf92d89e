"""What the pages say about a model: the checkpoint's own model_card.json, or our words for the official models."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from bundler.checkpoint import Checkpoint
from bundler.checkpoints.recognise import given_name
from bundler.errors import CheckpointError
from installer.formats.fields import FormatError
from installer.formats.release import ModelCard, parse_model_card

MODEL_CARD = "model_card.json"
EXAMPLE_PROMPTS = 4
_CARD_FIELDS = {field.name for field in fields(ModelCard)} - {"converted"}  # which only the bundler can say
_OFFICIAL = {(24, 32, 2880): "20b", (36, 128, 2880): "120b"}  # layers, experts, hidden


def model_card(checkpoint: Checkpoint) -> ModelCard:
    """What the pages say about the model: a model_card.json, or our words for the official shapes.

    The card of an adapter comes before that of the checkpoint: it is a card of the two together.

    Raises:
        CheckpointError: model_card.json is not the object of docs/architecture.md.
    """
    given = [checkpoint.adapter.directory] if checkpoint.adapter else []
    for directory in (*given, checkpoint.directory):
        if (directory / MODEL_CARD).exists():
            return _parse_card(directory / MODEL_CARD)
    config = checkpoint.config
    shape = _OFFICIAL.get((config.layers, config.experts, config.hidden))
    stated = config.states_vocabulary  # by our own writer: a random or demo checkpoint
    size = shape if checkpoint.is_published and not stated else None  # a fine-tune is not OpenAI's model
    named_after = checkpoint.adapter.directory if checkpoint.adapter else checkpoint.directory
    identity = f"gpt-oss-{size}" if size else plain_name(given_name(named_after))
    return ModelCard(
        id=identity,
        title=identity,
        description=(
            f"OpenAI's open-weight reasoning model {identity}; it can be wrong, and knows nothing after its training."
            if size
            else f"A model of the gpt-oss architecture with {config.layers} layers; nothing more is known of it."
            + (" Its vocabulary is gpt-oss's because its config.json says so." if stated else "")
        ),
        context_tokens=config.context,
        example_prompts=(
            "Summarise the text I paste next in five sentences.",
            "Explain the difference between symmetric and asymmetric encryption.",
            "Write a Python function that finds duplicate files in a directory.",
            "Draft a polite e-mail that moves a meeting to next week.",
        ),
        notice=None,
    )


def plain_name(text: str) -> str:
    """The text as a name that VERSION_PATTERN allows."""
    return re.sub(r"[^0-9A-Za-z.+-]+", "-", text).strip(".+-")[:64] or "model"


def _parse_card(path: Path) -> ModelCard:
    expected = f"an object with {', '.join(sorted(_CARD_FIELDS))}"
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise CheckpointError(path, f"not readable as JSON ({exc})", expected) from exc
    if not isinstance(body, dict) or set(body) != _CARD_FIELDS:
        raise CheckpointError(path, "not the fields of a model card", expected)
    try:
        card = parse_model_card(body)
    except FormatError as exc:
        raise CheckpointError(path, str(exc), expected) from exc
    if len(card.example_prompts) != EXAMPLE_PROMPTS:
        raise CheckpointError(path, '"example_prompts" is not right', f"{EXAMPLE_PROMPTS} texts")
    return card
