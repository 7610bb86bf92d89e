"""Walks at random through text that is held to a schema: what a model without any sense could write."""

from __future__ import annotations

import random
from typing import Any

import jsonschema

from appliance.engine.harmony import RETURN, Vocabulary
from appliance.engine.json_schema import grammar_of
from appliance.engine.json_text import JsonTexts

_VOCAB = 201_088
CLOSING = ('"', '",', '":', '"}', '{"', '["', *"}],07:{[ -.e", "null", "true")


def walk(
    texts: JsonTexts, vocabulary: Vocabulary, schema: dict[str, Any], rng: random.Random, *, most: int = 300
) -> str | None:
    """One text that the schema permits, by permitted tokens drawn at random; None if it is longer than ``most``.

    Tokens that close something are preferred, and so is the end, because pure noise hardly ever ends.
    """
    state, tokens = texts.held(grammar_of(schema, strict=True), RETURN, None), list[int]()
    closing = [token for text in CLOSING for token in vocabulary.encode(text)]
    while len(tokens) < most:
        permitted = state.mask.permitted(_VOCAB)
        if state.mask.permits(RETURN) and (rng.random() < 0.7 or len(permitted) == 1):
            return b"".join(vocabulary.token_bytes(token) or b"" for token in tokens).decode()
        near = [token for token in closing if state.mask.permits(token)]
        others = permitted[permitted != RETURN]
        tokens.append(rng.choice(near) if near and rng.random() < 0.5 else int(others[rng.randrange(len(others))]))
        state = state.after(tokens[-1])
    return None


def fits(value: object, schema: dict[str, Any]) -> bool:
    """By a library that has nothing to do with the one that holds text to schemas."""
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))
