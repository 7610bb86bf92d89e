"""The vocabulary is rebuilt byte for byte from either source, and any other vocabulary is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.checkpoint import Checkpoint, open_checkpoint
from bundler.checkpoints.adapter import Adapter
from bundler.checkpoints.experts import RoundingLog
from bundler.checkpoints.readers import Readers
from bundler.errors import VocabularyError
from bundler.model_config import parse_model_config
from bundler.random_checkpoint import random_config
from bundler.tokenizer import load_vocabulary, published_vocabulary, verify_vocabulary
from installer.formats.vocabulary import RANKS


@pytest.fixture(scope="module")
def published() -> bytes:
    """The vocabulary as oss-harmony carries it; its hash was checked by the function under test."""
    return published_vocabulary()


def _opened(directory: Path, adapter: Path | None = None, *, states: bool = False) -> Checkpoint:
    """A checkpoint as somebody gives it, without weights; `states`: its config.json says which vocabulary it uses."""
    config = random_config(
        layers=1, hidden=32, intermediate=32, experts=2, experts_per_token=1, heads=2, kv_heads=1, head_dim=16, vocab=40
    )
    stated = {"harmony_vocabulary": "o200k_harmony"} if states else {}
    merged = None if adapter is None else Adapter(adapter, adapter.name, {}, {})
    readers = Readers({}, RoundingLog(), frozenset(), frozenset(), frozenset())
    return Checkpoint(directory, parse_model_config({**config, **stated}), b"", {}, merged, readers)


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
    assert load_vocabulary(_opened(tmp_path)) == published


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
        load_vocabulary(_opened(tmp_path))
    assert str(tmp_path / "tokenizer.json") in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"model": null}', '{"model": {"vocab": [1]}}', '{"model": {"vocab": {"!": "0"}}}']
)
def test_unreadable_tokenizer_json_is_refused_not_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        load_vocabulary(_opened(tmp_path))


def test_one_flipped_bit_is_refused(published: bytes) -> None:
    flipped = bytearray(published)
    flipped[1000] ^= 1
    with pytest.raises(VocabularyError, match="SHA-256"):
        verify_vocabulary(bytes(flipped), "a copy")


def _added(token: int, content: str) -> dict[str, Any]:
    return {"id": token, "content": content, "special": True, "normalized": False}


PUBLISHED_SPECIALS = [
    _added(199998, "<|startoftext|>"), _added(199999, "<|endoftext|>"), _added(200000, "<|reserved_200000|>"),
    _added(200002, "<|return|>"), _added(200003, "<|constrain|>"), _added(200005, "<|channel|>"),
    _added(200006, "<|start|>"), _added(200007, "<|end|>"), _added(200008, "<|message|>"), _added(200012, "<|call|>"),
    _added(200017, "<|reserved_200017|>"), _added(200018, "<|endofprompt|>"), _added(201087, "<|reserved_201087|>"),
]  # fmt: skip


def _with_added(directory: Path, tokenizer_json: dict[str, Any], added: object) -> Path:
    body = {**tokenizer_json, "added_tokens": added}
    (directory / "tokenizer.json").write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    return directory


def test_harmonys_special_tokens_are_taken(tmp_path: Path, published: bytes, tokenizer_json: dict[str, Any]) -> None:
    assert load_vocabulary(_opened(_with_added(tmp_path, tokenizer_json, PUBLISHED_SPECIALS))) == published


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        (_added(200013, "<|im_start|>"), r"'<\|im_start\|>' as token 200013, which is <\|reserved_200013\|>"),
        (_added(200006, "<|im_start|>"), r"'<\|im_start\|>' as token 200006, which is <\|start\|>"),
        (_added(201088, "<pad>"), "'<pad>' as token 201088, which o200k_harmony does not have"),
        (_added(17, "<pad>"), "'<pad>' as token 17, which o200k_harmony does not have"),
        ({"content": "<pad>"}, "'<pad>' as token -1"),
        ("<pad>", "'<pad>' as token -1"),
    ],
    ids=["reserved-renamed", "harmony-renamed", "beyond", "within", "no-id", "no-object"],
)
def test_a_token_of_its_own_is_refused_by_name(added: object, fault: str, tmp_path: Path) -> None:
    """Before the vocabulary is compared, which takes longer."""
    with pytest.raises(VocabularyError, match=fault):
        load_vocabulary(_opened(_with_added(tmp_path, {"model": {"vocab": {}}}, [*PUBLISHED_SPECIALS, added])))


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt"])
def test_a_tokenizer_without_its_main_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(VocabularyError, match=rf"tokenizer\.json is missing, but {name} is there"):
        load_vocabulary(_opened(tmp_path))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
    ],
    ids=["lfs", "html"],
)
def test_a_file_in_place_of_the_tokenizer_is_named(data: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(VocabularyError, match=fault):
        load_vocabulary(_opened(tmp_path))


def test_a_dangling_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to("../../blobs/0123")
    with pytest.raises(VocabularyError, match=r"is a link to \.\./\.\./blobs/0123, which is absent"):
        load_vocabulary(_opened(tmp_path))


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError) as refusal:
        load_vocabulary(_opened(tmp_path))
    words = str(refusal.value)
    assert f"{tmp_path / 'tokenizer.json'} is missing: nothing says with which tokens the model was trained" in words
    assert "copy the tokenizer.json of the model that it was made from" in words
    assert len(words.splitlines()) == 1


def test_neither_does_an_adapter_without_one_help(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"tokenizer\.json is missing: nothing says"):
        load_vocabulary(_opened(tmp_path / "base", tmp_path / "style"))


def test_the_tokenizer_of_the_adapter_counts(tmp_path: Path, published: bytes, tokenizer_json: dict[str, Any]) -> None:
    for name in ("base", "style"):
        (tmp_path / name).mkdir()
    _with_added(tmp_path / "style", tokenizer_json, PUBLISHED_SPECIALS)
    assert load_vocabulary(_opened(tmp_path / "base", tmp_path / "style")) == published


def test_an_adapter_cannot_change_the_tokenizer_of_its_base(tmp_path: Path, tokenizer_json: dict[str, Any]) -> None:
    for name in ("base", "style"):
        (tmp_path / name).mkdir()
    _with_added(tmp_path / "base", tokenizer_json, PUBLISHED_SPECIALS)
    _with_added(tmp_path / "style", tokenizer_json, [_added(200013, "<|im_start|>")])
    with pytest.raises(VocabularyError, match=r"style/tokenizer\.json: its tokenizer differs"):
        load_vocabulary(_opened(tmp_path / "base", tmp_path / "style"))


def test_only_a_checkpoint_of_our_own_writer_may_do_without(small_checkpoint: Path, published: bytes) -> None:
    assert not (small_checkpoint / "tokenizer.json").exists()
    assert json.loads((small_checkpoint / "config.json").read_bytes())["harmony_vocabulary"] == "o200k_harmony"
    assert load_vocabulary(open_checkpoint(small_checkpoint)) == published


def test_a_statement_hides_no_other_tokenizer(tmp_path: Path) -> None:
    _with_added(tmp_path, {"model": {"vocab": {}}}, [_added(200013, "<|im_start|>")])
    with pytest.raises(VocabularyError, match="its tokenizer differs from o200k_harmony"):
        load_vocabulary(_opened(tmp_path, states=True))
