"""The ``logprobs`` of a choice of /v1/completions: four lists, each with one entry for a token.

Source: OpenAI API reference, "The completion object" (legacy). A token that is no text by itself, such as a part of an
emoji, is spelt as OpenAI spells it: ``bytes:\\xf0\\x9f``.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from appliance.turns.events import Likelihood, TokenLogprob


class TextLogprobs:
    """Draws the tokens of one choice, at once or in pieces: ``text_offset`` counts on from piece to piece."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0  # whole characters so far

    def draw(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The lists for the next tokens."""
        return {
            "tokens": [_spelt(one.token) for one in tokens],
            "token_logprobs": [one.token.logprob for one in tokens],
            "top_logprobs": [_likeliest(one) for one in tokens],
            "text_offset": [self._pass(one.token) for one in tokens],
        }

    def _pass(self, token: Likelihood) -> int:
        """Where the token begins in the text: at its first character, or at the one that it goes on with."""
        begins = self._offset
        self._offset += len(self._utf8.decode(bytes(token.bytes)))
        return begins


def _likeliest(one: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens, and the one that was drawn if it is not among them."""
    return {_spelt(other): other.logprob for other in (*one.top, one.token)}


def _spelt(one: Likelihood) -> str:
    try:
        return bytes(one.bytes).decode() or one.text  # a special token has no bytes
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in one.bytes)
