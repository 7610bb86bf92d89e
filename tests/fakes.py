"""Fakes that implement a real interface, shared by all tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

import numpy as np

from appliance.attachments.formats.any_file import read_file
from appliance.attachments.formats.refused import UnreadableError
from appliance.attachments.wire import ReadFile, Refusal
from appliance.engine.client import EngineClient
from appliance.engine.model import ModelError
from appliance.engine.sampling import TopLogits
from appliance.engine.snapshots import Snapshot, Windows
from appliance.engine.steps import Append, Chunk
from appliance.engine.wire import StatusRequest, decode, encode
from appliance.turns.engine import (
    Answered,
    CountRequest,
    Question,
    Status,
    TextRequest,
    TokenCount,
    Tokens,
    TokensRequest,
    TokenText,
)
from appliance.turns.events import AnswerDelta, Done, Failed, ReasoningDelta, Started, TurnEvent, Waiting
from appliance.turns.request import TurnRequest
from tests.waiting import HELD_S

FAKE_STATUS = Status(
    model="gpt-oss-fake", release="0.0.1", accelerator="cpu", context_tokens=4096, slots=2, active=0, queued=0
)

Script = Callable[[TurnRequest], Iterable[TurnEvent]]
HALF = (Started(prompt_tokens=20, queued_s=0.0), AnswerDelta("Half "))


def done(**changes: object) -> Done:
    """A ``Done`` with small, plausible figures."""
    figures: dict[str, object] = {
        "finish_reason": "stop",
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "reasoning_tokens": 3,
        "cached_tokens": 0,
        "queued_s": 0.0,
        "prefill_s": 0.01,
        "decode_s": 0.02,
        "token_ids": (35644, 200008, 976),
    }
    return Done(**{**figures, **changes})  # type: ignore[arg-type]


def echo(request: TurnRequest) -> Iterable[TurnEvent]:
    """Reason briefly, then repeat the last message in two pieces."""
    text = request.messages[-1].content if request.messages else ""
    middle = len(text) // 2
    yield Started(prompt_tokens=20, queued_s=0.0)
    yield ReasoningDelta("The user said something; I repeat it.")
    yield AnswerDelta("You said: " + text[:middle])
    yield AnswerDelta(text[middle:])
    yield done()


def other_half(_: TurnRequest) -> Iterable[TurnEvent]:
    yield AnswerDelta("and all of it")
    yield done()


class Gate:
    """An engine's script that yields ``first``, and ``rest(request)`` once ``go_on`` is set."""

    def __init__(self, first: Sequence[TurnEvent] = HALF, rest: Script = other_half) -> None:
        self.go_on = threading.Event()
        self._first, self._rest = first, rest

    def script(self, request: TurnRequest) -> Iterable[TurnEvent]:
        yield from self._first
        self.go_on.wait(HELD_S)
        yield from self._rest(request)


def characters(question: Question) -> Answered | Failed:
    """Answers a question about tokens as if each character were one, numbered by its code."""
    if isinstance(question, TextRequest):
        return TokenText("".join(chr(number) if number < 0xD800 else "\ufffd" for number in question.ids))
    text = "".join(message.content for message in question.request.messages)
    if isinstance(question, CountRequest):
        return TokenCount(len(text), FAKE_STATUS.context_tokens)
    return Tokens(tuple(map(ord, text)), FAKE_STATUS.context_tokens, tuple(text) if question.with_texts else ())


class InProcessReader:
    """Reads files as the reader does, but in this process and without its confinement."""

    def read(self, name: str, data: bytes, *, max_chars: int) -> ReadFile | Refusal:
        try:
            return read_file(name, data, max_chars)
        except UnreadableError as exc:
            return Refusal(exc.code)


class FakeEngine:
    """The engine's side of the real protocol. It answers each turn with what ``script(request)`` yields.

    A script may wait on an event of the test's own between two events of the protocol. ``requests`` holds every turn
    that arrived; ``cancelled`` the ids of those whose client went away before their last event.

        with FakeEngine() as engine:
            with engine.client.turn(request) as events: ...
    """

    def __init__(self, script: Script = echo, status: Status | None = FAKE_STATUS) -> None:
        """``status=None`` leaves status requests unanswered, like an engine that is still loading."""
        self.script = script
        self.status = status
        self.requests: list[TurnRequest] = []
        self.questions: list[Question] = []
        self.answer: Callable[[Question], Answered | Failed] = characters
        self.cancelled: list[str] = []
        self.doorbell, self._engine_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client = EngineClient(self.doorbell)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._acceptor = threading.Thread(target=self._accept, name="fake-engine", daemon=True)
        self._acceptor.start()

    def die(self) -> None:
        """Drop every running turn, as a killed engine does."""
        with self._lock:
            for turn in self._open:
                turn.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._engine_end.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self.die()
        self._engine_end.close()
        self.doorbell.close()

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            payload, descriptors, _flags, _address = socket.recv_fds(self._engine_end, 1, 1)
            if not payload:
                return
            turn = socket.socket(fileno=descriptors[0])
            with self._lock:
                self._open.add(turn)
            threading.Thread(target=self._serve, args=(turn,), name="fake-turn", daemon=True).start()

    def _serve(self, turn: socket.socket) -> None:
        with turn, turn.makefile("rb") as lines:
            try:
                line = lines.readline()
                request = decode(line) if line else None
                if isinstance(request, StatusRequest) and self.status is not None:
                    with contextlib.suppress(OSError):  # on a loaded machine the client may have given up
                        turn.sendall(encode(self.status))
                elif isinstance(request, StatusRequest):
                    lines.readline()  # until the client gives up
                elif isinstance(request, TokensRequest | CountRequest | TextRequest):
                    self.questions.append(request)
                    with contextlib.suppress(OSError):  # the page that asked may have gone
                        turn.sendall(encode(self.answer(request)))
                elif isinstance(request, TurnRequest):
                    self.requests.append(request)
                    self._play(turn, request)
            finally:
                with self._lock:
                    self._open.discard(turn)

    def _play(self, turn: socket.socket, request: TurnRequest) -> None:
        for event in self.script(request):
            said = event.queued if isinstance(event, Waiting) else event
            if said is None:  # the client makes its own
                continue
            try:
                gone = turn.recv(1, socket.MSG_DONTWAIT) == b""
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            try:
                if not gone:
                    turn.sendall(encode(said))
            except OSError:
                gone = True
            if gone:
                self.cancelled.append(request.id)
                return
            if isinstance(event, Done | Failed):
                return


CHUNK_TOKENS = 128  # a fake model's chunk of prefill
CACHE_PAGE = 16  # and how many positions take memory together


class FakeModel:
    """What the scheduler needs of a model, without arithmetic: it continues each known prompt with its reply.

    It keeps what each slot has been given and refuses what would corrupt a real cache: a gap, a token beyond the
    capacity, or one that sees in a windowed layer what is no longer there. ``steps`` records what it did: ("prefill",
    slot, tokens), ("decode", count, slots) or ("copy", target, tokens). A mixed step is a decode and a prefill.
    """

    def __init__(
        self, replies: Mapping[tuple[int, ...], Sequence[int]], *, slots: int, capacity: int = 4096,
        windows: Windows | None = None, copies: bool = True, mixes: bool = True,
        takes_drafts: bool = False, cache_tokens: int | None = None,
    ) -> None:  # fmt: skip
        self.replies = {tuple(prompt): list(reply) for prompt, reply in replies.items()}
        self.slots = slots
        self.capacity = capacity
        self.cache_bytes = slots * self.slot_bytes(capacity) if cache_tokens is None else self.slot_bytes(cache_tokens)
        self.taken = [0] * slots  # positions with memory, of each slot
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self.windows = windows
        self.copies, self.mixes, self.takes_drafts = copies, mixes, takes_drafts
        self.arithmetic = "none"
        self.rings: list[dict[int, tuple[int, int]]] = [{} for _ in range(slots)]  # place: position and token
        self.steps: list[tuple[str, int, int | list[int]]] = []
        self.fail_next: set[str] = set()  # "prefill", "decode", "decoded" (after it has written), "step"

    def slot_bytes(self, held: int) -> int:
        return 100 * (held + -held % CACHE_PAGE)

    def give_back(self, slot: int, kept: int) -> None:
        self.steps.append(("give back", slot, kept))
        self.taken[slot] = min(self.taken[slot], kept)
        del self.held[slot][kept:]
        self.rings[slot] = {place: held for place, held in self.rings[slot].items() if place < kept}

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range:
        return range(past, min(length, past + min(CHUNK_TOKENS, most or CHUNK_TOKENS)))

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None:
        self.steps.append(("prefill", slot, len(tokens)))
        self._fail("prefill")
        self._append(slot, past, tokens)
        return self._next(slot) if want_logits else None

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        slots = [append.slot for append in appends]
        assert self.takes_drafts or len(set(slots)) == len(slots), "two tokens of one slot"
        self.steps.append(("decode", len(slots), slots))
        self._fail("decode")
        tops = []
        for before, append in zip([Append(-1, 0, 0), *appends], appends, strict=False):
            is_draft = before.slot == append.slot
            assert not is_draft or append.length == before.length + 1, "a draft elsewhere"
            self._append(append.slot, append.length, [append.token])
            tops.append(self._next(append.slot, is_draft=is_draft))
        self._fail("decoded")
        return tops

    def step(self, appends: Sequence[Append], chunk: Chunk | None) -> tuple[list[TopLogits], TopLogits | None]:
        assert self.mixes
        assert chunk is not None
        assert chunk.slot not in [append.slot for append in appends]
        tops = self.decode(appends)
        self._fail("step")
        return tops, self.prefill(chunk.slot, chunk.tokens, chunk.past, want_logits=chunk.want_logits)

    def take_snapshot(self, slot: int, first: int, end: int) -> Snapshot:
        assert self.windows is not None
        places = [position % self.windows.ring for position in range(first, end)]
        return Snapshot(first, end, {place: self.rings[slot][place] for place in places})

    def copy_prefix(self, source: int, target: int, length: int, snapshot: Snapshot | None) -> None:
        self.steps.append(("copy", target, length))
        self._take(target, length)
        self.held[target] = self.held[source][:length]
        if self.windows is not None:
            kept = snapshot or self.take_snapshot(source, self.windows.first_seen(length), length)
            saved: dict[int, tuple[int, int]] = kept.saved  # type: ignore[assignment]
            self.rings[target] |= saved

    def _take(self, slot: int, positions: int) -> None:
        self.taken[slot] = max(self.taken[slot], positions)
        assert sum(map(self.slot_bytes, self.taken)) <= self.cache_bytes, "more memory than there is"

    def _append(self, slot: int, past: int, tokens: Sequence[int]) -> None:
        assert past <= len(self.held[slot]), "a gap in the cache"
        assert past + len(tokens) <= self.capacity, "beyond the cache"
        self._take(slot, past + len(tokens))
        self.held[slot][past:] = tokens
        if self.windows is None:
            return
        assert len(tokens) + self.windows.size - 1 <= self.windows.ring, "a chunk overwrites what its first token sees"
        ring = self.rings[slot]
        for position in range(self.windows.first_seen(past), past):
            assert ring[position % self.windows.ring] == (position, self.held[slot][position]), "another's window"
        for position, token in enumerate(tokens, past):
            ring[position % self.windows.ring] = (position, token)

    def _next(self, slot: int, *, is_draft: bool = False) -> TopLogits:
        """What follows. After a draft that is wrong, anything may."""
        held = tuple(self.held[slot])
        prompt = max((p for p in self.replies if held[: len(p)] == p), key=len)
        given, reply = held[len(prompt) :], self.replies[prompt]
        follows = given == tuple(reply[: len(given)])
        assert follows or is_draft, "another's tokens"
        token = reply[len(given)] if follows and len(given) < len(reply) else 7
        ids, logits = np.array([token, token ^ 1]), np.array([30, -30], np.float32)
        return TopLogits(ids, logits, 30.0, 2, lambda: logits)

    def _fail(self, kind: str) -> None:
        if kind in self.fail_next:
            self.fail_next.remove(kind)
            raise ModelError("the fake fails as told")
