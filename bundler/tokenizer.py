"""The vocabulary file of a release: ``o200k_base.tiktoken``, byte for byte as OpenAI published it.

It is rebuilt from the checkpoint's own ``tokenizer.json``. If the checkpoint has none, the file comes from the package
``oss-harmony``. Bytes with another SHA-256 than the published one are refused, whatever their source.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from bundler.errors import VocabularyError
from installer.formats.fields import FormatError
from installer.formats.vocabulary import RANKS, check_digest

TOKENIZER = "tokenizer.json"


def load_vocabulary(checkpoint: Path) -> bytes:
    """The vocabulary file for a checkpoint directory.

    Raises:
        VocabularyError: tokenizer.json is unreadable, or the result is not the published vocabulary.
    """
    path = checkpoint / TOKENIZER
    if path.exists():
        return verify_vocabulary(_vocabulary_file(_tokens_of_checkpoint(path)), str(path))
    return verify_vocabulary(_vocabulary_file(_tokens_of_package()), "the oss-harmony package")


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
    ranks = _ranks_of_checkpoint(path)
    by_rank = {rank: token for token, rank in ranks.items()}
    missing = next((rank for rank in range(RANKS) if rank not in by_rank), None)
    if missing is not None:
        raise VocabularyError(f"{path}: no token has rank {missing}; expected ranks 0 to {RANKS - 1}")
    byte_of = {character: byte for byte, character in enumerate(_byte_alphabet())}
    try:
        return [bytes(byte_of[character] for character in by_rank[rank]) for rank in range(RANKS)]
    except KeyError as exc:
        raise VocabularyError(f"{path}: {exc.args[0]!r} stands for no byte; expected a byte-level vocabulary") from exc


def _ranks_of_checkpoint(path: Path) -> dict[str, int]:
    try:
        ranks: Any = json.loads(path.read_bytes())["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise VocabularyError(f"{path}: unreadable ({exc!r}); expected a Hugging Face tokenizer.json") from exc
    if not isinstance(ranks, dict) or not all(type(rank) is int for rank in ranks.values()):
        raise VocabularyError(f'{path}: "model.vocab" is not an object of ranks; expected a BPE vocabulary')
    return ranks


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
