"""Harmony as a grammar over token ids: which tokens may come next in a turn, so that no header can be malformed.

    turn    := header text (<|end|> <|start|> "assistant" header text)*      ends with <|return|> or <|call|>
    header  := <|channel|> "analysis" | "commentary" | "final" ..            see `HarmonyGrammar`
    text    := ordinary tokens

Reasoning and preambles end with <|end|>, a final with <|return|>, a call with <|call|>; no other special token stands
in a text. Only offered functions can be called. Names and words are spelt by bytes: every token that continues one of
the spellings is allowed, however the model cuts the words into tokens. docs/decisions/0007 says why this grammar.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from appliance.engine.harmony import (
    ALL_TOKENS,
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    END_OF_TEXT,
    FUNCTIONS,
    MESSAGE,
    ORDINARY_TOKENS,
    RETURN,
    ROLE,
    START,
    Vocabulary,
)
from appliance.engine.sampling import TokenMask

_MAX_GRAMMARS = 32  # prepared and kept: programs offer the same functions again and again
_ROLE = ROLE.encode()


class State(Protocol):
    """Where a turn stands: which tokens may come next, and where each leads."""

    @property
    def mask(self) -> TokenMask: ...

    def after(self, token: int) -> State:
        """Raises RuntimeError for a token that the mask forbids."""


class _Text:
    """Inside a message: any ordinary token, or the special token that ends it."""

    def __init__(self, end: int, follows: State | None) -> None:
        self.mask = _all_but_special(end)
        self._end = end
        self._follows = follows  # None: the turn is over

    def after(self, token: int) -> State:
        if token < ORDINARY_TOKENS:
            return self
        if token != self._end:
            raise _forbidden(token)
        return self._follows or self


class _LastText:
    """Inside the last text of a turn: any ordinary token, or one of the special tokens that end it."""

    def __init__(self, *ends: int) -> None:
        self.mask = _all_but_special(*ends)

    def after(self, token: int) -> State:
        if not self.mask.permits(token):
            raise _forbidden(token)
        return self


class _Spelling:
    """Inside a header, between two special tokens: ``spelt`` is the beginning of a word of ``part``."""

    def __init__(self, part: _Part, spelt: bytes) -> None:
        self._part = part
        self._spelt = spelt

    @cached_property
    def mask(self) -> TokenMask:
        ids = sorted({*self._part.tokens_after(self._spelt), *self._part.ends.get(self._spelt, ())})
        return TokenMask(np.array(ids, np.int64), excludes=False)

    def after(self, token: int) -> State:
        ends = self._part.ends.get(self._spelt, {})
        if token in ends:
            return ends[token]
        return self._part.spelling(self._spelt + _bytes(self._part.vocabulary, token))


@dataclass
class _Part:
    """A part of a header without special tokens.

    words: every allowed text, sorted. ends: for each text, the special tokens that may follow and where they lead.
    """

    vocabulary: Vocabulary
    ends: Mapping[bytes, Mapping[int, State]]

    def __post_init__(self) -> None:
        self._words = sorted(self.ends)
        self._spellings: dict[bytes, _Spelling] = {}

    def spelling(self, spelt: bytes) -> _Spelling:
        """Raises RuntimeError if no word begins with it."""
        if spelt not in self._spellings:
            if not any(True for _ in self._from(spelt)):
                raise RuntimeError(f"internal error: {spelt!r} is no part of a header")
            self._spellings[spelt] = _Spelling(self, spelt)
        return self._spellings[spelt]

    def tokens_after(self, spelt: bytes) -> list[int]:
        """Every ordinary token that continues ``spelt`` towards a word."""
        seen: set[bytes] = set()
        for word in self._from(spelt):
            for end in range(len(word), len(spelt), -1):
                piece = word[len(spelt) : end]
                if piece in seen:  # and so are all its beginnings
                    break
                seen.add(piece)
        pieces = self.vocabulary.header_pieces
        return [pieces[piece] for piece in seen if piece in pieces]

    def _from(self, spelt: bytes) -> Iterator[bytes]:
        for word in self._words[bisect_left(self._words, spelt) :]:
            if not word.startswith(spelt):
                return
            yield word


class HarmonyGrammar:
    """The grammar of turns to which ``functions`` are offered. ``start``: the state after ``<|start|>assistant``.

    A header is one of these; [ ] may be left out:

        <|channel|>analysis<|message|>          <|channel|>commentary<|message|>
        <|channel|>final[ <|constrain|>json]<|message|>
        <|channel|>commentary to=functions.NAME[ <|constrain|>json]<|message|>
         to=functions.NAME<|channel|>commentary[ <|constrain|>json]<|message|>

    with analysis in place of commentary in the last two.
    """

    def __init__(self, vocabulary: Vocabulary, functions: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        begin: dict[int, State] = {}  # filled below, because the graph is a loop: one message follows another
        between = self._part({b"": begin}).spelling(b"")
        recipients = [f" to={FUNCTIONS}{name}".encode() for name in functions]
        thought, call = _Text(END, between), _Text(CALL, None)
        final = _Text(RETURN, None)
        channels: dict[bytes, dict[int, State]] = {b"analysis": {MESSAGE: thought}, b"commentary": {MESSAGE: thought}}
        channels |= self._typed(b"final", final)
        addressed: dict[bytes, dict[int, State]] = {}
        for channel in (b"analysis", b"commentary"):
            addressed |= self._typed(channel, call)
            for recipient in recipients:
                channels |= self._typed(channel + recipient, call)
        any_channel, of_call = self._part(channels).spelling(b""), self._part(addressed).spelling(b"")
        role = self._part(
            {_ROLE: {CHANNEL: any_channel}, **{_ROLE + recipient: {CHANNEL: of_call} for recipient in recipients}}
        )
        begin[START] = role.spelling(b"")
        self.start: State = role.spelling(_ROLE)

    def _part(self, ends: Mapping[bytes, Mapping[int, State]]) -> _Part:
        return _Part(self._vocabulary, ends)

    def _typed(self, words: bytes, text: State) -> dict[bytes, dict[int, State]]:
        """These words, with or without a content type."""
        json = self._part({b"json": {MESSAGE: text}}).spelling(b"")
        return {words: {MESSAGE: text}, words + b" ": {CONSTRAIN: json}}


class HarmonyGrammars:
    """Grammars by the functions they offer; those used last are kept.

    begun: the state inside a final message that the prompt has begun. bare: that of a text without Harmony.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._kept: OrderedDict[tuple[str, ...], HarmonyGrammar] = OrderedDict()
        self.begun: State = _LastText(RETURN)
        self.bare: State = _LastText(RETURN, END_OF_TEXT)

    def start(self, functions: Sequence[str]) -> State:
        """The first state of a turn."""
        key = tuple(functions)
        if key not in self._kept:
            self._kept[key] = HarmonyGrammar(self._vocabulary, functions)
        self._kept.move_to_end(key)
        while len(self._kept) > _MAX_GRAMMARS:
            self._kept.popitem(last=False)
        return self._kept[key].start


def _all_but_special(*allowed: int) -> TokenMask:
    ids = (token for token in range(ORDINARY_TOKENS, ALL_TOKENS) if token not in allowed)
    return TokenMask(np.fromiter(ids, np.int64), excludes=True)


def _bytes(vocabulary: Vocabulary, token: int) -> bytes:
    piece = vocabulary.token_bytes(token)
    if piece is None:
        raise _forbidden(token)
    return piece


def _forbidden(token: int) -> RuntimeError:
    return RuntimeError(f"internal error: the grammar has no token {token} here")
