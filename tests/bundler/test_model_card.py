"""model_card.json of a checkpoint: every field of a card, no other, and four prompts; otherwise one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler.checkpoint import Checkpoint
from bundler.checkpoints.adapter import Adapter
from bundler.checkpoints.experts import RoundingLog
from bundler.checkpoints.readers import Readers
from bundler.errors import CheckpointError
from bundler.model_card import MODEL_CARD, model_card
from bundler.model_config import parse_model_config
from bundler.random_checkpoint import random_config
from installer.formats.release import ModelCard

CARD: dict[str, Any] = {
    "id": "tiny", "title": "Tiny", "description": "Small.", "context_tokens": 256,
    "example_prompts": ["a", "b", "c", "d"], "notice": None,
}  # fmt: skip
EXPECTED = "an object with context_tokens, description, example_prompts, id, notice, title"
CONFIG = parse_model_config(
    random_config(
        layers=2,
        hidden=64,
        intermediate=64,
        experts=4,
        experts_per_token=2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocab=300,
    )
)


def opened(directory: Path, *, experts_from: frozenset[str] = frozenset()) -> Checkpoint:
    return Checkpoint(
        directory, CONFIG, b"", {}, None, Readers({}, RoundingLog(), experts_from, frozenset(), frozenset())
    )


def card_of(directory: Path, text: bytes) -> ModelCard:
    (directory / MODEL_CARD).write_bytes(text)
    return model_card(opened(directory))


def test_a_card_is_taken_as_it_is(tmp_path: Path) -> None:
    card = card_of(tmp_path, json.dumps(CARD).encode())
    assert card == ModelCard("tiny", "Tiny", "Small.", 256, ("a", "b", "c", "d"), None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[]", "not the fields of a model card"),
        (json.dumps({**CARD, "more": 1}).encode(), "not the fields of a model card"),
        (
            json.dumps({name: CARD[name] for name in CARD if name != "notice"}).encode(),
            "not the fields of a model card",
        ),
        (
            json.dumps({**CARD, "context_tokens": True}).encode(),
            "context_tokens must be a whole number from 1 on, not True",
        ),
        (json.dumps({**CARD, "title": ""}).encode(), "title must be a text"),
        (json.dumps({**CARD, "example_prompts": ["a"]}).encode(), '"example_prompts" is not right'),
    ],
    ids=["empty", "deep", "list", "more", "less", "true", "blank", "prompts"],
)
def test_another_card_is_refused_with_what_is_expected(tmp_path: Path, text: bytes, fault: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        card_of(tmp_path, text)
    assert caught.value.path == tmp_path / MODEL_CARD
    assert fault in caught.value.fault
    assert caught.value.expected == ("4 texts" if "example_prompts" in fault else EXPECTED)


def test_a_fine_tune_is_not_called_openais(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.model_card._OFFICIAL", {(CONFIG.layers, CONFIG.experts, CONFIG.hidden): "20b"})
    directory = tmp_path / "our tune"
    assert model_card(opened(directory)).id == "gpt-oss-20b"
    tuned = model_card(opened(directory, experts_from=frozenset({"BF16"})))
    assert tuned.id == "our-tune"
    assert "OpenAI" not in tuned.description


def test_a_random_checkpoint_of_an_official_shape_is_not_called_openais(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer states which vocabulary it uses; the card says that this is all that is known of it."""
    monkeypatch.setattr("bundler.model_card._OFFICIAL", {(CONFIG.layers, CONFIG.experts, CONFIG.hidden): "20b"})
    stated = replace(opened(tmp_path / "random"), config=replace(CONFIG, states_vocabulary=True))
    card = model_card(stated)
    assert card.id == "random"
    assert "OpenAI" not in card.description
    assert card.description.endswith("Its vocabulary is gpt-oss's because its config.json says so.")


def test_a_card_cannot_claim_how_the_weights_were_converted(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the fields of a model card"):
        card_of(tmp_path, json.dumps({**CARD, "converted": None}).encode())


def test_a_snapshot_of_a_cache_is_called_by_its_repository(tmp_path: Path) -> None:
    directory = tmp_path / "models--acme--support-20b" / "snapshots" / "6cee5e8"
    directory.mkdir(parents=True)
    assert model_card(opened(directory)).id == "support-20b"


def test_the_card_of_an_adapter_comes_first(tmp_path: Path) -> None:
    for name in ("base", "style"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MODEL_CARD).write_text(json.dumps({**CARD, "id": name}))
    base = opened(tmp_path / "base")
    assert model_card(base).id == "base"
    adapter = Adapter(tmp_path / "style", "style", {}, {})
    assert model_card(replace(base, adapter=adapter)).id == "style"
    (tmp_path / "style" / MODEL_CARD).unlink()
    assert model_card(replace(base, adapter=adapter)).id == "base"
