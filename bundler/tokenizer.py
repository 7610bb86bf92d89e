"""The vocabulary file of a release: ``o200k_base.tiktoken``, byte for byte as OpenAI published it.

It is rebuilt from the ``tokenizer.json`` of the checkpoint and of the adapter. A checkpoint without one is refused:
nothing would show with which tokens the model was trained. Only checkpoints that our own writer made state in their
config.json that they use gpt-oss's; the file then comes from the package ``oss-harmony``. Bytes with another SHA-256
than the published one are refused, whatever their source. So are special tokens that are not Harmony's: a release
serves o200k_harmony, and would misread a model that was trained with other tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from bundler.checkpoint import Checkpoint
from bundler.checkpoints.recognise import refuse_by_content
from bundler.errors import CheckpointError, VocabularyError
from installer.formats.fields import FormatError
from installer.formats.vocabulary import RANKS, check_digest

TOKENIZER = "tokenizer.json"
_FIRST_SPECIAL, _END_SPECIAL = RANKS, 201_088  # ids of o200k_harmony's special tokens
_OF_BASE = {200_018: "<|endofprompt|>"}  # o200k_base's name, which published tokenizers have; Harmony has no use for it
_OTHERS = ("tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")


def load_vocabulary(checkpoint: Checkpoint) -> bytes:
    """The vocabulary file for a checkpoint, from its tokenizer, from its adapter's, or as its config.json states it.

    Raises:
        VocabularyError: there is no tokenizer.json, one is unreadable, or one is not the published vocabulary.
    """
    directories = [checkpoint.directory, *([checkpoint.adapter.directory] if checkpoint.adapter else [])]
    paths = [directory / TOKENIZER for directory in directories if _has_tokenizer(directory)]
    for path in paths:
        vocabulary = verify_vocabulary(_vocabulary_file(_tokens_of_checkpoint(path)), str(path))
    if paths:
        return vocabulary
    if checkpoint.config.states_vocabulary:
        return published_vocabulary()
    raise VocabularyError(
        f"{checkpoint.directory / TOKENIZER} is missing: nothing says with which tokens the model was trained; "
        "copy the tokenizer.json of the model that it was made from (openai/gpt-oss-20b or gpt-oss-120b) beside it"
    )


def published_vocabulary() -> bytes:
    """The vocabulary file as the package ``oss-harmony`` has it.

    Raises:
        VocabularyError: the package has another one.
    """
    return verify_vocabulary(_vocabulary_file(_tokens_of_package()), "the oss-harmony package")


def _has_tokenizer(directory: Path) -> bool:
    """Whether a directory has a tokenizer.json; one without any file of a tokenizer has none.

    Raises:
        VocabularyError: there are other files of a tokenizer, so tokenizer.json was lost or never was.
    """
    path = directory / TOKENIZER
    if path.exists() or path.is_symlink():
        return True
    if other := next((name for name in _OTHERS if (directory / name).exists()), None):
        raise VocabularyError(f"{path} is missing, but {other} is there; expected the tokenizer.json beside it")
    return False


def verify_vocabulary(vocabulary: bytes, source: str) -> bytes:
    """The same bytes, now known to be the published vocabulary.

    Raises:
        VocabularyError: their SHA-256 is another.
    """
    try:
        check_digest(hashlib.sha256(vocabulary).hexdigest())
    except FormatError as exc:
        raise VocabularyError(f"{source}: {exc}") from exc
    return vocabulary


def _vocabulary_file(tokens: Sequence[bytes]) -> bytes:
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def _tokens_of_package() -> list[bytes]:
    # The public decode() returns text, but a single token is often not valid UTF-8: the inner object has the bytes.
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)._inner
    return [bytes(encoding.decode_bytes([rank])) for rank in range(RANKS)]


def _tokens_of_checkpoint(path: Path) -> list[bytes]:
    """Tokens by rank from the byte-level BPE vocabulary of a Hugging Face tokenizer.json."""
    body = _tokenizer_of_checkpoint(path)
    ranks = _ranks(body, path)
    _refuse_other_specials(body, path)
    by_rank = {rank: token for token, rank in ranks.items()}
    missing = next((rank for rank in range(RANKS) if rank not in by_rank), None)
    if missing is not None:
        raise VocabularyError(f"{path}: no token has rank {missing}; expected ranks 0 to {RANKS - 1}")
    byte_of = {character: byte for byte, character in enumerate(_byte_alphabet())}
    try:
        return [bytes(byte_of[character] for character in by_rank[rank]) for rank in range(RANKS)]
    except KeyError as exc:
        raise VocabularyError(f"{path}: {exc.args[0]!r} stands for no byte; expected a byte-level vocabulary") from exc


def _tokenizer_of_checkpoint(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        _refuse_by_content(path)
        raise VocabularyError(f"{path}: unreadable ({exc!r}); expected a Hugging Face tokenizer.json") from exc
    if not isinstance(body, dict):
        raise VocabularyError(f"{path}: unreadable (no object); expected a Hugging Face tokenizer.json")
    return body


def _refuse_by_content(path: Path) -> None:
    try:
        refuse_by_content(path)
    except CheckpointError as exc:
        raise VocabularyError(str(exc)) from exc


def _ranks(body: dict[str, Any], path: Path) -> dict[str, int]:
    model = body.get("model")
    ranks = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(ranks, dict) or not all(type(rank) is int for rank in ranks.values()):
        raise VocabularyError(f'{path}: "model.vocab" is not an object of ranks; expected a BPE vocabulary')
    return ranks


def _refuse_other_specials(body: dict[str, Any], path: Path) -> None:
    """Refuse a token that was added to the vocabulary and is not Harmony's."""
    inner = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)._inner
    names = {token: inner.decode_utf8([token]) for token in range(_FIRST_SPECIAL, _END_SPECIAL)}
    added = body.get("added_tokens") or []
    for entry in added if isinstance(added, list) else [added]:
        token, content = _id_and_content(entry)
        known = names.get(token)
        if known is None or content not in (known, _OF_BASE.get(token)):
            there = (
                f"which is {known} in o200k_harmony" if known else "which o200k_harmony does not have as a special one"
            )
            raise VocabularyError(
                f"{path}: its tokenizer differs from o200k_harmony: it has {content!r:.60} as token {token}, {there}; "
                "expected a model that was trained with gpt-oss's own tokenizer"
            )


def _id_and_content(entry: Any) -> tuple[int, Any]:
    """Of an added token; -1 where it has no id."""
    if not isinstance(entry, dict):
        return -1, entry
    token = entry.get("id")
    return token if type(token) is int else -1, entry.get("content")


def _byte_alphabet() -> list[str]:
    """The character that stands for each byte in byte-level BPE, as GPT-2 introduced it.

    Printable Latin-1 characters stand for themselves. The other bytes, in order, take the code points from 256 on.
    """
    themselves = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    alphabet: list[str] = []
    shifted = 256
    for byte in range(256):
        alphabet.append(chr(byte if byte in themselves else shifted))
        shifted += byte not in themselves
    return alphabet
