"""Harmony as a grammar over token ids: which tokens may come next in a turn, so that no header can be malformed.

    turn    := header text (<|end|> <|start|> "assistant" header text)*      ends with <|return|> or <|call|>
    header  := <|channel|> "analysis" | "commentary" | "final" ..            see `HarmonyGrammar`
    text    := ordinary tokens

Reasoning and preambles end with <|end|>, a final with <|return|>, a call with <|call|>; no other special token stands
in a text. Only offered functions can be called. Names and words are spelt by bytes: every token that continues one of
the spellings is allowed, however the model cuts the words into tokens. docs/decisions/0007 says why this grammar.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from appliance.engine.constraint import NONE, Constraint, constraint_of
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
from appliance.engine.json_text import JsonTexts
from appliance.engine.token_mask import ListedTokens, State
from appliance.turns.request import TurnRequest

_MAX_GRAMMARS = 32  # prepared and kept: programs offer the same functions again and again
_ROLE = ROLE.encode()


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
    def mask(self) -> ListedTokens:
        ids = sorted({*self._part.tokens_after(self._spelt), *self._part.ends.get(self._spelt, ())})
        return ListedTokens(np.array(ids, np.int64), excludes=False)

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

    with analysis in place of commentary in the last two. Where a function must be called, there is no final. Where the
    answer is held to a schema, there is no commentary without a recipient, because clients would read it as a part of
    the answer.
    """

    def __init__(
        self, vocabulary: Vocabulary, functions: Sequence[str], constraint: Constraint = NONE,
        texts: JsonTexts | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            texts: makes the texts that are held; used only if ``constraint`` has any.
        Raises:
            SchemaError: text cannot be held to a schema.
        """
        self._vocabulary = vocabulary
        self._texts = texts or JsonTexts(vocabulary)
        begin: dict[int, State] = {}  # filled below, because the graph is a loop: one message follows another
        between = self._part({b"": begin}).spelling(b"")
        thought, calls = _Text(END, between), self._calls(functions, constraint)
        channels: dict[bytes, dict[int, State]] = {b"analysis": {MESSAGE: thought}}
        if constraint.answer is None:
            channels[b"commentary"] = {MESSAGE: thought}
        if not constraint.must_call:
            channels |= self._typed(b"final", self._text(constraint.answer, RETURN))
        for channel in (b"analysis", b"commentary"):
            for recipient, call in calls.items():
                channels |= self._typed(channel + recipient, call)
        of_call = {call: self._any_channel_of(call) for call in set(calls.values())}
        any_channel = self._part(channels).spelling(b"")
        role = self._part(
            {_ROLE: {CHANNEL: any_channel}, **{_ROLE + to: {CHANNEL: of_call[call]} for to, call in calls.items()}}
        )
        begin[START] = role.spelling(b"")
        self.start: State = role.spelling(_ROLE)

    def _any_channel_of(self, call: State) -> State:
        """After the recipient of a call, which stood before the channel."""
        return self._part({**self._typed(b"analysis", call), **self._typed(b"commentary", call)}).spelling(b"")

    def _calls(self, functions: Sequence[str], constraint: Constraint) -> dict[bytes, State]:
        """For each recipient as it is spelt, the text of the call."""
        free, held = _Text(CALL, None), dict(constraint.arguments)
        texts = {grammar: self._text(grammar, CALL) for grammar in set(held.values())}  # compiled once each
        names = [name for name in functions if not constraint.must_call or name in constraint.must_call]
        return {f" to={FUNCTIONS}{name}".encode(): texts[held[name]] if name in held else free for name in names}

    def _text(self, grammar: str | None, end: int) -> State:
        """The text of a message that ends the turn."""
        return _Text(end, None) if grammar is None else self._texts.held(grammar, end, None)

    def _part(self, ends: Mapping[bytes, Mapping[int, State]]) -> _Part:
        return _Part(self._vocabulary, ends)

    def _typed(self, words: bytes, text: State) -> dict[bytes, dict[int, State]]:
        """These words, with or without a content type."""
        json = self._part({b"json": {MESSAGE: text}}).spelling(b"")
        return {words: {MESSAGE: text}, words + b" ": {CONSTRAIN: json}}


class HarmonyGrammars:
    """Grammars by what they offer and hold; those used last are kept. May be called from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._texts = JsonTexts(vocabulary)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[tuple[str, ...], Constraint], HarmonyGrammar] = OrderedDict()  # held under _lock
        self.begun: State = _LastText(RETURN)  # inside a final message that the prompt has begun
        self.bare: State = _LastText(RETURN, END_OF_TEXT)  # inside a text without Harmony

    def of(self, request: TurnRequest) -> State | None:
        """The first state of a turn; None if it is held to nothing.

        A bare text is always held to its form, because nothing would put its special tokens right.

        Raises:
            SchemaError: as `HarmonyGrammar`.
        """
        if request.form == "text":
            return self.bare
        constraint = constraint_of(request)
        if not request.grammar and constraint == NONE:
            return None
        if request.continues:
            return self.begun
        return self.start([tool.name for tool in request.tools], constraint)

    def start(self, functions: Sequence[str], constraint: Constraint = NONE) -> State:
        """The first state of a turn."""
        key = (tuple(functions), constraint)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = HarmonyGrammar(self._vocabulary, functions, constraint, self._texts)
            self._kept.move_to_end(key)
            while len(self._kept) > _MAX_GRAMMARS:
                self._kept.popitem(last=False)
            return self._kept[key].start


def _all_but_special(*allowed: int) -> ListedTokens:
    ids = (token for token in range(ORDINARY_TOKENS, ALL_TOKENS) if token not in allowed)
    return ListedTokens(np.fromiter(ids, np.int64), excludes=True)


def _bytes(vocabulary: Vocabulary, token: int) -> bytes:
    piece = vocabulary.token_bytes(token)
    if piece is None:
        raise _forbidden(token)
    return piece


def _forbidden(token: int) -> RuntimeError:
    return RuntimeError(f"internal error: the grammar has no token {token} here")
