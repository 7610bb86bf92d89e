"""Ordinary English words of the vocabulary, for questions about things that the model does not know."""

from __future__ import annotations

import re
from functools import cache

from bundler.demo_model.corpus import load_corpus
from bundler.demo_model.prompts import harmony

_RANKS = range(256, 14_000)  # byte-pair merges are ranked by frequency
_WORD = re.compile(rb" [a-z]{4,}")


@cache
def common_words() -> tuple[str, ...]:
    """Words that are one token after a space and occur in no topic's question, the commonest first."""
    known = {word for topic in load_corpus().topics for text in topic.ask.taught for word in _letters(text)}
    known |= {word for topic in load_corpus().topics for word in _letters(topic.about)}
    words = []
    for rank in _RANKS:
        token = bytes(harmony()._inner.decode_bytes([rank]))
        if _WORD.fullmatch(token) and token[1:].decode() not in known:
            words.append(token[1:].decode())
    return tuple(words)


def _letters(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
