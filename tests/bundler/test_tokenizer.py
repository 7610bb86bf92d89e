"""The vocabulary is rebuilt byte for byte from either source, and any other vocabulary is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import VocabularyError
from bundler.tokenizer import load_vocabulary, verify_vocabulary
from installer.formats.vocabulary import RANKS


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The vocabulary as oss-harmony carries it; its hash was checked by the function under test."""
    return load_vocabulary(tmp_path_factory.mktemp("without-tokenizer"))


@pytest.fixture(scope="module")
def tokenizer_json(published: bytes, parity_extra: None) -> dict[str, Any]:
    """A tokenizer.json of the published form; the alphabet is that of Transformers' GPT-2 tokenizer."""
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    alphabet = bytes_to_unicode()
    vocab = {}
    for line in published.splitlines():
        token, rank = line.split()
        vocab["".join(alphabet[byte] for byte in base64.b64decode(token))] = int(rank)
    return {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocab, "merges": []}}


def test_package_gives_the_published_file(published: bytes) -> None:
    assert published.startswith(b"IQ== 0\nIg== 1\n")
    assert published.count(b"\n") == RANKS


def test_tokenizer_json_gives_the_same_file(tmp_path: Path, published: bytes, tokenizer_json: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json, ensure_ascii=False), encoding="utf-8")
    assert load_vocabulary(tmp_path) == published


def _swap_two(vocab: dict[str, int]) -> None:
    vocab["!"], vocab['"'] = vocab['"'], vocab["!"]


def _lose_one(vocab: dict[str, int]) -> None:
    del vocab["!"]


def _leave_the_alphabet(vocab: dict[str, int]) -> None:
    del vocab["!"]
    vocab["\u4e00"] = 0


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (_swap_two, "not the o200k_base vocabulary"),
        (_lose_one, "no token has rank 0"),
        (_leave_the_alphabet, "'\u4e00' stands for no byte"),
    ],
)
def test_another_vocabulary_is_refused(
    tmp_path: Path, tokenizer_json: dict[str, Any], damage: Callable[[dict[str, int]], None], fault: str
) -> None:
    vocab = dict(tokenizer_json["model"]["vocab"])
    damage(vocab)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}), encoding="utf-8")
    with pytest.raises(VocabularyError, match=fault) as refusal:
        load_vocabulary(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"model": null}', '{"model": {"vocab": [1]}}', '{"model": {"vocab": {"!": "0"}}}']
)
def test_unreadable_tokenizer_json_is_refused_not_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        load_vocabulary(tmp_path)


def test_one_flipped_bit_is_refused(published: bytes) -> None:
    flipped = bytearray(published)
    flipped[1000] ^= 1
    with pytest.raises(VocabularyError, match="SHA-256"):
        verify_vocabulary(bytes(flipped), "a copy")
