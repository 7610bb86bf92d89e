"""Text that is held to a JSON Schema while it is drawn: a state of the grammar for each place in it.

llguidance says which tokens may come next. Where the schema leaves a choice, that is every token that continues some
fitting text; where it leaves none, the tokens into which the vocabulary cuts what must come. The special token that
ends the message may come where the text is complete, and nowhere else. The library bounds the work for a token; a
schema that needs more of it ends the turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from appliance.engine.harmony import ALL_TOKENS, ORDINARY_TOKENS, Vocabulary
from appliance.engine.json_schema import SchemaError, compile_grammar
from appliance.engine.token_mask import State, TokenBits
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_EOS: Final = ORDINARY_TOKENS  # stands for every special token that may end a text
_BITS: Final = 32
_TOKENIZER_WORDS: Final = -(-(ORDINARY_TOKENS + 1) // _BITS)
_ALL_WORDS: Final = -(-ALL_TOKENS // _BITS)


class ConstraintError(ApplianceError):
    """The schema needs more work than a token may take; the text may be shown to the user."""


class JsonTexts:
    """Makes texts that are held to schemas, for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def held(self, grammar: str, end: int, follows: State | None) -> State:
        """The beginning of a text. It compiles the grammar, for some milliseconds.

        Args:
            grammar: what `appliance.engine.json_schema.grammar_of` gives.
            end: the special token that ends the text.
            follows: the state after it; None: the turn is over.
        Raises:
            SchemaError: text cannot be held to it.
        """
        try:
            return _HeldText(compile_grammar(grammar, _tokenizer(self._vocabulary)), end, follows)
        except ConstraintError as exc:
            raise SchemaError("is too large or too complex") from exc


@cache
def _tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """Made by the first turn that needs it, in 0.7 s and 70 MB, and kept as long as the process."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Tokens(vocabulary)), slices=LLTokenizer.json_slices())


class _Tokens:
    """The vocabulary as `llguidance.TokenizerWrapper` wants it."""

    bos_token_id = None
    eos_token_id = _EOS
    special_token_ids = (_EOS,)

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._encode: Callable[[str], list[int]] = vocabulary.encode
        pieces = (vocabulary.token_bytes(token) or b"" for token in range(ORDINARY_TOKENS))
        self.tokens = [*pieces, b"\xff<end>"]  # 0xff begins the names of special tokens there

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


class _HeldText:
    """The beginning of a text. It is never changed, so any number of turns may begin here."""

    def __init__(self, beginning: LLMatcher, end: int, follows: State | None) -> None:
        self._beginning = beginning
        self._end = end
        self._follows = follows
        self.mask = self._inside().mask

    def after(self, token: int) -> State:
        return self._inside().after(token)

    def _inside(self) -> _Inside:
        return _Inside(self._beginning.deep_copy(), self._end, self._follows)


class _Inside:
    """A place in one turn's text. `after` changes the matcher, so the state before is of no use any more."""

    def __init__(self, matcher: LLMatcher, end: int, follows: State | None) -> None:
        self._matcher = matcher
        self._end = end
        self._follows = follows

    @cached_property
    def mask(self) -> TokenBits:
        words = np.zeros(_ALL_WORDS, np.int32)
        row = words[:_TOKENIZER_WORDS]
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._matcher.is_error():
            raise ConstraintError("The schema of the answer or call is too complex to go on; please simplify it.")
        complete = bool(words[_EOS // _BITS] >> (_EOS % _BITS) & 1)
        words[_EOS // _BITS] &= ~np.int32(1 << _EOS % _BITS)
        if complete:
            words.view(np.uint32)[self._end // _BITS] |= np.uint32(1 << self._end % _BITS)
        return TokenBits(words)

    def after(self, token: int) -> State:
        if token == self._end and self._matcher.is_accepting():
            return self._follows or self
        if token >= ORDINARY_TOKENS or not self._matcher.consume_token(token):
            raise RuntimeError(f"internal error: the schema has no token {token} here")
        return _Inside(self._matcher, self._end, self._follows)
